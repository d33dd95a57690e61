use std::{fs, path::Path};

use super::*;

/// 2026-11-20T19:47:55Z
const READ_AT: UnixMs = UnixMs(1_795_204_075_000);

fn event(line: &str) -> Option<ProxyEvent> {
    parse(line.as_bytes(), READ_AT, "test")
}

fn line(message: &str, fields: &str) -> String {
    format!("2026/11/20 19:47:51 [error] 12#13: *7 {message}, client: 127.0.0.1, {fields}")
}

const HTTP: &str =
    r#"server: a.test, request: "GET /x HTTP/1.1", upstream: "http://10.0.0.2:80/x""#;

fn corpus(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/corpora/nginx").join(name)
}

/// The events of a log, one a line: number of the log's line, pid, connection, event, upstream.
fn events_of(name: &str) -> String {
    let bytes = fs::read(corpus(name)).unwrap();
    let lines = bytes.split(|byte| *byte == b'\n').zip(1..);
    lines.filter_map(|(line, at)| Some(told(at, &parse(line, READ_AT, name)?))).collect()
}

fn told(at: usize, event: &ProxyEvent) -> String {
    let kind = match event.kind {
        EventKind::AttemptFailed { phase, failure } => match failure {
            Failure::Errno { errno } => format!("attempt_failed {phase:?} {errno}"),
            other => format!("attempt_failed {phase:?} {other:?}"),
        },
        EventKind::PeerMarked { phase } => format!("peer_marked {phase:?}"),
        EventKind::NoLivePeers => "no_live_peers".to_owned(),
    };
    let (pid, connection) = (event.pid.unwrap(), event.connection.unwrap());
    format!("{at} {pid} {connection} {kind} {}\n", event.upstream)
}

/// Logs that real nginx programs wrote. The expected events beside each were reviewed line by line;
/// in `debian-injection.log` two failed attempts were cut before the upstream's field.
#[test]
fn finds_each_event_of_the_corpora() {
    for name in [
        "1.12.2",
        "1.30.4",
        "debian-1.22.1",
        "debian-connect-timeouts",
        "debian-injection",
        "debian-lua-balancer",
        "debian-tls",
    ] {
        let expected = fs::read_to_string(corpus(&format!("{name}.events"))).unwrap();
        let found = events_of(&format!("{name}.log"));
        for (found, expected) in found.lines().zip(expected.lines()) {
            assert_eq!(found, expected, "{name}.log");
        }
        assert_eq!(found.lines().count(), expected.lines().count(), "{name}.log");
    }
}

/// Clients tried to plant 6.6.6.6 as a peer by URI, Host and Referer.
#[test]
fn takes_no_planted_upstream() {
    let events = events_of("debian-injection.log");
    assert!(events.contains(" 127.0.0.1:9002\n"), "{events}");
    assert!(!events.contains("6.6.6.6"), "{events}");
}

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
        kind: EventKind::PeerMarked { phase: Phase::Connect },
        upstream: Upstream::Inet("10.0.0.2:80".parse().unwrap()),
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
fn stamps_are_local_time_of_any_zone() {
    for (stamp, ahead_ms) in [
        ("2026/11/20 19:47:51", 4000),
        ("2026/11/20 11:47:51", 4000),
        ("2026/11/21 01:32:51", 4000),
        ("2026/11/20 19:47:56", -1000),
    ] {
        let at = time_of(stamp.as_bytes(), READ_AT).unwrap();
        assert_eq!(READ_AT.0 as i64 - at.0 as i64, ahead_ms, "{stamp}");
    }
    assert_eq!(time_of(b"2026/13/40 19:47:51", READ_AT), None);
}

/// Whatever the bytes, the parser returns.
#[test]
fn survives_any_truncation_and_damage() {
    let whole = line("upstream server temporarily disabled while connecting to upstream", HTTP);
    for length in 0..whole.len() {
        let _ = parse(&whole.as_bytes()[..length], READ_AT, "test");
        let mut damaged = whole.clone().into_bytes();
        damaged[length] = 0xff;
        let _ = parse(&damaged, READ_AT, "test");
    }
}
