//! Files that real programs wrote, read as a source reads them.

use std::{fmt::Write, fs, path::PathBuf};

use super::*;
use crate::{
    proxy::{EventKind, Failure, source::Interpreter},
    time::UnixMs,
};

/// Every log of `tests/corpora`, with the time at which it was read; lines are written as if in a
/// zone of whole quarter hours from it.
const LOGS: &[(Dialect, &str, u64)] = &[
    (Dialect::Nginx, "1.12.2", NGINX),
    (Dialect::Nginx, "1.30.4", NGINX),
    (Dialect::Nginx, "debian-1.22.1", NGINX),
    (Dialect::Nginx, "debian-1.22.1-syslog", NGINX),
    (Dialect::Nginx, "debian-connect-timeouts", NGINX),
    (Dialect::Nginx, "debian-injection", NGINX),
    (Dialect::Nginx, "debian-lua-balancer", NGINX),
    (Dialect::Nginx, "debian-tls", NGINX),
    (Dialect::Nginx, "forged-paths", FORGED),
    (Dialect::Haproxy, "debian-2.6", HAPROXY),
    (Dialect::Haproxy, "debian-2.6-health-checks", HAPROXY),
    (Dialect::Haproxy, "3.4.0-syslog", HAPROXY),
    (Dialect::Haproxy, "3.4.0-stderr", HAPROXY),
    (Dialect::Envoy, "1.40-outlier", 0),
    (Dialect::Envoy, "1.40-access", 0),
    (Dialect::Envoy, "1.40-access-json", 0),
    (Dialect::Caddy, "2.11.4", 0),
];
/// 2026-11-20T19:47:55Z
const NGINX: u64 = 1_795_204_075_000;
/// 2026-11-28T19:37:12Z
const FORGED: u64 = 1_795_894_632_000;
/// 2026-11-20T20:05:36Z
const HAPROXY: u64 = 1_795_205_136_000;

fn corpus(dialect: Dialect, name: &str) -> PathBuf {
    let corpora = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/corpora");
    corpora.join(dialect.name()).join(name)
}

/// The events of a log, each with the number of its line.
fn events_of(dialect: Option<Dialect>, path: &PathBuf, read_at: u64) -> Vec<(usize, ProxyEvent)> {
    let bytes = fs::read(path).unwrap();
    let mut interpreter = Interpreter::new(dialect, "test".to_owned());
    let lines: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').collect();
    let mut events = Vec::new();
    for line in &lines {
        events.append(&mut interpreter.read(line, UnixMs(read_at)));
    }
    events.append(&mut interpreter.settle());
    // An event may be sure only when more has been read: its line tells where it stood.
    let mut at = 0;
    let mut number = |event: &ProxyEvent| {
        let told = event.line.as_deref().unwrap_or_default();
        let is_it = |line: &&[u8]| String::from_utf8_lossy(line).contains(told);
        at += lines[at..].iter().position(is_it).unwrap_or(0) + 1;
        at
    };
    events.into_iter().map(|event| (number(&event), event)).collect()
}

fn failure_in_words(failure: Failure) -> String {
    match failure {
        Failure::Errno { errno } => errno.to_string(),
        other => format!("{other:?}"),
    }
}

/// Number of the line, pid and connection where there are such, event, upstream, and what else is
/// told.
fn told(line: usize, event: &ProxyEvent) -> String {
    let mut text = line.to_string();
    for number in [event.pid.map(u64::from), event.connection].into_iter().flatten() {
        let _ = write!(text, " {number}");
    }
    let _ = match event.kind {
        EventKind::AttemptFailed { phase, failure } => {
            write!(text, " attempt_failed {phase:?} {}", failure_in_words(failure))
        }
        EventKind::PeerMarked { phase, failure } => {
            let failure = failure.map(failure_in_words);
            write!(
                text,
                " peer_marked {phase:?}{}",
                failure.map_or(String::new(), |f| format!(" {f}"))
            )
        }
        other => write!(text, " {}", other.name()),
    };
    let _ = write!(text, " {}", event.upstream);
    if let Some(group) = &event.group {
        let _ = write!(text, " of {group}");
    }
    if let Some(local) = event.local_addr {
        let _ = write!(text, " from {local}");
    }
    if let Some(took) = event.took_ms {
        let _ = write!(text, " {took}ms");
    }
    text
}

/// The expected events beside each log were reviewed line by line; in `debian-injection.log` two
/// failed attempts were cut before the upstream's field. With BLESS set they are written anew.
#[test]
fn finds_each_event_of_the_corpora_and_no_other() {
    for (dialect, name, read_at) in LOGS {
        let found = events_of(Some(*dialect), &corpus(*dialect, &format!("{name}.log")), *read_at);
        let found: String = found.iter().map(|(line, event)| told(*line, event) + "\n").collect();
        let expected = corpus(*dialect, &format!("{name}.events"));
        if std::env::var_os("BLESS").is_some() {
            fs::write(&expected, &found).unwrap();
        }
        let expected = fs::read_to_string(&expected).unwrap();
        for (found, expected) in found.lines().zip(expected.lines()) {
            assert_eq!(found, expected, "{name}.log");
        }
        assert_eq!(found.lines().count(), expected.lines().count(), "{name}.log");
    }
}

/// Other programs' lines, and other things that proxies say, hold no event but one: the data of
/// fail2ban's tests, which `cargo xtask setup` fetches.
#[test]
fn finds_nothing_in_others_logs() {
    const THE_ONE: &str = "25 76952 5645766 attempt_failed Connect 111 127.0.0.1:3000";
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/tools/others-logs");
    let Ok(logs) = fs::read_dir(&folder) else {
        println!("skipped: there is no {}", folder.display());
        return;
    };
    let any = [None, Some(Dialect::Nginx), Some(Dialect::Haproxy)];
    let any = any.into_iter().chain([Some(Dialect::Envoy), Some(Dialect::Caddy)]);
    for log in logs.map(|log| log.unwrap().path()).filter(|path| path.is_file()) {
        for dialect in any.clone() {
            let found = events_of(dialect, &log, NGINX);
            let found: Vec<String> = found.iter().map(|(line, event)| told(*line, event)).collect();
            let has_one = log.ends_with("nginx-http-auth");
            let is_read = matches!(dialect, None | Some(Dialect::Nginx));
            let expected: &[&str] = if has_one && is_read { &[THE_ONE] } else { &[] };
            assert_eq!(found, expected, "{}, as {dialect:?}", log.display());
        }
    }
}

/// A source that may bring any dialect finds the same.
#[test]
fn a_lines_looks_tell_its_dialect() {
    for (dialect, name, read_at) in LOGS {
        let path = corpus(*dialect, &format!("{name}.log"));
        let named = events_of(Some(*dialect), &path, *read_at);
        assert_eq!(events_of(None, &path, *read_at), named, "{name}.log");
    }
}

/// Clients tried to plant 6.6.6.6 as a peer by URI, Host and Referer.
#[test]
fn takes_no_planted_upstream() {
    let events =
        events_of(Some(Dialect::Nginx), &corpus(Dialect::Nginx, "debian-injection.log"), NGINX);
    let has = |addr| events.iter().any(|(_, event)| event.upstream.to_string().contains(addr));
    assert!(has("127.0.0.1:9002"));
    assert!(!has("6.6.6.6"));
}

/// Who escapes what a client writes needs no look at neighbouring lines: HAProxy writes control
/// characters as `#XX` (`hdr_encode_map`, `url_encode_map` in src/log.c), Envoy takes a path as it was
/// sent and refuses line feeds in headers, JSON has `\\n`.
#[test]
fn what_others_escape_begins_no_line() {
    let state = "Server app/s1 is DOWN, reason: Layer4 timeout, check duration: 300ms.";
    let envoy =
        r#"[2026-11-20T20:10:56.879Z] "GET / HTTP/1.1" 503 UH 0 91 331 - "-" "x" "id" "a" "-""#;
    let caddy =
        r#"{"level":"error","ts":1.0,"logger":"http.log.error","msg":"no upstreams available"}"#;
    let json = |text: &str| serde_json::to_string(&format!("/x\n{text}\n")).unwrap();
    for (dialect, line) in [
        (
            Dialect::Haproxy,
            format!(
                "127.0.0.1:1 [20/Nov/2026:20:05:35.308] fe app/s1 0/0/0/1/1 200 50 - - ---- \
                 1/1/0/0/0 0/0 {{x#0A{state}#0A}} \"GET /x#0A{state}#0A HTTP/1.1\""
            ),
        ),
        (
            Dialect::Envoy,
            format!(
                "[2026-11-20T20:10:56.879Z] \"GET /x%0a{}%0a HTTP/1.1\" 200 - 0 91 331 - \"-\" \
                 \"x\" \"id\" \"a\" \"127.0.0.1:9001\"",
                envoy.replace(' ', "%20").replace('"', "%22")
            ),
        ),
        (
            Dialect::Envoy,
            format!(
                "{{\"start_time\":\"2026-11-20T20:10:56.879Z\",\"response_flags\":\"-\",\
                 \"path\":{}}}",
                json(envoy)
            ),
        ),
        (
            Dialect::Caddy,
            format!(
                "{{\"level\":\"error\",\"ts\":1.0,\"logger\":\"http.log.access\",\"msg\":\
                 \"handled request\",\"request\":{{\"uri\":{}}}}}",
                json(caddy)
            ),
        ),
    ] {
        let mut interpreter = Interpreter::new(dialect, "test".to_owned());
        assert_eq!(line.lines().count(), 1, "{line}");
        assert_eq!(interpreter.read(line.as_bytes(), UnixMs(HAPROXY)), [], "{line}");
    }
    for (dialect, line) in
        [(Dialect::Haproxy, state), (Dialect::Envoy, envoy), (Dialect::Caddy, caddy)]
    {
        let mut interpreter = Interpreter::new(dialect, "test".to_owned());
        assert_eq!(interpreter.read(line.as_bytes(), UnixMs(HAPROXY)).len(), 1, "{line}");
    }
}
