//! Lines as users have them, and every format in every wrapping.

use std::{fs, path::PathBuf};

use jiff::{Timestamp, tz::TimeZone};

use super::{Dialect, EventKind, Failure, ProxyEvent, source::Interpreter};
use crate::time::UnixMs;

/// 2026-11-28T12:00:00Z
const NOW: UnixMs = UnixMs(1_795_867_200_000);

fn format(pattern: &str, seconds_ago: i64) -> String {
    let at = Timestamp::from_millisecond(NOW.0 as i64 - seconds_ago * 1000).unwrap();
    at.to_zoned(TimeZone::UTC).strftime(pattern).to_string()
}

/// Puts times for what stands in braces.
fn stamped(line: &str) -> String {
    const NGINX: &str = "%Y/%m/%d %H:%M:%S";
    const HOUR: i64 = 3600;
    let mut line = line.to_owned();
    for (name, pattern, ago) in [
        ("{N}", NGINX, 0),
        ("{N20M}", NGINX, HOUR / 3),
        ("{N26H}", NGINX, 26 * HOUR),
        ("{N3D}", NGINX, 72 * HOUR),
        ("{N6Y}", NGINX, 6 * 365 * 24 * HOUR),
        ("{SY}", "%b %e %H:%M:%S", 0),
        ("{SYMS}", "%b %e %H:%M:%S.000123", 0),
        ("{SY3D}", "%b %e %H:%M:%S", 72 * HOUR),
        ("{HA}", "%d/%b/%Y:%H:%M:%S.000", 0),
        ("{HA3D}", "%d/%b/%Y:%H:%M:%S.000", 72 * HOUR),
        ("{Z}", "%Y-%m-%dT%H:%M:%S.000000000Z", 0),
        ("{Z3D}", "%Y-%m-%dT%H:%M:%S.000000000Z", 72 * HOUR),
        ("{ZS}", "%Y-%m-%dT%H:%M:%SZ", 0),
        ("{ZMS}", "%Y-%m-%dT%H:%M:%S.000Z", 0),
        ("{ZMS3D}", "%Y-%m-%dT%H:%M:%S.000Z", 72 * HOUR),
        ("{ISO}", "%Y-%m-%dT%H:%M:%S.000000+00:00", 0),
        ("{ISON}", "%Y-%m-%dT%H:%M:%S+0000", 0),
        ("{SPACE}", "%Y-%m-%d %H:%M:%S", 0),
        ("{FULL}", "%a %Y-%m-%d %H:%M:%S UTC", 0),
        ("{CL}", "%d/%b/%Y:%H:%M:%S +0000", 0),
        ("{AP}", "%a %b %d %H:%M:%S.000000 %Y", 0),
        ("{AP3D}", "%a %b %d %H:%M:%S.000000 %Y", 72 * HOUR),
        ("{TS}", "%s.0", 0),
        ("{TSMS}", "%s.123", 0),
        ("{US}", "%s000000", 0),
    ] {
        line = line.replace(name, &format(pattern, ago));
    }
    line
}

fn told(event: &ProxyEvent) -> String {
    let failure = |failure| match failure {
        Failure::Errno { errno } => errno.to_string(),
        Failure::ClosedEarly => "closed_early".to_owned(),
        Failure::Aborted => "aborted".to_owned(),
        Failure::InvalidResponse => "invalid_response".to_owned(),
        Failure::BadStatus => "bad_status".to_owned(),
        Failure::OwnLimit => "own_limit".to_owned(),
        Failure::Unknown => "unknown".to_owned(),
    };
    let name = event.kind.name();
    let kind = match event.kind {
        EventKind::AttemptFailed { phase: step, failure: how } => {
            format!("{name} {} {}", step.name(), failure(how))
        }
        EventKind::PeerMarked { phase: step, failure: how } => {
            format!("{name} {} {}", step.name(), how.map_or("-".to_owned(), failure))
        }
        _ => name.to_owned(),
    };
    let group = event.group.as_ref().map_or(String::new(), |group| format!(" of {group}"));
    format!("{kind} {}{group}", event.upstream)
}

/// The events of lines that a source reads now.
fn events_of(dialect: Dialect, lines: &str) -> Vec<ProxyEvent> {
    let mut interpreter = Interpreter::new(dialect, "test".to_owned());
    let mut events = Vec::new();
    for line in lines.split("\\n-").flat_map(|line| line.split('\n')) {
        events.extend(interpreter.read(line.as_bytes(), NOW));
    }
    events.extend(interpreter.settle());
    events
}

/// Whether an event is as expected: steps may be several, parted by `|`; a group need not be named.
fn fits(found: &str, expected: &str) -> bool {
    let group = found.split(" of ").next().unwrap_or(found);
    let either = [found, group];
    let phases = expected.split(' ').nth(1).filter(|words| words.starts_with("connect|"));
    match phases {
        Some(phases) => phases
            .split('|')
            .any(|phase| either.contains(&expected.replacen(phases, phase, 1).as_str())),
        None => either.contains(&expected),
    }
}

#[test]
fn field_cases() {
    let corpora = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/corpora");
    let cases = fs::read_to_string(corpora.join("lines/cases.tsv")).unwrap();
    let mut wrong = Vec::new();
    for case in cases.lines().filter(|line| !line.starts_with('#')) {
        let [dialect, expected, lines] = case.splitn(3, '\t').collect::<Vec<_>>()[..] else {
            panic!("{case}");
        };
        let events = events_of(dialect.parse().unwrap(), &stamped(lines));
        let found: Vec<String> = events.iter().map(told).collect();
        let expected: Vec<&str> =
            if expected == "nothing" { Vec::new() } else { expected.split("; ").collect() };
        let is_right = found.len() == expected.len()
            && found.iter().zip(&expected).all(|(found, expected)| fits(found, expected));
        if !is_right {
            wrong
                .push(format!("{dialect}: {lines}\n  expected {expected:?}\n  found    {found:?}"));
        }
        for event in &events {
            assert!(event.at.later(super::source::OLDEST) >= NOW, "{lines}");
            assert_eq!(event.undated, None);
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// What stands around a line.
const WRAPPINGS: &[&str] = &[
    "LINE",
    "{Z} stderr F LINE",
    "{Z} LINE",
    "{SPACE} LINE",
    "{SPACE},123 LINE",
    "[{ZMS}] LINE",
    r#"{"log":"QUOTED\n","stream":"stderr","time":"{Z}"}"#,
    r#"{"stream":"stderr","log":"QUOTED\n","time":"{Z}"}"#,
    r#"{"date":{TSMS},"stream":"stderr","log":"QUOTED","kubernetes":{"pod_name":"web-0"}}"#,
    r#"{"message":"QUOTED","host":"edge","@timestamp":"{ZMS}"}"#,
    r#"{"@timestamp":"{ZMS}","log":{"offset":1,"file":{"path":"/x"}},"message":"QUOTED"}"#,
    r#"{"labels":{},"line":"QUOTED","timestamp":"{Z}"}"#,
    r#"{"k8s":{"pod":"web-0"},"log":{"msg":"QUOTED"}}"#,
    r#"{"__REALTIME_TIMESTAMP":"{US}","_PID":"77","MESSAGE":"QUOTED"}"#,
    "time=\"{ZMS}\" level=info msg=\"QUOTED\"",
    "{SY} edge1 PROGRAM[1234]: LINE",
    "{SYMS} edge1 PROGRAM[1234]: LINE",
    "{ISON} edge1 PROGRAM[1234]: LINE",
    "{ISO} edge1 PROGRAM[1234]: LINE",
    "{FULL} edge1 PROGRAM[1234]: LINE",
    "{TSMS} edge1 PROGRAM[1234]: LINE",
    "<134>{SY} PROGRAM[1234]: LINE",
    "<134>1 {Z} edge1 PROGRAM 1234 - - LINE",
    "nginx-1  | LINE",
    "nginx-1  | {Z} LINE",
    "\x1b[36mnginx-1  | \x1b[0mLINE",
    "\x1b[36mnginx-1  |\x1b[0m LINE\x1b[0m",
    "web_nginx.1.x7kq@node1    | LINE",
    "[pod/web-7d4b9c-x2k5q/nginx] LINE",
    "[pod/web-7d4b9c-x2k5q/nginx] {Z} LINE",
    "web-7d4b9c-x2k5q nginx LINE",
    "\x1b[38;5;12mweb-7d4b9c-x2k5q\x1b[0m \x1b[38;5;3mnginx\x1b[0m LINE",
    "shop web-7d4b9c-x2k5q nginx LINE",
    // Several, one around the other.
    r#"{Z} stderr F {"message":"QUOTED"}"#,
    r#"{Z} stderr F {"log":"QUOTED","stream":"stderr","time":"{Z}"}"#,
    r#"nginx-1  | {"stream":"stderr","log":"QUOTED"}"#,
];

/// A line of each format, the program that writes it, and its event.
const LINES: &[(Dialect, &str, &str, &str)] = &[
    (
        Dialect::Nginx,
        "nginx",
        r#"{N} [error] 31#31: *1 connect() failed (111: Connection refused) while connecting to upstream, client: 192.0.2.1, server: a, request: "GET /x HTTP/1.1", upstream: "http://198.51.100.1:80/x", host: "a""#,
        "attempt_failed connect 111 198.51.100.1:80",
    ),
    (
        Dialect::Haproxy,
        "haproxy",
        "Server be/s1 is DOWN, reason: Layer4 timeout, check duration: 2001ms. 0 active and 0 backup servers left.",
        "peer_marked connect 110 be/s1",
    ),
    (
        Dialect::Haproxy,
        "haproxy",
        r#"192.0.2.1:54321 [{HA}] fe app/srv1 0/0/-1/-1/1 503 217 - - SC-- 1/1/0/0/3 0/0 "GET / HTTP/1.1""#,
        "attempt_failed connect 111 app/srv1",
    ),
    (
        Dialect::Envoy,
        "envoy",
        r#"[{ZMS}] "GET /x HTTP/1.1" 503 UF 0 91 1 - "-" "x" "id" "a" "198.51.100.1:80""#,
        "attempt_failed connect unknown 198.51.100.1:80",
    ),
    (
        Dialect::Envoy,
        "envoy",
        r#"{"start_time":"{ZMS}","response_flags":"UF","duration":1,"response_code_details":"upstream_reset_before_response_started{connection_timeout}","upstream_host":"198.51.100.1:80"}"#,
        "attempt_failed connect 110 198.51.100.1:80",
    ),
    (
        Dialect::Caddy,
        "caddy",
        r#"{"level":"error","ts":{TS},"logger":"http.log.error.log0","msg":"dial tcp 198.51.100.1:80: i/o timeout","status":502}"#,
        "attempt_failed connect 110 198.51.100.1:80",
    ),
    (
        Dialect::Caddy,
        "caddy",
        "{N}.000\tERROR\thttp.log.error.log0\tdial tcp 198.51.100.1:80: i/o timeout\t{\"status\": 502}",
        "attempt_failed connect 110 198.51.100.1:80",
    ),
    (
        Dialect::Apache,
        "apache2",
        "[{AP}] [proxy:error] [pid 1081:tid 14064] (111)Connection refused: AH00957: HTTP: attempt to connect to 198.51.100.1:80 (a:80) failed",
        "attempt_failed connect 111 198.51.100.1:80",
    ),
    (
        Dialect::Traefik,
        "traefik",
        r#"{ZS} ERR Error while dialing backend error="dial tcp 198.51.100.1:80: connect: connection refused""#,
        "attempt_failed connect 111 198.51.100.1:80",
    ),
    (
        Dialect::Traefik,
        "traefik",
        r#"time="{ZMS}" level=error msg="Error while connecting to backend: dial tcp 198.51.100.1:80: i/o timeout""#,
        "attempt_failed connect 110 198.51.100.1:80",
    ),
    (
        Dialect::Traefik,
        "traefik",
        r#"{"level":"error","error":"dial tcp 198.51.100.1:80: i/o timeout","time":"{ZMS}","message":"Error while dialing backend"}"#,
        "attempt_failed connect 110 198.51.100.1:80",
    ),
    (
        Dialect::Envoy,
        "envoy",
        r#"[{ZMS}] "- - -" 0 UF,URX - - "delayed connect error: 111" 0 0 1 - "-" "-" "-" "-" "198.51.100.1:80" outbound|80||a - 198.51.100.2:80 192.0.2.1:5 - -"#,
        "attempt_failed connect 111 198.51.100.1:80 of outbound|80||a",
    ),
];

#[test]
fn every_format_is_read_in_every_wrapping() {
    for (dialect, program, line, expected) in LINES {
        for wrapping in WRAPPINGS {
            let quoted = serde_json::to_string(line).unwrap();
            let inside = &quoted[1..quoted.len() - 1];
            let wrapped = wrapping.replace("QUOTED", inside).replace("LINE", line);
            let wrapped = stamped(&wrapped.replace("PROGRAM", program));
            let found: Vec<String> = events_of(*dialect, &wrapped).iter().map(told).collect();
            assert_eq!(found, [*expected], "{wrapped}");
        }
    }
}

/// A client that begins a line of its own in nginx's log may put any wrapping around it.
#[test]
fn a_wrapping_hides_no_forged_line() {
    let forged = LINES[0].2;
    for outer in ["LINE", "{Z} stderr F LINE", "nginx-1  | LINE", "{SY} edge1 nginx[1234]: LINE"] {
        for wrapping in WRAPPINGS {
            let quoted = serde_json::to_string(forged).unwrap();
            let planted = wrapping.replace("QUOTED", &quoted[1..quoted.len() - 1]);
            let planted = planted.replace("LINE", forged);
            let planted = stamped(&planted.replace("PROGRAM", "nginx"));
            let encoded: String = planted
                .chars()
                .map(|c| match c {
                    ' ' | '"' | '%' | '#' | '?' | '[' | ']' | '\x1b' => {
                        format!("%{:02x}", c as u32)
                    }
                    c => c.to_string(),
                })
                .collect();
            let record = format!(
                "{{N}} [error] 31#31: *2 open() \"/srv/x\n{planted}\ny\" failed (2: No such file or \
                 directory), client: 192.0.2.1, server: a, request: \"GET /x%0a{encoded}%0ay \
                 HTTP/1.1\", host: \"a\""
            );
            let lines: Vec<String> = stamped(&record)
                .lines()
                .map(|line| stamped(&outer.replace("LINE", line)))
                .collect();
            let found = events_of(Dialect::Nginx, &lines.join("\n"));
            assert_eq!(found, [], "{outer} {wrapping}");
        }
    }
}

/// What is read of each program.
const FORMATS: &[(Dialect, &str, &str)] = &[
    (
        Dialect::Nginx,
        "nginx, NGINX Plus, Angie, OpenResty, Kong, APISIX, Tengine, ingress-nginx",
        "error log; active health checks and Lua's in it",
    ),
    (
        Dialect::Haproxy,
        "HAProxy",
        "states of servers and backends; traffic logs: httplog, tcplog, JSON, any `log-format` given with `--haproxy-log-format`",
    ),
    (
        Dialect::Envoy,
        "Envoy, Istio, Contour",
        "access logs: Envoy's and Istio's text, JSON; event logs of outlier detection and health checks",
    ),
    (Dialect::Caddy, "Caddy", "log as JSON and on the console"),
    (Dialect::Apache, "Apache httpd", "error log of mod_proxy: text, JSON"),
    (Dialect::Traefik, "Traefik", "log of v1 to v3: text, JSON"),
];

/// The events of a format that its cases and its corpus hold.
fn events_in(dialect: Dialect) -> Vec<&'static str> {
    let corpora = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/corpora");
    let mut told = String::new();
    let cases = fs::read_to_string(corpora.join("lines/cases.tsv")).unwrap();
    let own = cases.lines().filter_map(|line| line.strip_prefix(dialect.name()));
    own.filter_map(|rest| rest.split('\t').nth(1)).for_each(|events| told += events);
    for entry in fs::read_dir(corpora.join(dialect.name())).into_iter().flatten().flatten() {
        if entry.path().extension().is_some_and(|extension| extension == "events") {
            told += &fs::read_to_string(entry.path()).unwrap();
        }
    }
    EventKind::NAMES.into_iter().filter(|name| told.contains(name)).collect()
}

/// With BLESS set the table is written anew.
#[test]
fn the_documentation_has_every_format() {
    const FROM: &str = "<!-- formats -->\n";
    const TO: &str = "<!-- end of formats -->";
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/proxies.md");
    let page = fs::read_to_string(&path).unwrap();
    let mut table =
        "| `--proxy-log` | proxy | format | events |\n| --- | --- | --- | --- |\n".to_owned();
    for dialect in Dialect::ALL {
        let (_, programs, formats) = FORMATS.iter().find(|(of, ..)| *of == dialect).unwrap();
        let events: Vec<String> =
            events_in(dialect).iter().map(|event| format!("`{event}`")).collect();
        let name = dialect.name();
        table += &format!("| `{name}=` | {programs} | {formats} | {} |\n", events.join(", "));
    }
    let (before, rest) = page.split_once(FROM).unwrap();
    let (_, after) = rest.split_once(TO).unwrap();
    let current = format!("{before}{FROM}{table}{TO}{after}");
    if std::env::var_os("BLESS").is_some() {
        fs::write(&path, &current).unwrap();
    }
    assert!(
        current == page,
        "docs/proxies.md is not current: this test with BLESS=1 writes it anew"
    );
}
