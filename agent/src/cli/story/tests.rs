use std::sync::Arc;

use super::*;
use crate::{
    inventory::{Backlog, Listener, Namespace, Owner},
    kernel::{Attribution, Class, ListenerId, MibCounts, NetnsId, QueueDepth, Tally},
    time::{UnixMs, Window},
    verdict::{BlindSpot, Flow, FlowSlot, ListenerReport, Question},
};

fn report() -> Report {
    let id = ListenerId { netns: NetnsId(1), addr: ([10, 0, 0, 1], 8000).into(), inode: 5 };
    let listener = Listener {
        somaxconn: Some(4096),
        backlog: Backlog::of(128, None, Some(4096)),
        owners: vec![Owner::new(
            42,
            "py\x1b[31mthon3",
            Some("/system.slice/app.service".to_owned()),
        )]
        .into(),
        ..Listener::unknown(id, QueueDepth { len: 129, limit: 128 }, Some("app".to_owned()))
    };
    let full = FlowSlot { at: 10, enqueued: 129, again: 0, lost: 171, depth: 129 };
    let after = (1..=100_u32).map(|n| FlowSlot {
        at: 10 + u64::from(n),
        depth: 129 - n,
        ..FlowSlot::default()
    });
    let mut kernel = MibCounts::default();
    kernel[Counter::ListenOverflows] = 171;
    kernel[Counter::ListenDrops] = 171;
    Report {
        window: Window { from: UnixMs(0), to: UnixMs(30_000) },
        listeners: vec![ListenerReport {
            listener,
            tally: Tally::of(&[(Class::SynAcceptQueueFull, 170), (Class::AckAcceptQueueFull, 1)]),
            attribution: Attribution::Exact,
            queue_high: 129,
            peers: vec![([10, 0, 0, 9].into(), 171)],
            peers_other: 0,
            dropped: Some(Window { from: UnixMs(1000), to: UnixMs(10_000) }),
            worst_per_second: 171.0,
            last_seen: UnixMs(0),
            flow: Some(Arc::new(Flow { slots: std::iter::once(full).chain(after).collect() })),
        }],
        namespaces: vec![NetnsReport {
            netns: NetnsId(1),
            name: "app".to_owned(),
            kernel,
            unattributed: [("ListenDrops".to_owned(), 2)].into(),
        }],
        blind_spots: vec![BlindSpot {
            signal: "syn_drops".to_owned(),
            rung: "netlink".to_owned(),
            unseen: "no peers".to_owned(),
        }],
        ..Report::default()
    }
}

fn story(question: Option<Question>) -> String {
    tell(&Diagnosis::of(&report(), question))
}

#[test]
fn tells_what_where_whose_since_when_how_much_and_how_sure() {
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let story = words(&story(None));
    for told in [
        "One problem in 30 s: an accept queue is full and SYNs are dropped.",
        "1. At 10.0.0.1:8000",
        "owner    py?[31mthon3 (pid 42, app.service), in network namespace app",
        "170 SYNs and 1 final ACK, accept queue full: 19.0 per second, 171",
        "limit 128, set by the application's backlog; somaxconn 4096",
        "clients  10.0.0.9 (171)",
        "since    00:00:01 UTC, until 00:00:10",
        "sure     high: counted in the kernel at exactly this listener",
        "WHAT TO CHANGE, in this order:",
        "    now:\n      floodmark raise 10.0.0.1:8000 --netns app --backlog 384\n    permanently:\n",
        "      systemctl restart app.service",
        "WHAT NOT TO CHANGE:",
        "ListenOverflows 171, ListenDrops 171; not attributed: 2 of",
        "syn_drops by netlink: no peers",
    ] {
        assert!(story.contains(&words(told)), "{told:?} is not in\n{story}");
    }
}

#[test]
fn fits_eighty_columns_and_holds_no_control_characters() {
    let question = Question { backlog: Some(200), ..Question::default() };
    for line in story(Some(question)).lines() {
        assert!(!line.contains(char::is_control), "{line:?}");
        // Commands are to be copied, so they are not broken.
        assert!(line.chars().count() <= 80 || line.starts_with("      "), "{line}");
    }
}

#[test]
fn answers_what_if() {
    let question = Question { backlog: Some(200), ..Question::default() };
    let story = story(Some(question)).replace("\n  ", " ");
    assert!(
        story.contains("backlog of 200: 99 of 300 connections are lost instead of 171"),
        "{story}"
    );
    assert!(story.contains("the smallest that loses nothing is 299"), "{story}");
}

#[test]
fn says_that_nothing_is_wrong() {
    let window = Window { from: UnixMs(0), to: UnixMs(9000) };
    let quiet = Report { window, ..Report::default() };
    let diagnosis = Diagnosis::of(&quiet, None);
    assert!(diagnosis.healthy);
    assert_eq!(tell(&diagnosis), "No problem found: in 9 s no listener lost a connection.\n");
}

#[test]
fn the_object_reads_back() {
    let mut report = report();
    report.settings.insert(NetnsId(1), Namespace::default());
    let diagnosis = Diagnosis::of(&report, None).without_flows();
    let json = serde_json::to_string(&diagnosis).unwrap();
    let again: Diagnosis = serde_json::from_str(&json).unwrap();
    assert_eq!((again.schema, again.healthy), (1, false));
    assert_eq!(again.advice, diagnosis.advice);
    assert_eq!(again.what_if, diagnosis.what_if);
    assert_eq!(again.report.settings, diagnosis.report.settings);
    // What reads only the evidence finds it where it was.
    let report: Report = serde_json::from_str(&json).unwrap();
    assert_eq!(report.listeners[0].tally, diagnosis.report.listeners[0].tally);
}
