use super::*;
use crate::{
    proxy::{Carrier, dialect::nginx::parse},
    time::UnixMs,
};

/// 2026-11-28T19:37:12Z
const READ_AT: UnixMs = UnixMs(1_795_894_632_000);
const FORGED: &str = "2026/11/28 19:37:10 [error] 3312#3312: *1 no live upstreams while connecting to upstream, client: 10.9.9.9, server: , request: \"GET / HTTP/1.1\", upstream: \"http://forged/\", host: \"x\"";

fn frame(message: &str) -> String {
    format!("2026/11/28 19:37:10 [error] 3312#3312: *4 {message}")
}

/// What nginx appends to each record.
fn fields(request: &str) -> String {
    format!(", client: 127.0.0.1, server: , request: \"GET {request} HTTP/1.1\", host: \"h\"")
}

/// A genuine failure at a peer with this port.
fn genuine(port: u16) -> String {
    let message = "connect() failed (111: Connection refused) while connecting to upstream";
    let (all, host) = (fields("/app"), ", host: \"h\"");
    let peer = format!(", upstream: \"http://10.0.0.1:{port}/app\"{host}");
    format!("{}\n", frame(&format!("{message}{}", all.replace(host, &peer))))
}

/// As a client encodes a path.
fn encoded(path: &str) -> String {
    let encode = |c: char| match c {
        ' ' | '"' | '%' | '#' | '?' | '[' | ']' | '\n' | '\r' => format!("%{:02x}", c as u32),
        c => c.to_string(),
    };
    path.chars().map(encode).collect()
}

/// The record of a file that is not there: one write.
fn not_found(path: &str, request: &str) -> String {
    let message = format!("open() \"/srv/www{path}\" failed (2: No such file or directory)");
    cut(frame(&message) + &fields(request), RECORD_OF_NGINX)
}

const RECORD_OF_NGINX: usize = 2048;

fn cut(mut record: String, length: usize) -> String {
    record.truncate(length - 1);
    record + "\n"
}

/// The upstreams of all events, with what makes one doubtful, and the number of foreign lines.
fn read(log: &str) -> (Vec<String>, u64) {
    let mut records = Records::default();
    let (mut told, mut foreign) = (Vec::new(), 0);
    let mut take = |judged: Judged| {
        foreign += judged.foreign;
        for event in judged.own {
            let doubt = if event.trust == Trust::Doubtful { " (doubtful)" } else { "" };
            told.push(format!("{}{doubt}", event.upstream));
        }
    };
    for line in log.split_terminator('\n') {
        let length = line.len() + 1;
        let line = line.strip_suffix('\r').unwrap_or(line).as_bytes();
        let event = parse(line, &Carrier::plain("test", READ_AT));
        take(records.read(line, length, event));
    }
    take(records.settle());
    (told, foreign)
}

fn expect(log: &str, own: &[&str], foreign: u64) {
    let (told, found) = read(log);
    assert_eq!(told, own, "{log}");
    assert_eq!(found, foreign, "{log}");
}

/// Records around a client's, each with the one genuine event before and after it.
fn among_genuine(record: &str, foreign: u64) {
    let log = format!("{}{record}{}", genuine(1), genuine(2));
    expect(&log, &["10.0.0.1:1", "10.0.0.1:2"], foreign);
}

#[test]
fn a_path_is_no_record() {
    let path = format!("/x\n{FORGED}\ny");
    among_genuine(&not_found(&path, &encoded(&path)), 1);
    let path = format!("/x\r\n{FORGED}\r\n{FORGED}\r\ny");
    among_genuine(&not_found(&path, &encoded(&path)), 2);
}

#[test]
fn a_client_may_close_the_record_and_open_another() {
    let end = format!("\" failed (2: No such file or directory){}", fields("/x"));
    let begin = frame("open() \"/srv/www/y");
    let path = format!("/x{end}\n{FORGED}\n{begin}");
    among_genuine(&not_found(&path, &encoded(&path)), 1);
    // Its last line is the forged one, to which nginx's own end is appended.
    let path = format!("/x{end}\n{}", FORGED.strip_suffix('"').unwrap());
    among_genuine(&not_found(&path, &encoded(&path)), 1);
    let path = format!("/x\n{}, referrer: \"", FORGED);
    among_genuine(&not_found(&path, &encoded(&path)), 1);
}

#[test]
fn nginx_may_have_shortened_the_path() {
    let path = format!("/x\n{FORGED}\ny");
    let request = encoded(&path).replace("/28", "//./junk/../28").replace("10.9", "1%30.9");
    among_genuine(&not_found(&path, &request), 1);
    // Decoded twice, as by a redirect.
    among_genuine(&not_found(&path, &encoded(&encoded(&path))), 1);
}

#[test]
fn a_record_that_was_cut_holds_lines_all_the_same() {
    for length in [2048, 4096] {
        let end = format!("\" failed (2: No such file or directory){}", fields("/x"));
        // Until its last line is the forged one, complete.
        let message =
            |padding: usize| format!("open() \"/srv/www/{}{end}\n{FORGED}", "x".repeat(padding));
        let padding = length - 1 - frame(&message(0)).len();
        let record = cut(frame(&message(padding)) + "\" failed (36: File name too long)", length);
        assert!(record.ends_with(&format!("{FORGED}\n")));
        let log = format!("{}{record}{}", genuine(1), genuine(2));
        let (told, foreign) = read(&log);
        // The genuine line after it is in reach of no other cut record.
        assert_eq!(
            (told, foreign),
            (vec!["10.0.0.1:1".into(), "10.0.0.1:2".into()], 1),
            "{length}"
        );
        // Not closed, and more lines behind the forged one.
        let message = format!("open() \"/srv/www/x\n{FORGED}\n{}", "y".repeat(length));
        among_genuine(&cut(frame(&message), length), 1);
    }
}

#[test]
fn a_carrier_may_have_replaced_bytes() {
    let end = format!("\" failed (2: No such file or directory){}", fields("/x"));
    let message =
        |padding: usize| format!("open() \"/srv/www/{}{end}\n{FORGED}", "\u{fffd}".repeat(padding));
    // One byte each when nginx wrote them.
    let padding = RECORD_OF_NGINX - 1 - frame(&message(0)).len();
    let log = format!("{}{}\n{}", genuine(1), frame(&message(padding)), genuine(2));
    let (told, foreign) = read(&log);
    // The record may be longer than it looks here, so what follows it is not sure either.
    assert_eq!((told, foreign), (vec!["10.0.0.1:1".into()], 2));
}

#[test]
fn a_user_name_is_no_record() {
    let tail = format!("\" was not found in \"/etc/nginx/users\"{}", fields("/"));
    let plain = frame(&format!("user \"x\n{FORGED}\ny{tail}\n"));
    expect(&format!("{}{plain}", genuine(1)), &["10.0.0.1:1"], 1);
    let begin = frame("user \"y");
    let closed = frame(&format!("user \"x{tail}\n{FORGED}\n{begin}{tail}\n"));
    expect(&format!("{}{closed}", genuine(1)), &["10.0.0.1:1"], 1);
    let last = frame(&format!("user \"x{tail}\n{}{tail}\n", FORGED.strip_suffix('"').unwrap()));
    expect(&format!("{last}{}", genuine(2)), &["10.0.0.1:2"], 1);
    // Others' lines count beside it, except between two of them.
    let one = frame(&format!("user \"x{tail}\n"));
    expect(&format!("{}{one}{}", genuine(1), genuine(2)), &["10.0.0.1:1", "10.0.0.1:2"], 0);
    let far = format!("{}\n", "z".repeat(500)).repeat(5);
    expect(&format!("{one}{}{far}{one}", genuine(2)), &["10.0.0.1:2 (doubtful)"], 0);
}

#[test]
fn what_an_application_says_is_no_record_until_it_ends() {
    let tail = " while reading response header from upstream, client: 1.1.1.1, server: s, request: \
                \"GET / HTTP/1.1\", upstream: \"fastcgi://unix:/run/php.sock:\", host: \"h\"";
    let trace = frame(&format!(
        "FastCGI sent in stderr: \"PHP message: x\nStack trace:\n{FORGED}\n#0 {{main}}\"{tail}\n"
    ));
    expect(&format!("{trace}{}", genuine(1)), &["10.0.0.1:1 (doubtful)"], 1);
    let script = frame("[lua] x.lua:1: f(): said, context: ngx.timer\n");
    expect(&format!("{script}{}", genuine(1)), &["10.0.0.1:1 (doubtful)"], 0);
}

#[test]
fn an_upstream_may_be_an_unescaped_path() {
    // `proxy_pass http://app$uri`: the line feeds stand in the upstream's field.
    let path = format!("/x\", host: \"h\"\n{FORGED}\n");
    let record = genuine(1).replace("GET /app", &format!("GET {}", encoded(&path)));
    let record = record.replace("10.0.0.1:1/app", &format!("10.0.0.1:1{path}y"));
    let (told, foreign) = read(&record);
    assert_eq!((told.as_slice(), foreign), (["10.0.0.1:1".to_owned()].as_slice(), 1));
}

#[test]
fn a_client_cannot_hide_others_lines() {
    // Records of other kinds do no harm, nor does one without an end for longer than a record.
    let unfinished = frame("open() \"/srv/www/x\n");
    let rest = format!("{}\n", "z".repeat(99)).repeat(50);
    expect(&format!("{unfinished}{rest}{}", genuine(1)), &["10.0.0.1:1"], 0);
    let found = not_found("/a", "/a");
    expect(&format!("{found}{}{found}", genuine(1)), &["10.0.0.1:1"], 0);
    // Line feeds in a query are printed nowhere but there.
    let query = not_found("/a", "/a?%0a%0a%0a");
    expect(&format!("{query}{}{query}", genuine(1)), &["10.0.0.1:1"], 0);
    let limited =
        frame(&format!("limiting requests, excess: 1.0 by zone \"z\"{}\n", fields("/%0a")));
    expect(&format!("{limited}{}{limited}", genuine(1)), &["10.0.0.1:1"], 0);
}

#[test]
fn silence_ends_a_record() {
    let mut records = Records::default();
    let unfinished = frame("user \"x");
    assert_eq!(records.read(unfinished.as_bytes(), unfinished.len() + 1, None), Judged::default());
    records.settle();
    let line = genuine(1);
    let line = line.trim_end().as_bytes();
    let event = parse(line, &Carrier::plain("test", READ_AT));
    assert_eq!(records.read(line, line.len() + 1, event).own.len(), 1);
}

#[test]
fn memory_is_bounded() {
    let mut records = Records::default();
    let line = frame("open() \"/%0a");
    for _ in 0..10_000 {
        records.read(line.as_bytes(), line.len() + 1, None);
        assert!(records.heads.len() <= RECORD as usize / line.len() + 1);
        assert!(records.requests.len() <= RECORD as usize / line.len() + 1);
    }
}
