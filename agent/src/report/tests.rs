//! The page of a hostile incident.

use std::sync::Arc;

use super::{Timeline, render};
use crate::{
    kernel::NetnsId,
    record::{Reader, replay},
    verdict::{Flow, FlowSlot, LinkReport},
};

/// Replays the recording of the corpora, with `change` made to what came of it.
fn page(change: impl FnOnce(&mut crate::record::Replay)) -> String {
    let bytes = include_bytes!("../../../tests/corpora/recording/v1.fmr").as_slice();
    let mut timeline = Timeline::default();
    let mut peers = Vec::new();
    let mut replayed = replay(Reader::open(bytes).unwrap(), |tick, state| {
        timeline.add(tick, state);
        peers.clone_from(&state.peers);
    })
    .unwrap();
    change(&mut replayed);
    render(&replayed, &timeline, &peers)
}

#[test]
fn the_page_tells_the_story() {
    let page = page(|_| {});
    for words in [
        "10.9.8.7:8000 in app (tornado, pid 42, app.service) lost 770 handshakes",
        "its accept queue was full",
        "all of them are attributed",
        "took a peer out of use 37 times; 37 of these were caused",
        "What to change, in this order",
        "limit 128",
        "No evidence was lost. The table below shows kernel counters that are not attributed.",
    ] {
        assert!(page.contains(words), "{words}");
    }
}

#[test]
fn nothing_is_fetched_and_nothing_runs() {
    let page = page(|_| {});
    for word in ["http://", "https://", "src=", "<script", "@import", "url(", "<link"] {
        assert!(!page.contains(word), "{word}");
    }
}

#[test]
fn it_shows_what_would_have_helped() {
    // 300 connections at once, at a queue that took 101 of them; one accepted in 10 ms.
    let mut slots =
        vec![FlowSlot { at: 0, enqueued: 101, lost: 199, depth: 101, ..Default::default() }];
    slots.extend((1..=100).map(|at| FlowSlot { at, depth: 101 - at as u32, ..Default::default() }));
    let link = LinkReport {
        netns: NetnsId(7),
        pid: 42,
        command: "<nginx>".to_owned(),
        to: ([10, 0, 0, 2], 8000).into(),
        opened: 300,
        failed: 0,
        opened_per_second: 30.0,
        most_at_once: 24,
        greatest_fall: 23,
        mean_lifetime_ms: Some(200.0),
        longest_pause_ms: 1500,
    };
    let page = page(|replayed| {
        let report = &mut replayed.report;
        report.listeners[0].listener.queue.limit = 100;
        report.listeners[0].flow = Some(Arc::new(Flow { slots: slots.into() }));
        report.links = vec![link];
    });
    for words in [
        "What would have helped",
        "a backlog of 299; the longest wait",
        "&lt;nginx&gt;",
        "<strong>23</strong>",
        "1 to 2",
        "1500 ms",
        ">276<",
    ] {
        assert!(page.contains(words), "{words}: {page}");
    }
}

#[test]
fn hostile_names_stay_text() {
    let hostile = "</title></style><script>alert(1)</script>\"'<img src=x onerror=y>\u{202e}\u{9b}";
    let page = page(|replayed| {
        let report = &mut replayed.report;
        let listener = &mut report.listeners[0].listener;
        listener.owners[0].command = hostile.to_owned();
        listener.netns_name = hostile.to_owned();
        report.namespaces[0].name = hostile.to_owned();
        for verdict in &mut report.proxy.verdicts {
            let verdict = std::sync::Arc::make_mut(verdict);
            verdict.event.upstream = crate::proxy::Upstream::Group(hostile.to_owned());
            verdict.because = hostile.to_owned();
        }
        replayed.standings[0].blind_spot = hostile.to_owned();
        replayed.header.kernel = hostile.to_owned();
    });
    assert!(page.contains("&lt;script&gt;"));
    assert_eq!(crate::printable::printable_lines(&page), page, "nothing turns the text around");
    for tag in ["<script", "<img", "</title></style>"] {
        assert!(!page.contains(tag), "{tag}");
    }
}
