use super::*;
use crate::{
    proxy::event::{EventKind, Failure, Phase, Reading},
    time::UnixMs,
};

/// 2026-11-20T19:47:55Z
const READ_AT: UnixMs = UnixMs(1_795_204_075_000);

fn event(line: &str) -> Option<ProxyEvent> {
    parse(line.as_bytes(), &Carrier::plain("test", READ_AT))
}

fn line(message: &str, fields: &str) -> String {
    format!("2026/11/20 19:47:51 [error] 12#13: *7 {message}, client: 127.0.0.1, {fields}")
}

const HTTP: &str =
    r#"server: a.test, request: "GET /x HTTP/1.1", upstream: "http://10.0.0.2:80/x""#;

#[test]
fn reads_a_marking() {
    let event =
        event(&line("upstream server temporarily disabled while connecting to upstream", HTTP));
    let expected = ProxyEvent {
        at: UnixMs(READ_AT.0 - 4000),
        precision_ms: 1000,
        proxy: ProxyKind::Nginx,
        source: "test".to_owned(),
        pid: Some(12),
        connection: Some(7),
        kind: EventKind::PeerMarked { phase: Phase::Connect, failure: None },
        upstream: Upstream::Inet("10.0.0.2:80".parse().unwrap()),
        group: None,
        peer_addr: None,
        leads_to: Vec::new(),
        path: None,
        local_addr: None,
        took_ms: None,
        trust: crate::proxy::Trust::Verified,
        undated: Some(Reading {
            read_at: READ_AT,
            heard_at: READ_AT,
            stamped: None,
            is_local: true,
        }),
        line: None,
    };
    assert_eq!(event, Some(expected));
}

#[test]
fn reads_the_number_and_not_the_text() {
    for text in ["Connection timed out", "Operation timed out", "Unknown error"] {
        let message =
            format!("upstream timed out (110: {text}) while reading response header from upstream");
        let kind = event(&line(&message, HTTP)).unwrap().kind;
        let failure = Failure::Errno { errno: 110 };
        assert_eq!(kind, EventKind::AttemptFailed { phase: Phase::ResponseHeader, failure });
    }
}

#[test]
fn knows_the_forms_of_an_upstream() {
    let unix = Upstream::Unix("/run/u.sock".to_owned());
    for (field, expected) in [
        ("http://unix:/run/u.sock:/x", unix.clone()),
        ("fastcgi://unix:/run/u.sock:", unix),
        ("http://[fd00::1]:81/x", Upstream::Inet("[fd00::1]:81".parse().unwrap())),
        ("fastcgi://10.0.0.3:9000", Upstream::Inet("10.0.0.3:9000".parse().unwrap())),
        ("grpc://10.0.0.3:9000", Upstream::Inet("10.0.0.3:9000".parse().unwrap())),
    ] {
        let fields = format!(r#"server: , request: "POST / HTTP/2.0", upstream: "{field}""#);
        let message = "connect() failed (111: Connection refused) while connecting to upstream";
        assert_eq!(event(&line(message, &fields)).unwrap().upstream, expected, "{field}");
    }
    let fields = r#"server: 0.0.0.0:7001, upstream: "10.0.0.3:5432", bytes from/to client:0/0"#;
    let message = "upstream timed out (110: Connection timed out) while connecting to upstream";
    let stream = event(&line(message, fields)).unwrap();
    assert_eq!(stream.upstream, Upstream::Inet("10.0.0.3:5432".parse().unwrap()));
}

#[test]
fn names_the_group_without_live_peers() {
    for field in ["http://app/x", "fastcgi://app", "http://app"] {
        let fields = format!(r#"server: , request: "GET /x HTTP/1.1", upstream: "{field}""#);
        let event =
            event(&line("no live upstreams while connecting to upstream", &fields)).unwrap();
        assert_eq!(event.kind, EventKind::NoLivePeers);
        assert_eq!(event.upstream, Upstream::Group("app".to_owned()));
    }
}

#[test]
fn follows_a_subrequest_to_its_upstream() {
    let fields = r#"server: , request: "GET /x HTTP/1.1", subrequest: "/auth", upstream: "http://10.0.0.2:80/auth""#;
    let message = "connect() failed (111: Connection refused) while connecting to upstream";
    assert!(event(&line(message, fields)).is_some());
}

#[test]
fn trusts_no_field_a_client_can_forge() {
    let message = "connect() failed (111: Connection refused) while connecting to upstream";
    let planted = r#"upstream: "http://6.6.6.6:80/"#;
    for fields in [
        // No upstream of nginx's own: the Referer's must not stand in for it.
        format!(r#"server: , request: "GET /x HTTP/1.1", host: "h", referrer: "r", {planted}""#),
        format!(r#"server: , request: "GET /x HTTP/1.1", host: "h", {planted}""#),
    ] {
        assert_eq!(event(&line(message, &fields)), None, "{fields}");
    }
    let in_uri = format!(
        r#"server: , request: "GET /a", {planted} HTTP/1.1", upstream: "http://10.0.0.2:80/", host: "h""#
    );
    let found = event(&line(message, &in_uri)).unwrap().upstream;
    assert_eq!(found, Upstream::Inet("10.0.0.2:80".parse().unwrap()));
}

#[test]
fn a_cut_line_yields_no_planted_peer() {
    let message = "connect() failed (111: Connection refused) while connecting to upstream";
    let mut fields = r#"server: , request: "GET /a", upstream: "http://6.6.6.6:80/"#.to_owned();
    fields.push_str(&"x".repeat(4000));
    let mut cut = line(message, &fields);
    cut.truncate(LONGEST_LINE);
    assert_eq!(event(&cut), None);
}

/// HTTP/0.9 has no version at which the request could be seen to end.
#[test]
fn a_request_without_a_version_has_one_upstream_or_none() {
    let message = "connect() failed (111: Connection refused) while connecting to upstream";
    let plain = r#"server: , request: "GET /a", upstream: "http://10.0.0.2:80/a""#;
    let found = event(&line(message, plain)).unwrap().upstream;
    assert_eq!(found, Upstream::Inet("10.0.0.2:80".parse().unwrap()));
    // The URI comes twice: as the request, and in what it was passed on as.
    let planted = r#"server: , request: "GET /a", upstream: "http://6.6.6.6/", upstream: "http://10.0.0.2:80/a", upstream: "http://6.6.6.6/""#;
    assert_eq!(event(&line(message, planted)), None);
}

#[test]
fn what_a_peer_sent_may_hold_any_words() {
    let quoted = r#"upstream sent invalid header: "X while reading upstream: \x00..." while reading response header from upstream"#;
    let kind = event(&line(quoted, HTTP)).unwrap().kind;
    let failure = Failure::InvalidResponse;
    assert_eq!(kind, EventKind::AttemptFailed { phase: Phase::ResponseHeader, failure });
}

#[test]
fn other_lines_are_no_events() {
    for other in [
        "",
        "Stack trace:",
        "2026/11/20 20:35:04 [warn] 12#12: 64 worker_connections are not enough",
        "2026/11/20 20:35:10 [crit] 12#12: accept4() failed (24: Too many open files)",
        &line("writev() failed (32: Broken pipe) while sending to client", HTTP),
        &line("recv() failed (104: Connection reset by peer) while waiting for request", HTTP),
        &line("upstream server temporarily disabled, so to speak", HTTP),
        &line(r#"access forbidden by rule: "no live upstreams while connecting""#, HTTP),
    ] {
        assert_eq!(event(other), None, "{other}");
    }
}

#[test]
fn a_stamp_that_is_no_time_is_refused() {
    let whole = line("no live upstreams while connecting to upstream", HTTP);
    let wrong = whole.replacen("2026/11/20", "2026/13/40", 1);
    assert_eq!(event(&wrong), None);
}

#[test]
fn own_limits_are_failures_of_the_proxy() {
    let message = "64 worker_connections are not enough while connecting to upstream";
    let failure = Failure::OwnLimit;
    let kind = EventKind::AttemptFailed { phase: Phase::Connect, failure };
    assert_eq!(event(&line(message, HTTP)).unwrap().kind, kind);
    let message = "socket() failed (24: Too many open files) while connecting to upstream";
    let failure = Failure::Errno { errno: 24 };
    let kind = EventKind::AttemptFailed { phase: Phase::Connect, failure };
    assert_eq!(event(&line(message, HTTP)).unwrap().kind, kind);
}

#[test]
fn reads_health_checks_of_others() {
    let frame = |message: &str| format!("2026/11/20 19:47:51 [warn] 12#0: {message}");
    let inet = Upstream::Inet("127.0.0.1:8000".parse().unwrap());
    let marked = |phase, failure| EventKind::PeerMarked { phase, failure };
    for (message, kind) in [
        (
            "*3379 [lua] healthcheck.lua:1107: log(): [healthcheck] (upstream#/apisix/upstreams/1) unhealthy TCP increment (1/2) for '(127.0.0.1:8000)' while connecting to upstream, client: 1.1.1.1",
            EventKind::AttemptFailed { phase: Phase::Connect, failure: Failure::Unknown },
        ),
        (
            "*3379 [lua] healthcheck.lua:1107: log(): [healthcheck] (upstream#/apisix/upstreams/1) unhealthy TIMEOUT increment (2/2) for 'a.b(127.0.0.1:8000)', context: ngx.timer",
            marked(Phase::Other, Some(Failure::TIMEOUT)),
        ),
        (
            "*3379 [lua] healthcheck.lua:1107: [healthcheck] (x) healthy SUCCESS increment (1/1) for '(127.0.0.1:8000)', context: ngx.timer",
            EventKind::PeerBack,
        ),
        (
            "*9 [lua] healthcheck.lua:53: warn(): healthcheck: peer 127.0.0.1:8000 is turned down after 2 failure(s), context: ngx.timer",
            marked(Phase::Other, None),
        ),
        (
            "*9 [lua] healthcheck.lua:53: warn(): healthcheck: peer 127.0.0.1:8000 is turned up after 2 success(es), context: ngx.timer",
            EventKind::PeerBack,
        ),
        ("disable check peer: 127.0.0.1:8000 ", marked(Phase::Other, None)),
        ("enable check peer: 127.0.0.1:8000 ", EventKind::PeerBack),
    ] {
        let event = event(&frame(message)).unwrap_or_else(|| panic!("{message}"));
        assert_eq!((event.kind, event.upstream), (kind, inet.clone()), "{message}");
    }
    for other in [
        "*9 [lua] handler.lua:53: say(): healthcheck: peer 127.0.0.1:8000 is turned down after 2 failure(s)",
        "*3379 [lua] healthcheck.lua:1107: [healthcheck] (x) healthy SUCCESS increment (1/2) for '(127.0.0.1:8000)'",
        "*1 disabled check peer: 127.0.0.1:8000",
    ] {
        assert_eq!(event(&frame(other)), None, "{other}");
    }
}

#[test]
fn a_lua_balancers_placeholder_is_no_peer() {
    let message =
        "connect() to 0.0.0.1:80 failed (101: Network is unreachable) while connecting to upstream";
    let fields = r#"server: _, request: "GET / HTTP/1.1", upstream: "http://0.0.0.1:80/""#;
    assert_eq!(event(&line(message, fields)), None);
}

/// Whatever the bytes, the parser returns.
#[test]
fn survives_any_truncation_and_damage() {
    let whole = line("upstream server temporarily disabled while connecting to upstream", HTTP);
    for length in 0..whole.len() {
        let _ = parse(&whole.as_bytes()[..length], &Carrier::plain("test", READ_AT));
        let mut damaged = whole.clone().into_bytes();
        damaged[length] = 0xff;
        let _ = parse(&damaged, &Carrier::plain("test", READ_AT));
    }
}
