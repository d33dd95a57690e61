use serde_json::{Value, json};

use super::*;

const SUBJECT: &str = "floodmark.v1.host.web-1";

fn message(kind: &str, content: Value) -> Value {
    let mut message = json!({"version": 1, "host": "web-1", "run": 1, "number": 1, "kind": kind});
    let fields = message.as_object_mut().unwrap();
    fields.extend(content.as_object().unwrap().clone());
    message
}

fn window() -> Value {
    json!({"from": 1000, "to": 2000})
}

fn tick() -> Value {
    message(
        "tick",
        json!({
            "at": 2000,
            "sample": {"window": window(), "listeners": [delta(1)], "events_lost": 0},
            "syn_rung": "fentry", "ack_rung": "netlink", "namespaces": [1]
        }),
    )
}

fn delta(count: u64) -> Value {
    let listener = json!({"netns": 1, "addr": "10.0.0.1:80", "inode": 7});
    let tally = json!({"syn/accept_queue_full": count, "connections": count});
    json!({"listener": listener, "tally": tally, "attribution": "exact", "queue": null})
}

fn heard() -> Value {
    let kind = json!({"event": "no_live_peers"});
    let event = json!({
        "at": 1, "precision_ms": 1, "proxy": "nginx", "source": "/x", "kind": kind,
        "upstream": {"group": "app"}
    });
    message("heard", json!({"heard": [{"event": event, "netns": 1, "at": 1}]}))
}

fn namespace() -> Value {
    let listener = json!({"addr": "10.0.0.1:80", "inode": 1, "command": "nginx"});
    let content =
        json!({"netns": 1, "name": "n", "addresses": ["10.0.0.1"], "listeners": [listener]});
    message("namespace", content)
}

fn details() -> Value {
    let listener = json!({"netns": 1, "addr": "10.0.0.1:80", "inode": 7});
    let event = json!({
        "at": 1, "listener": listener, "peer": "10.0.0.2:9", "class": "syn/accept_queue_full",
        "queue": null
    });
    message("details", json!({"events": [event]}))
}

fn refusal(subject: &str, payload: &[u8]) -> Option<Refusal> {
    read(subject, payload).err().map(|refused| refused.refusal)
}

fn of(message: &Value) -> Option<Refusal> {
    refusal(SUBJECT, message.to_string().as_bytes())
}

/// The same with the value at `pointer` replaced.
fn with(mut message: Value, pointer: &str, value: Value) -> Value {
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    let parent = message.pointer_mut(parent).unwrap();
    match parent {
        Value::Array(items) => items[key.parse::<usize>().unwrap()] = value,
        _ => parent[key] = value,
    }
    message
}

#[test]
fn what_an_honest_agent_sends_counts() {
    for message in [tick(), heard(), namespace(), details(), message("stopped", json!({}))] {
        assert_eq!(of(&message), None, "{message}");
    }
}

#[test]
fn each_field_has_its_range() {
    let long = || json!("x".repeat(MAX_TEXT + 1));
    let times = |count: usize, one: Value| Value::Array(vec![one; count]);
    let numbers = |count: usize| (0..count).collect::<Value>();
    let event = "/heard/0/event";
    let cases = [
        (tick(), "/sample/window", json!({"from": 2, "to": 1})),
        (tick(), "/sample/events_lost", json!(MAX_COUNT + 1)),
        (tick(), "/sample/listeners/0", delta(MAX_COUNT + 1)),
        (tick(), "/sample/listeners", times(MAX_ITEMS + 1, delta(1))),
        (
            tick(),
            "/waiting",
            times(MAX_WAITING + 1, json!([[1, "10.0.0.1:80"], {"len": 1, "limit": 1}])),
        ),
        (tick(), "/syns_repeated", times(MAX_WAITING + 1, json!([1, 80]))),
        (tick(), "/syn_queues_full", times(MAX_NAMESPACES + 1, json!(1))),
        (tick(), "/aborting", numbers(MAX_NAMESPACES + 1)),
        (tick(), "/namespaces", numbers(MAX_NAMESPACES + 1)),
        (heard(), "/heard", times(MAX_ITEMS + 1, heard()["heard"][0].clone())),
        (heard(), &format!("{event}/precision_ms"), json!(MAX_PRECISION_MS + 1)),
        (heard(), &format!("{event}/source"), long()),
        (heard(), &format!("{event}/source"), json!("a\nb")),
        (heard(), &format!("{event}/group"), json!("\u{1b}[2J")),
        (heard(), &format!("{event}/upstream"), json!({"group": "a\u{9b}"})),
        (heard(), &format!("{event}/upstream"), json!({"unix": "a\u{7f}"})),
        (heard(), &format!("{event}/upstream"), json!({"unix": "a\u{202e}"})),
        (heard(), &format!("{event}/upstream"), json!({"server": {"group": "a", "name": "\r"}})),
        (heard(), &format!("{event}/upstream/group"), long()),
        (heard(), &format!("{event}/leads_to"), times(MAX_LEADS + 1, json!("10.0.0.1:1"))),
        (heard(), "/heard/0/line", json!("GET /secret")),
        (namespace(), "/name", json!("\u{1b}]0;x\u{7}")),
        (namespace(), "/name", long()),
        (namespace(), "/left_out", json!(MAX_COUNT + 1)),
        (namespace(), "/listeners/0/command", json!("\n")),
        (
            namespace(),
            "/listeners",
            times(MAX_LISTENERS + 1, json!({"addr": "10.0.0.1:80", "inode": 1})),
        ),
        (details(), "/events", times(MAX_ITEMS + 1, details()["events"][0].clone())),
    ];
    for (message, pointer, value) in cases {
        let message = with(message, pointer, value);
        assert_eq!(of(&message), Some(Refusal::Invalid), "{pointer}");
    }
    let addresses: Vec<String> = (0..=MAX_LISTENERS).map(|n| format!("fd00::{n:x}")).collect();
    assert_eq!(of(&with(namespace(), "/addresses", json!(addresses))), Some(Refusal::Invalid));
}

#[test]
fn what_is_no_message_is_unreadable() {
    let cases = [
        with(tick(), "/at", json!(-1)),
        with(tick(), "/at", json!(1.5)),
        with(tick(), "/at", json!(1e30)),
        with(tick(), "/run", json!(1e19)),
        with(tick(), "/syn_rung", json!("\u{1b}[31m")),
        with(tick(), "/kind", json!("shutdown")),
        with(tick(), "/sample/listeners/0/listener/addr", json!("localhost:80")),
    ];
    for message in cases {
        assert_eq!(of(&message), Some(Refusal::Unreadable), "{message}");
    }
    let deep = [b"{\"version\":1,\"x\":".as_slice(), &[b'['; 100_000]].concat();
    for payload in [b"".as_slice(), b"null", b"{", b"\xff\xfe", b"{\"at\":NaN}", &deep] {
        assert_eq!(refusal(SUBJECT, payload), Some(Refusal::Unreadable));
    }
    // The reason is printed and may quote the message.
    let refused = read(SUBJECT, with(tick(), "/kind", json!("\u{1b}]0;x")).to_string().as_bytes());
    assert!(!refused.unwrap_err().to_string().contains(char::is_control));
}

#[test]
fn a_message_counts_only_under_the_name_of_its_own_host() {
    let payload = tick().to_string();
    for (subject, expected) in [
        (SUBJECT, None),
        ("floodmark.v1.host.web-2", Some(Refusal::Foreign)),
        ("floodmark.v1.host.web%2D1", Some(Refusal::Foreign)),
        ("floodmark.v1.host.web-1.x", Some(Refusal::Foreign)),
        ("floodmark.v1.verdict.web-1", Some(Refusal::Foreign)),
        ("floodmark.v1.host.", Some(Refusal::Foreign)),
        ("", Some(Refusal::Foreign)),
    ] {
        assert_eq!(refusal(subject, payload.as_bytes()), expected, "{subject}");
    }
    for host in ["", "web-1\n", "WEB-1", "web-1 "] {
        assert_eq!(of(&with(tick(), "/host", json!(host))), Some(Refusal::Foreign), "{host:?}");
    }
}

#[test]
fn another_version_is_told_apart_from_nonsense() {
    assert_eq!(of(&with(tick(), "/version", json!(2))), Some(Refusal::OtherVersion));
    let newer = json!({"version": 2, "sender": {"host": "web-1"}});
    assert_eq!(of(&newer), Some(Refusal::OtherVersion));
}

#[test]
fn a_message_has_a_longest_length() {
    let mut payload = tick().to_string().into_bytes();
    payload.resize(MAX_PAYLOAD, b' ');
    assert_eq!(refusal(SUBJECT, &payload), None);
    payload.push(b' ');
    assert_eq!(refusal(SUBJECT, &payload), Some(Refusal::TooLarge));
}

#[test]
fn times_outside_the_allowed_are_left_out() {
    let content = |message: Value| read(SUBJECT, message.to_string().as_bytes()).unwrap().content;
    let allowed = Window { from: UnixMs(1000), to: UnixMs(2000) };
    assert_eq!(keep_timely(&mut content(tick()), &allowed), Ok(0));
    for (pointer, value) in [
        ("/at", json!(2001)),
        ("/at", json!(u64::MAX)),
        ("/sample/window", json!({"from": 999, "to": 2000})),
        ("/sample/window", json!({"from": 1000, "to": 2001})),
    ] {
        let mut tick = content(with(tick(), pointer, value));
        assert_eq!(keep_timely(&mut tick, &allowed).unwrap_err().refusal, Refusal::Untimely);
    }
    let mut item = heard()["heard"][0].clone();
    (item["at"], item["event"]["at"]) = (json!(1500), json!(1500));
    let mut late = item.clone();
    late["event"]["at"] = json!(2001);
    let mut heard = content(with(heard(), "/heard", json!([item, late])));
    assert_eq!(keep_timely(&mut heard, &allowed), Ok(1));
    assert_eq!(keep_timely(&mut content(details()), &allowed), Ok(1));
}
