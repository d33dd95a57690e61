use super::*;

/// 2026-11-20T20:05:36Z
const NEAR: UnixMs = UnixMs(1_795_205_136_000);

/// A plain line of a proxy's.
fn look(view: View<'_>) -> Found {
    let is_it =
        view.line.starts_with(b"Server a/b ") || view.line.starts_with(b"2026/11/20 19:47:5");
    if is_it { Found::Line } else { Found::Nothing }
}

impl Unwrapper {
    fn read<'a>(&mut self, line: &'a [u8]) -> Unwrapped<'a> {
        self.unwrap(line, NEAR, look)
    }
}

fn unwrapped(lines: &[&[u8]]) -> Vec<(String, Stamp)> {
    let mut unwrapper = Unwrapper::default();
    let mut found = Vec::new();
    for line in lines {
        if let Unwrapped::Line(line, stamp) = unwrapper.read(line) {
            let stamp = Stamp { at: stamp.at, pid: stamp.pid, ..Stamp::default() };
            found.push((String::from_utf8_lossy(&line).into_owned(), stamp));
        }
    }
    found
}

fn stamp(at: Option<u64>, pid: Option<u32>) -> Stamp {
    Stamp { at: at.map(|at| When::exact(UnixMs(at))), pid, ..Stamp::default() }
}

fn local(at: u64, pid: Option<u32>) -> Stamp {
    let at = When { at: UnixMs(at), is_local: true, precision_ms: 1000 };
    Stamp { at: Some(at), pid, ..Stamp::default() }
}

#[test]
fn a_plain_line_is_left_alone() {
    for line in [
        "127.0.0.1:1 [20/Nov/2026:20:05:35.308] fe be/s 0/0/-1/-1/1 503",
        "<1>Server a/b is DOWN",
        "Server a/b is DOWN, reason: Layer4 timeout",
        "[WARNING]  (24046) : Server a/b is DOWN",
        "",
        "<",
        "{\"log\":1}",
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
    assert_eq!(unwrapped(&cri), [("2026/11/20 19:47:51 [error] x".to_owned(), at.clone())]);
    let long = format!("2026/11/20 19:47:51 {}", "x".repeat(16_364));
    let docker = [
        format!(r#"{{"log":"{long}","stream":"stderr","time":"2026-11-20T20:23:08.124Z"}}"#),
        r#"{"log":"\"y\n","stream":"stderr","time":"2026-11-20T20:23:08.125Z"}"#.to_owned(),
    ];
    let docker: Vec<&[u8]> = docker.iter().map(String::as_bytes).collect();
    assert_eq!(unwrapped(&docker), [(format!("{long}\"y"), at)]);
}

#[test]
fn a_line_of_endless_pieces_is_given_up() {
    let mut unwrapper = Unwrapper::default();
    let piece = format!("2026-11-20T20:23:08.123456789Z stderr P {}", "x".repeat(1000));
    for _ in 0..1000 {
        assert_eq!(unwrapper.read(piece.as_bytes()), Unwrapped::Piece);
        assert!(unwrapper.pieces[Stream::Error as usize].bytes.capacity() <= 2 * LONGEST_LINE);
    }
    let last = b"2026-11-20T20:23:08.123456789Z stderr F end";
    assert_eq!(unwrapper.read(last), Unwrapped::TooLong);
    assert!(matches!(unwrapper.read(last), Unwrapped::Line(..)));
}

#[test]
fn journald_tells_time_and_process() {
    let text = br#"{"__CURSOR":"s=1","__REALTIME_TIMESTAMP":"1795206188125456","_PID":"77","MESSAGE":"Server a/b is DOWN"}"#;
    let told = stamp(Some(1_795_206_188_125), Some(77));
    assert_eq!(unwrapped(&[text]), [("Server a/b is DOWN".to_owned(), told.clone())]);
    let bytes = br#"{"__REALTIME_TIMESTAMP":"1795206188125456","_PID":"77","MESSAGE":[97,98]}"#;
    assert_eq!(unwrapped(&[bytes]), [("ab".to_owned(), told)]);
}

#[test]
fn syslog_headers_of_either_kind_come_off() {
    for (line, payload, told) in [
        (
            "<129>Nov 20 20:05:33 haproxy[23166]: Server a/b is DOWN",
            "Server a/b is DOWN",
            local(1_795_205_133_000, Some(23166)),
        ),
        (
            "<129>Nov 20 20:05:33 lb1 haproxy[23166]: Server a/b is DOWN",
            "Server a/b is DOWN",
            local(1_795_205_133_000, Some(23166)),
        ),
        (
            "<137>1 2026-11-20T20:05:33.333220+00:00 - haproxy 23166 - - Server a/b is DOWN",
            "Server a/b is DOWN",
            stamp(Some(1_795_205_133_333), Some(23166)),
        ),
        (
            "<188>Nov 20 19:47:51 vm edge1: 2026/11/20 19:47:51 [warn] 3#3: *1 x",
            "2026/11/20 19:47:51 [warn] 3#3: *1 x",
            local(1_795_204_071_000, None),
        ),
        (
            "<131>Nov 20 19:47:52 nginx: 2026/11/20 19:47:52 [error] 3#3: *4 no live",
            "2026/11/20 19:47:52 [error] 3#3: *4 no live",
            local(1_795_204_072_000, None),
        ),
        (
            "Nov 20 20:05:33 lb1 haproxy[23166]: Server a/b is DOWN",
            "Server a/b is DOWN",
            local(1_795_205_133_000, Some(23166)),
        ),
        (
            "2026-11-20T20:05:33.333220+00:00 lb1 haproxy[23166]: Server a/b is DOWN",
            "Server a/b is DOWN",
            stamp(Some(1_795_205_133_333), Some(23166)),
        ),
    ] {
        assert_eq!(unwrapped(&[line.as_bytes()]), [(payload.to_owned(), told)], "{line}");
    }
}

#[test]
fn pieces_of_one_stream_are_not_put_to_another() {
    let cri = "2026-11-28T19:55:23.000000000Z";
    let mut unwrapper = Unwrapper::default();
    let mut found = Vec::new();
    for line in ["stdout P b", "stderr F c", "stderr P d", "stdout F e", "stderr F f"] {
        let line = format!("{cri} {line}");
        if let Unwrapped::Line(line, stamp) = unwrapper.read(line.as_bytes()) {
            found.push((String::from_utf8_lossy(&line).into_owned(), stamp.stream));
        }
    }
    let expected = [("c", Stream::Error), ("be", Stream::Output), ("df", Stream::Error)];
    assert_eq!(found, expected.map(|(line, stream)| (line.to_owned(), stream)));
    let docker = |stream: &str, log: &str| {
        format!(r#"{{"log":"{log}","stream":"{stream}","time":"2026-11-20T20:23:08.124Z"}}"#)
    };
    let mut found = Vec::new();
    let long = "b".repeat(16 * 1024);
    for line in [docker("stdout", &long), docker("stderr", "c\\n"), docker("stdout", "e\\n")] {
        if let Unwrapped::Line(line, _) = unwrapper.read(line.as_bytes()) {
            found.push(String::from_utf8_lossy(&line).into_owned());
        }
    }
    assert_eq!(found, ["c".to_owned(), format!("{long}e")]);
}

#[test]
fn the_program_is_the_one_that_syslog_names() {
    let docker =
        r#"{"__REALTIME_TIMESTAMP":"1","CONTAINER_ID":"1","SYSLOG_IDENTIFIER":"x","MESSAGE":"m"}"#;
    for (line, expected) in [
        ("<38>Nov 28 19:55:23 h sshd[812]: Server a/b is DOWN", Some(("sshd", true))),
        ("<38>1 2026-11-28T19:55:23+00:00 h edge1 - - - m", Some(("edge1", false))),
        ("Nov 28 19:55:23 h edge1: m", Some(("edge1", false))),
        ("<38>Nov 28 19:55:23 sudo: m", Some(("sudo", false))),
        ("<38>Nov 28 19:55:23 odd[1]x: m", Some(("odd", true))),
        // Without a colon, the word behind the host's name is taken for the tag.
        ("<38>Nov 28 19:55:23 h no tag", Some(("no", false))),
        (
            r#"{"__REALTIME_TIMESTAMP":"1","SYSLOG_IDENTIFIER":"sshd","SYSLOG_PID":"7","MESSAGE":"m"}"#,
            Some(("sshd", true)),
        ),
        (docker, None),
        ("2026/11/28 19:37:10 [error] 1#1: m", None),
    ] {
        let Unwrapped::Line(_, stamp) = Unwrapper::default().read(line.as_bytes()) else {
            panic!("{line}");
        };
        let expected = expected.map(|(name, has_pid)| Tag { name: name.to_owned(), has_pid });
        assert_eq!(stamp.tag, expected, "{line}");
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
            Unwrapper::default().read(&line[..length]);
            let mut damaged = line.to_vec();
            damaged[length] = 0xff;
            Unwrapper::default().read(&damaged);
        }
    }
}
