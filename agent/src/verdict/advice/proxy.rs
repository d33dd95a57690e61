//! The proxy's own side: ports, limits, keepalive, timeouts and how it counts failures.

use super::{
    Change, Step,
    limit::{blank, milliseconds},
    place::sysctl,
};
use crate::{
    proxy::ProxyKind,
    verdict::{
        finding::Finding,
        keepalive::{Sizing, sizings},
        report::Report,
        verdict::Cause,
    },
};

/// The ports that Linux sets aside for connects: 32768 to 60999.
const USUAL_PORTS: u32 = 28_232;
/// A wider range, which begins above the ports of most services.
const WIDE_RANGE: &str = "10240 65535";
/// How many ports that is.
const WIDE_PORTS: u32 = 65_535 - 10_240 + 1;
/// A connect that takes longer has failed, and would be better off with the next peer.
const LONG_CONNECT_MS: u64 = 5000;

/// No local port is left towards a destination.
pub(super) fn ports(report: &Report, finding: &Finding) -> Vec<Step> {
    let netns = finding.proxy_netns;
    let settings = netns.and_then(|netns| report.settings.get(&netns)).map(|known| &known.settings);
    let ports = settings.and_then(crate::kernel::settings::NetnsSettings::ephemeral_ports);
    let to = finding.upstream.as_deref().unwrap_or("the upstream");
    let count = finding.drops.max(finding.harm.failed_attempts);
    let has = ports.map(|ports| format!("{ports} ")).unwrap_or_default();
    let mut steps = Vec::new();
    if let Some(netns) = netns.filter(|_| ports.is_none_or(|ports| ports < WIDE_PORTS)) {
        let wanted = ("net.ipv4.ip_local_port_range", WIDE_RANGE);
        let mut commands = sysctl(report, netns, None, wanted);
        commands.push(
            "# ports above 10240 that services listen on:  net.ipv4.ip_local_reserved_ports"
                .to_owned(),
        );
        steps.push(Step {
            what: format!("Widen the range of {has}ephemeral ports for connects to {to}."),
            why: format!(
                "Connects without a free port: {count}. A closed connection keeps its port for 60 \
                 s."
            ),
            commands,
            changes: vec![Change::Sysctl {
                netns,
                name: wanted.0.to_owned(),
                value: wanted.1.to_owned(),
                listen_again: false,
            }],
            ..blank(Cause::ProxyPortsExhausted)
        });
    }
    let sizing = sizings(&report.links).into_iter().find(|sizing| Some(sizing.netns) == netns);
    let reuse = sizing.map_or_else(
        || Step {
            what: format!("Keep connections to {to} open instead of opening one for each request."),
            why: "A reused connection needs no further port.".to_owned(),
            commands: keepalive_lines(ProxyKind::Nginx, 32),
            ..blank(Cause::ProxyPortsExhausted)
        },
        |sizing| keepalive(&sizing, finding.cause),
    );
    // With the usual range it is the churn that is wrong.
    let place = if ports.is_none_or(|ports| ports >= USUAL_PORTS) { 0 } else { steps.len() };
    steps.insert(place, reuse);
    steps
}

/// The proxy came up against a limit of its own.
pub(super) fn limit(finding: &Finding) -> Step {
    let proxy = finding.harm.proxies.first().copied().unwrap_or(ProxyKind::Nginx);
    let upstream = finding.upstream.clone();
    let (setting, line) = match proxy {
        ProxyKind::Nginx => (
            "max_conns",
            "# nginx: server … max_conns=0 (none), a `queue`, worker_connections, \
             worker_rlimit_nofile",
        ),
        ProxyKind::Haproxy => {
            ("maxconn", "# HAProxy: server … maxconn, timeout queue; global maxconn and ulimit-n")
        }
        ProxyKind::Envoy => (
            "max_requests",
            "# Envoy: circuit_breakers.thresholds: max_connections, max_pending_requests, \
             max_requests",
        ),
        ProxyKind::Caddy => ("max_requests", "# Caddy: reverse_proxy … unhealthy_request_count"),
        ProxyKind::Apache => ("max", "# Apache: ProxyPass … max=, acquire=; MaxRequestWorkers"),
        ProxyKind::Traefik => ("inFlightReq", "# Traefik: middlewares … inFlightReq.amount"),
    };
    Step {
        what: format!(
            "Raise {}'s own limit ({setting}) for {}: the peers are healthy.",
            proxy.name(),
            upstream.as_deref().unwrap_or("this upstream")
        ),
        why: format!(
            "{}; {} requests were refused or failed because of it.",
            finding.because,
            finding.harm.failed_attempts + finding.harm.no_live_peers
        ),
        commands: vec![line.to_owned()],
        changes: vec![Change::Proxy { proxy, upstream, setting: setting.to_owned(), value: None }],
        ..blank(finding.cause)
    }
}

/// What goes with any trouble at connecting, after that itself: fewer connections, sooner failures,
/// fewer markings.
pub(super) fn follow_up(report: &Report, findings: &[Finding]) -> Vec<Step> {
    let Some(finding) = findings.iter().find(|finding| finding.cause.is_overflow()) else {
        return Vec::new();
    };
    let mut steps = Vec::new();
    let port = finding.listener.map(|id| id.addr.port());
    let sizing = sizings(&report.links).into_iter().find(|s| Some(s.to.port()) == port);
    if let Some(sizing) = sizing {
        steps.push(keepalive(&sizing, finding.cause));
    }
    let harm = &finding.harm;
    let proxy = harm.proxies.first().copied();
    let Some(proxy) = proxy.filter(|_| harm.markings + harm.no_live_peers > 0) else {
        return steps;
    };
    let longest = harm.longest_ms.filter(|ms| *ms > LONG_CONNECT_MS);
    let took = longest.map(|ms| format!("An attempt took up to {}. ", milliseconds(ms)));
    let line = match proxy {
        ProxyKind::Nginx => "proxy_connect_timeout 2s;  # default 60s",
        ProxyKind::Haproxy => "timeout connect 2s",
        ProxyKind::Envoy => "connect_timeout: 2s",
        ProxyKind::Caddy => "dial_timeout 2s",
        ProxyKind::Apache => "ProxyPass … connectiontimeout=2",
        ProxyKind::Traefik => "forwardingTimeouts: {dialTimeout: 2s}  # of the serversTransport",
    };
    steps.push(Step {
        what: "Shorten the proxy's connect timeout, so that it tries the next peer earlier."
            .to_owned(),
        why: format!(
            "{}{} attempts failed; a lost SYN is retransmitted after 1 s, and waiting longer \
             rarely helps.",
            took.unwrap_or_default(),
            harm.failed_attempts
        ),
        commands: vec![line.to_owned()],
        ..blank(finding.cause)
    });
    let (what, line) = match proxy {
        ProxyKind::Nginx => {
            ("max_fails", "server ADDR max_fails=5 fail_timeout=2s;  # default 1 and 10s")
        }
        ProxyKind::Haproxy => ("fall and error-limit", "server … check fall 5 error-limit 20"),
        ProxyKind::Envoy => (
            "outlier detection",
            "outlier_detection: {consecutive_gateway_failure: 10, max_ejection_percent: 50}",
        ),
        ProxyKind::Caddy => ("max_fails", "max_fails 5"),
        ProxyKind::Apache => {
            ("retry", "ProxyPass … retry=1  # default 60: seconds out after one failed connect")
        }
        ProxyKind::Traefik => {
            ("passive health check", "passiveHealthCheck: {maxFailedAttempts: 5}")
        }
    };
    let period = report.proxy.cycles.iter().find_map(|cycle| cycle.period_ms);
    let cycle = period.map(|ms| {
        format!(
            " Every {:.0} s all peers are down, and then the traffic returns all at once.",
            ms as f64 / 1e3
        )
    });
    let refused = match harm.no_live_peers {
        0 => String::new(),
        count => format!(" and {count} requests without a live peer"),
    };
    steps.push(Step {
        what: format!("Mark peers as down later ({what}): the application is healthy."),
        why: format!(
            "{} markings{refused} resulted from it.{}",
            harm.markings,
            cycle.unwrap_or_default()
        ),
        commands: vec![line.to_owned()],
        ..blank(finding.cause)
    });
    steps
}

fn keepalive_lines(proxy: ProxyKind, size: u32) -> Vec<String> {
    match proxy {
        ProxyKind::Nginx => vec![
            format!("keepalive {size};  # last in the upstream block, by worker"),
            "proxy_http_version 1.1;  proxy_set_header Connection \"\";  # in its location"
                .to_owned(),
        ],
        ProxyKind::Haproxy => {
            vec!["http-reuse safe".to_owned(), format!("server … pool-max-conn {size}")]
        }
        ProxyKind::Envoy => vec![
            "# Envoy keeps connections unless max_requests_per_connection or idle_timeout end them"
                .to_owned(),
        ],
        ProxyKind::Caddy => vec![format!("keepalive_idle_conns_per_host {size}")],
        ProxyKind::Apache => {
            vec![format!("ProxyPass … enablereuse=on max={size}  # by process")]
        }
        ProxyKind::Traefik => {
            vec![format!("maxIdleConnsPerHost: {size}  # of the serversTransport")]
        }
    }
}

/// Keepalive by measurement, with the rule of thumb beside it.
fn keepalive(sizing: &Sizing, cause: Cause) -> Step {
    let proxy = ProxyKind::ALL.into_iter().find(|kind| sizing.command.starts_with(kind.name()));
    let size = sizing.keepalive;
    let lasting = sizing.mean_lifetime_ms.map(|ms| format!(", each for {ms:.1} ms"));
    let thumb = match sizing.rule_of_thumb {
        Some((low, high)) => format!(
            " The rule of thumb (10 to 30 % of rate × latency) gives {low} to {high}{}.",
            if high < size { ": too few" } else { "" }
        ),
        None => String::new(),
    };
    let workers = match sizing.workers {
        1 => "1 worker".to_owned(),
        workers => format!("{workers} workers"),
    };
    let mut commands = keepalive_lines(proxy.unwrap_or(ProxyKind::Nginx), size);
    commands.push(format!(
        "keepalive_timeout {}s;  # the longest pause between two connections was {}",
        (sizing.longest_pause_ms / 1000 * 2).max(60),
        milliseconds(sizing.longest_pause_ms)
    ));
    Step {
        what: format!(
            "Let {} keep {size} idle connections per worker to port {}.",
            if sizing.command.is_empty() { "the client" } else { &sizing.command },
            sizing.to.port()
        ),
        why: format!(
            "{workers} opened {:.0} connections per second{}; {} of them were unnecessary.{thumb}",
            sizing.opened_per_second,
            lasting.unwrap_or_default(),
            sizing.spared
        ),
        commands,
        changes: vec![Change::Proxy {
            proxy: proxy.unwrap_or(ProxyKind::Nginx),
            upstream: Some(sizing.to.to_string()),
            setting: "keepalive".to_owned(),
            value: Some(size.to_string()),
        }],
        ..blank(cause)
    }
}
