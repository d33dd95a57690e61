//! The peer itself and the way to it: what no limit of the kernel explains.

use std::net::SocketAddr;

use super::{
    Change, Step, capitalized,
    holders::Holders,
    limit::{blank, milliseconds},
    place::{enter, look_at_activation, restart_of},
};
use crate::{
    inventory::{Owner, Server},
    verdict::{
        finding::Finding,
        report::{ListenerReport, Report},
    },
};

/// Workers of which all that costs nothing is looked at.
const LOOKED_AT: usize = 3;

fn step(finding: &Finding, what: String, why: String, commands: Vec<String>) -> Step {
    Step { what, why, commands, ..blank(finding.cause) }
}

/// A clause as a sentence.
fn sentence(clause: &str) -> String {
    format!("{}.", capitalized(clause))
}

fn place(finding: &Finding) -> String {
    let addr = finding.listener.map(|id| id.addr.to_string());
    finding.upstream.clone().or(addr).unwrap_or_else(|| "the peer".to_owned())
}

/// The host's address as a command takes it.
fn host(finding: &Finding) -> String {
    let upstream = finding.upstream.as_deref().and_then(|upstream| upstream.parse().ok());
    let addr: Option<SocketAddr> = upstream.or(finding.listener.map(|id| id.addr));
    let addr = addr.filter(|addr| !addr.ip().is_unspecified());
    addr.map_or_else(|| "PEER".to_owned(), |addr| addr.ip().to_canonical().to_string())
}

/// Its port as a filter expression takes it.
fn port(finding: &Finding) -> String {
    let upstream = finding.upstream.as_deref().and_then(|upstream| upstream.parse().ok());
    let addr: Option<SocketAddr> = upstream.or(finding.listener.map(|id| id.addr));
    addr.map_or_else(|| "PORT".to_owned(), |addr| addr.port().to_string())
}

/// What those who should accept are doing instead.
pub(super) fn look_at(holders: &Holders<'_>) -> Vec<String> {
    let activation = holders.activation.into_iter().flat_map(look_at_activation);
    let Some(owner) = holders.first().filter(|owner| owner.pid != 1) else {
        let activation: Vec<String> = activation.collect();
        let nobody = || vec!["ss -ltnp  # who listens there".to_owned()];
        return if activation.is_empty() { nobody() } else { activation };
    };
    let files: Vec<String> = holders
        .workers
        .iter()
        .take(LOOKED_AT)
        .map(|worker| format!("/proc/{0}/status /proc/{0}/wchan", worker.pid))
        .collect();
    let files = format!("cat {}  # is it stopped, does it wait?", files.join(" "));
    let mut commands: Vec<String> = activation.chain([files]).chain(stacks(owner)).collect();
    if holders.activation.is_none() {
        commands.extend(restart_of(owner));
    }
    commands
}

/// Shows where a process is, and lets it go on.
fn stacks(owner: &Owner) -> Option<String> {
    let pid = owner.pid;
    Some(match owner.server {
        Some(Server::Tornado | Server::Gunicorn | Server::Uvicorn | Server::Hypercorn)
        | Some(Server::Aiohttp | Server::Waitress | Server::Python) => {
            format!("py-spy dump --nonblocking --pid {pid}")
        }
        Some(Server::Tomcat | Server::Jetty | Server::Java) => format!("jstack {pid}"),
        // A signal would show the stacks and end the process.
        Some(Server::Go) => {
            "# its goroutines: /debug/pprof/goroutine?debug=2, if it serves that".into()
        }
        Some(Server::Dotnet) => format!("dotnet-stack report -p {pid}"),
        Some(Server::Systemd) => return None,
        _ => format!(
            "gdb -p {pid} -batch -ex 'thread apply all backtrace'  # stops it while it prints"
        ),
    })
}

pub(super) fn not_accepting(finding: &Finding, listener: Option<&ListenerReport>) -> Step {
    let holders = Holders::of(listener.map(|listener| &listener.listener));
    let mut step = step(
        finding,
        format!(
            "Make the application at {} accept: nothing is lost, but all connections wait.",
            place(finding)
        ),
        sentence(&finding.because),
        look_at(&holders),
    );
    if let Some(id) = finding.listener {
        let pid = holders.first().map(|owner| owner.pid);
        step.changes.push(Change::Accept { listener: id, pid, per_second: None });
    }
    step
}

pub(super) fn refused(report: &Report, finding: &Finding) -> Step {
    let at = place(finding);
    let port = port(finding);
    let enter = from_proxy(report, finding);
    let mut step = step(
        finding,
        format!("Start the application at {at}, or change the address in the proxy."),
        format!("Failed attempts: {}; {}.", finding.harm.failed_attempts, finding.because),
        vec![format!("{enter}ss -ltnp 'sport = :{port}'  # on the peer's host, in its namespace")],
    );
    step.changes.push(Change::Listen { at });
    step
}

pub(super) fn path_loss(report: &Report, finding: &Finding) -> Step {
    let at = place(finding);
    let (host, port) = (host(finding), port(finding));
    let from = from_proxy(report, finding);
    let to = finding.listener.map(|id| enter(report, id.netns, None)).unwrap_or_default();
    let filters = format!("{from}nft list ruleset");
    let filters = if to == from { filters } else { format!("{filters}; {to}nft list ruleset") };
    step(
        finding,
        format!("Find out where segments to {at} are lost: the listener lost none."),
        sentence(&finding.because),
        vec![
            format!("{from}ip route get {host}; {from}ip neigh show {host}"),
            format!("{filters}  # rules that drop, on both sides"),
            format!("{from}conntrack -S  # insert_failed, drop"),
            format!("{to}tcpdump -ni any 'tcp port {port} and tcp[tcpflags] & tcp-syn != 0'"),
        ],
    )
}

pub(super) fn unreachable(report: &Report, finding: &Finding) -> Step {
    let (from, host) = (from_proxy(report, finding), host(finding));
    step(
        finding,
        format!("Give the proxy's namespace a route to {host}."),
        sentence(&finding.because),
        vec![format!("{from}ip route get {host}"), format!("{from}ip route show table all")],
    )
}

pub(super) fn unresponsive(report: &Report, finding: &Finding) -> Step {
    let (from, host) = (from_proxy(report, finding), host(finding));
    step(
        finding,
        format!("Start the host of {} again, or remove it from the proxy's group.", place(finding)),
        format!(
            "{} The host or its interface is down, or the address is no longer on this link.",
            sentence(&finding.because)
        ),
        vec![
            format!("{from}ip route get {host}; {from}ip neigh show"),
            "ip -br link; ip -br addr  # on the peer's host".to_owned(),
        ],
    )
}

pub(super) fn rejected(report: &Report, finding: &Finding) -> Step {
    let (from, host) = (from_proxy(report, finding), host(finding));
    step(
        finding,
        format!("Find the rule that rejects connections to {}.", place(finding)),
        sentence(&finding.because),
        vec![
            format!("{from}nft list ruleset; {from}iptables-save  # look for reject"),
            format!("{from}tcpdump -ni any -c 20 'icmp or icmp6'  # who rejects it"),
            format!("{from}ip route get {host}"),
        ],
    )
}

/// What stands before a command so that it runs where the proxy does.
fn from_proxy(report: &Report, finding: &Finding) -> String {
    finding.proxy_netns.map(|netns| enter(report, netns, None)).unwrap_or_default()
}

pub(super) fn closed(finding: &Finding) -> Step {
    step(
        finding,
        format!("Find out why {} closes connections without an answer.", place(finding)),
        format!(
            "{} A worker that dies or is killed leaves a line in its log. If the application \
             closes idle connections earlier than the proxy, it can close one just before the \
             next request.",
            sentence(&finding.because)
        ),
        vec![
            "# nginx: keepalive_timeout of the upstream below the application's idle timeout"
                .to_owned(),
            "dmesg | grep -i 'killed process'; journalctl -u UNIT --since -10min".to_owned(),
        ],
    )
}

pub(super) fn failed(finding: &Finding) -> Step {
    step(
        finding,
        format!(
            "Fix the error responses of {}; its connections and queues are healthy.",
            place(finding)
        ),
        sentence(&finding.because),
        vec![
            "# nginx: without http_5xx in proxy_next_upstream an error response does not mark the \
             peer"
                .to_owned(),
        ],
    )
}

pub(super) fn slow(finding: &Finding) -> Step {
    let took = finding.harm.longest_ms.map(|ms| format!(" The longest took {}.", milliseconds(ms)));
    step(
        finding,
        format!("Make {} answer faster, or increase the proxy's timeout.", place(finding)),
        format!("{}{}", sentence(&finding.because), took.unwrap_or_default()),
        vec![
            "# nginx: proxy_read_timeout; HAProxy: timeout server; Envoy: route timeout".to_owned(),
        ],
    )
}

pub(super) fn elsewhere(finding: &Finding) -> Step {
    step(
        finding,
        format!("Run floodmark on the host of {} too.", place(finding)),
        sentence(&finding.because),
        vec!["floodmark diagnose --duration 60s  # there".to_owned()],
    )
}
