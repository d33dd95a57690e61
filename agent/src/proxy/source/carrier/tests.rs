use super::*;

fn unwrapped(lines: &[&[u8]]) -> Vec<(String, Stamp)> {
    let mut unwrapper = Unwrapper::default();
    let mut found = Vec::new();
    for line in lines {
        if let Unwrapped::Line(line, stamp) = unwrapper.unwrap(line) {
            found.push((String::from_utf8_lossy(&line).into_owned(), stamp));
        }
    }
    found
}

fn stamp(at: Option<u64>, pid: Option<u32>) -> Stamp {
    Stamp { at: at.map(UnixMs), pid }
}

#[test]
fn a_plain_line_is_left_alone() {
    for line in [
        "2026/11/20 19:47:51 [error] 1#1: *1 connect() failed",
        "127.0.0.1:1 [20/Nov/2026:20:05:35.308] fe be/s 0/0/-1/-1/1 503",
        "<1>Server a/b is DOWN",
        "Server a/b is DOWN, reason: Layer4 timeout",
        "[WARNING]  (24046) : Server a/b is DOWN",
        "",
        "<",
        "{\"log\":1}",
        "{\"level\":\"error\",\"msg\":\"\\\"__REALTIME_TIMESTAMP\\\"\"}",
    ] {
        assert_eq!(unwrapped(&[line.as_bytes()]), [(line.to_owned(), Stamp::default())]);
    }
}

#[test]
fn pieces_of_a_containers_line_are_put_together() {
    let cri: [&[u8]; 3] = [
        b"2026-11-20T20:23:08.123456789Z stderr P 2026/11/20 19:",
        b"2026-11-20T20:23:08.124456789Z stderr P 47:51 [err",
        b"2026-11-20T20:23:08.125456789Z stderr F or] x",
    ];
    let at = stamp(Some(1_795_206_188_125), None);
    assert_eq!(unwrapped(&cri), [("2026/11/20 19:47:51 [error] x".to_owned(), at)]);
    let docker: [&[u8]; 2] = [
        br#"{"log":"2026/11/20 \"19:","stream":"stderr","time":"2026-11-20T20:23:08.124Z"}"#,
        br#"{"log":"47:51\n","stream":"stderr","time":"2026-11-20T20:23:08.125Z"}"#,
    ];
    assert_eq!(unwrapped(&docker), [("2026/11/20 \"19:47:51".to_owned(), at)]);
}

#[test]
fn a_line_of_endless_pieces_is_given_up() {
    let mut unwrapper = Unwrapper::default();
    let piece = format!("2026-11-20T20:23:08.123456789Z stderr P {}", "x".repeat(1000));
    for _ in 0..1000 {
        assert_eq!(unwrapper.unwrap(piece.as_bytes()), Unwrapped::Piece);
        assert!(unwrapper.pieces.capacity() <= 2 * LONGEST_LINE);
    }
    let last = b"2026-11-20T20:23:08.123456789Z stderr F end";
    assert_eq!(unwrapper.unwrap(last), Unwrapped::TooLong);
    assert!(matches!(unwrapper.unwrap(last), Unwrapped::Line(..)));
}

#[test]
fn journald_tells_time_and_process() {
    let text = br#"{"__CURSOR":"s=1","__REALTIME_TIMESTAMP":"1795206188125456","_PID":"77","MESSAGE":"Server a/b is DOWN"}"#;
    let told = stamp(Some(1_795_206_188_125), Some(77));
    assert_eq!(unwrapped(&[text]), [("Server a/b is DOWN".to_owned(), told)]);
    let bytes = br#"{"__REALTIME_TIMESTAMP":"1795206188125456","_PID":"77","MESSAGE":[97,98]}"#;
    assert_eq!(unwrapped(&[bytes]), [("ab".to_owned(), told)]);
}

#[test]
fn syslog_headers_of_either_kind_come_off() {
    for (line, payload, told) in [
        (
            "<129>Nov 20 20:05:33 haproxy[23166]: Server a/b is DOWN",
            "Server a/b is DOWN",
            stamp(None, Some(23166)),
        ),
        (
            "<129>Nov 20 20:05:33 lb1 haproxy[23166]: Server a/b is DOWN",
            "Server a/b is DOWN",
            stamp(None, Some(23166)),
        ),
        (
            "<137>1 2026-11-20T20:05:33.333220+00:00 - haproxy 23166 - - Server a/b is DOWN",
            "Server a/b is DOWN",
            stamp(Some(1_795_205_133_333), Some(23166)),
        ),
        (
            "<188>Nov 20 19:47:51 vm edge1: 2026/11/20 19:47:51 [warn] 3#3: *1 x",
            "2026/11/20 19:47:51 [warn] 3#3: *1 x",
            stamp(None, None),
        ),
        (
            "<131>Nov 20 19:47:52 nginx: 2026/11/20 19:47:52 [error] 3#3: *4 no live",
            "2026/11/20 19:47:52 [error] 3#3: *4 no live",
            stamp(None, None),
        ),
        (
            "Nov 20 20:05:33 lb1 haproxy[23166]: Server a/b is DOWN",
            "Server a/b is DOWN",
            stamp(None, Some(23166)),
        ),
        (
            "2026-11-20T20:05:33.333220+00:00 lb1 haproxy[23166]: Server a/b is DOWN",
            "Server a/b is DOWN",
            stamp(None, Some(23166)),
        ),
    ] {
        assert_eq!(unwrapped(&[line.as_bytes()]), [(payload.to_owned(), told)], "{line}");
    }
}

#[test]
fn whatever_the_bytes_it_returns() {
    let lines: [&[u8]; 4] = [
        b"<129>Nov 20 20:05:33 lb1 haproxy[23166]: Server a/b is DOWN",
        b"<137>1 2026-11-20T20:05:33.333220+00:00 - haproxy 23166 - - Server a/b is DOWN",
        b"2026-11-20T20:23:08.123456789Z stderr F 2026/11/20",
        br#"{"log":"47:51\n","stream":"stderr","time":"2026-11-20T20:23:08.125Z"}"#,
    ];
    for line in lines {
        for length in 0..line.len() {
            Unwrapper::default().unwrap(&line[..length]);
            let mut damaged = line.to_vec();
            damaged[length] = 0xff;
            Unwrapper::default().unwrap(&damaged);
        }
    }
}
