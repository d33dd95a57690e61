//! Files that real programs wrote, read as a source reads them.

use std::{fmt::Write, fs, path::PathBuf, time::Duration};

use super::*;
use crate::{
    proxy::{EventKind, Failure, source::Interpreter, timestamp},
    time::UnixMs,
};

/// Every log of `tests/corpora`.
const LOGS: &[(Dialect, &str)] = &[
    (Dialect::Nginx, "1.12.2"),
    (Dialect::Nginx, "1.30.4"),
    (Dialect::Nginx, "debian-1.22.1"),
    (Dialect::Nginx, "debian-1.22.1-syslog"),
    (Dialect::Nginx, "debian-connect-timeouts"),
    (Dialect::Nginx, "debian-injection"),
    (Dialect::Nginx, "debian-lua-balancer"),
    (Dialect::Nginx, "debian-tls"),
    (Dialect::Nginx, "forged-paths"),
    (Dialect::Haproxy, "debian-2.6"),
    (Dialect::Haproxy, "debian-2.6-health-checks"),
    (Dialect::Haproxy, "3.4.0-syslog"),
    (Dialect::Haproxy, "3.4.0-stderr"),
    (Dialect::Envoy, "1.40-outlier"),
    (Dialect::Envoy, "1.40-access"),
    (Dialect::Envoy, "1.40-access-json"),
    (Dialect::Caddy, "2.11.4"),
    (Dialect::Apache, "debian-2.4"),
];
/// 2026-11-20T20:05:36Z
const NEAR: UnixMs = UnixMs(1_795_205_136_000);

/// The time that a line tells first, whatever its format.
fn time_in(line: &[u8]) -> Option<UnixMs> {
    let is_start = |at: usize| at == 0 || b" [>\":".contains(&line[at - 1]);
    let starts = (0..line.len().min(100)).filter(|at| is_start(*at));
    let mut times = starts.filter_map(|at| timestamp::leading(&line[at..], NEAR));
    Some(times.next()?.0.at)
}

fn corpus(dialect: Dialect, name: &str) -> PathBuf {
    let corpora = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/corpora");
    corpora.join(dialect.name()).join(name)
}

/// The events of a log whose lines are read when they are written, each with the number of its line.
fn events_of(dialect: Option<Dialect>, path: &PathBuf) -> Vec<(usize, ProxyEvent)> {
    let bytes = fs::read(path).unwrap();
    let mut interpreter = Interpreter::new(dialect, "test".to_owned());
    let lines: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').collect();
    let mut events = Vec::new();
    let mut now = NEAR;
    for line in &lines {
        now = time_in(line).map_or(now, |at| at.later(Duration::from_secs(1)));
        events.append(&mut interpreter.read(line, now));
    }
    events.append(&mut interpreter.settle());
    // An event may be sure only when more has been read: its line tells where it stood.
    let mut taken = vec![false; lines.len()];
    let mut number = |event: &ProxyEvent| {
        let told = event.line.as_deref().unwrap_or_default();
        let is_it = |at: &usize| !taken[*at] && String::from_utf8_lossy(lines[*at]).contains(told);
        let at = (0..lines.len()).find(is_it).unwrap();
        taken[at] = true;
        at + 1
    };
    let mut events: Vec<_> = events.into_iter().map(|event| (number(&event), event)).collect();
    events.sort_by_key(|(line, _)| *line);
    events
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
    for (dialect, name) in LOGS {
        let found = events_of(Some(*dialect), &corpus(*dialect, &format!("{name}.log")));
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
    let any = [None].into_iter().chain(Dialect::ALL.map(Some));
    for log in logs.map(|log| log.unwrap().path()).filter(|path| path.is_file()) {
        for dialect in any.clone() {
            let found = events_of(dialect, &log);
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
    for (dialect, name) in LOGS {
        let path = corpus(*dialect, &format!("{name}.log"));
        let named = events_of(Some(*dialect), &path);
        assert_eq!(events_of(None, &path), named, "{name}.log");
    }
}

/// Clients tried to plant 6.6.6.6 as a peer by URI, Host and Referer.
#[test]
fn takes_no_planted_upstream() {
    let events = events_of(Some(Dialect::Nginx), &corpus(Dialect::Nginx, "debian-injection.log"));
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
    let caddy = r#"{"level":"error","ts":1795205136.0,"logger":"http.log.error","msg":"no upstreams available"}"#;
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
        assert_eq!(interpreter.read(line.as_bytes(), NEAR), [], "{line}");
    }
    for (dialect, line) in
        [(Dialect::Haproxy, state), (Dialect::Envoy, envoy), (Dialect::Caddy, caddy)]
    {
        let mut interpreter = Interpreter::new(dialect, "test".to_owned());
        assert_eq!(interpreter.read(line.as_bytes(), NEAR).len(), 1, "{line}");
    }
}
