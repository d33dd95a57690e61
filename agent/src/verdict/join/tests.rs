use super::*;
use crate::{
    kernel::{Attribution, Class, ListenerDelta, QueueDepth},
    proxy::ProxyKind,
};

const PEER: &str = "10.0.0.1:8000";
const NETNS: NetnsId = NetnsId(7);

fn at(second: u64) -> UnixMs {
    UnixMs(1_000_000_000 + second * 1000)
}

fn event(second: u64, kind: EventKind, upstream: Upstream) -> ProxyEvent {
    ProxyEvent {
        at: at(second),
        precision_ms: 1000,
        proxy: ProxyKind::Nginx,
        source: "error.log".to_owned(),
        pid: Some(1),
        connection: Some(5),
        kind,
        upstream,
        group: None,
        peer_addr: None,
        local_addr: None,
        took_ms: None,
    }
}

fn peer() -> Upstream {
    Upstream::Inet(PEER.parse().unwrap())
}

fn marked(second: u64) -> ProxyEvent {
    event(second, EventKind::PeerMarked { phase: Phase::Connect, failure: None }, peer())
}

fn failed(second: u64, errno: i32) -> ProxyEvent {
    let failure = Failure::Errno { errno };
    event(second, EventKind::AttemptFailed { phase: Phase::Connect, failure }, peer())
}

fn no_live(second: u64) -> ProxyEvent {
    event(second, EventKind::NoLivePeers, Upstream::Group("app".to_owned()))
}

/// A second in which the peer's listener lost `syns`.
fn lost(second: u64, syns: u64) -> KernelSample {
    let listener = ListenerId { netns: NETNS, addr: PEER.parse().unwrap(), inode: 3 };
    KernelSample {
        window: Window { from: at(second), to: at(second + 1) },
        listeners: vec![ListenerDelta {
            listener,
            tally: Tally::of(&[(Class::SynAcceptQueueFull, syns)]),
            attribution: Attribution::Exact,
            queue: Some(QueueDepth { len: 129, limit: 128 }),
        }],
        events_lost: 0,
    }
}

fn decide_all(correlator: &mut Correlator) -> Vec<Verdict> {
    correlator.decide_all(&Inventory::default())
}

#[test]
fn a_marking_is_joined_with_losses_of_the_minute_before() {
    let mut correlator = Correlator::default();
    correlator.on_sample(&lost(0, 4));
    correlator.on_sample(&lost(10, 3));
    correlator.on_event(marked(60), None, at(60));
    let verdict = decide_all(&mut correlator).remove(0);
    assert_eq!(verdict.cause, Cause::AcceptQueueOverflow);
    assert_eq!(verdict.evidence[Class::SynAcceptQueueFull], 7);
    assert_eq!(verdict.window, Window { from: at(0), to: at(61) });
    assert!(verdict.is_joined());
}

#[test]
fn losses_after_the_event_explain_nothing() {
    let mut correlator = Correlator::default();
    correlator.on_event(marked(60), None, at(60));
    correlator.on_sample(&lost(70, 3));
    let verdict = decide_all(&mut correlator).remove(0);
    assert_eq!(verdict.cause, Cause::NoKernelEvidence);
    assert!(!verdict.is_joined());
}

#[test]
fn an_event_waits_until_its_last_second_has_been_sampled() {
    let mut correlator = Correlator::default();
    let inventory = Inventory::default();
    correlator.on_event(marked(60), None, at(60));
    assert!(correlator.decide(at(62), &inventory).is_empty());
    correlator.on_sample(&lost(60, 2));
    let verdicts = correlator.decide(at(63), &inventory);
    assert_eq!(verdicts.len(), 1);
    assert_eq!(verdicts[0].evidence[Class::SynAcceptQueueFull], 2);
    assert!(correlator.decide(at(99), &inventory).is_empty(), "each event is decided once");
}

/// nginx writes the marking before the timeout that led to it, and after any other failure.
#[test]
fn a_marking_takes_its_failure_from_the_line_before_or_after() {
    const ECONNREFUSED: i32 = 111;
    for marking_first in [true, false] {
        let mut correlator = Correlator::default();
        correlator.on_sample(&lost(59, 9));
        let mut lines = [marked(60), failed(60, ECONNREFUSED)];
        if !marking_first {
            lines.reverse();
        }
        lines.into_iter().for_each(|line| correlator.on_event(line, None, at(60)));
        let verdicts = decide_all(&mut correlator);
        assert!(verdicts.iter().all(|verdict| verdict.cause == Cause::Refused), "{verdicts:?}");
    }
}

#[test]
fn a_failure_of_another_connection_is_not_its_companion() {
    let mut correlator = Correlator::default();
    correlator.on_sample(&lost(59, 9));
    let mut other = failed(60, 111);
    other.connection = Some(6);
    correlator.on_event(other, None, at(60));
    correlator.on_event(marked(60), None, at(60));
    let verdicts = decide_all(&mut correlator);
    assert_eq!(verdicts[1].cause, Cause::AcceptQueueOverflow);
}

#[test]
fn no_live_peers_has_the_cause_of_the_markings_before_it() {
    let mut correlator = Correlator::default();
    correlator.on_sample(&lost(55, 9));
    correlator.on_event(marked(60), None, at(60));
    correlator.on_event(no_live(61), None, at(61));
    let verdict = decide_all(&mut correlator).remove(1);
    assert_eq!((verdict.cause, verdict.confidence), (Cause::AcceptQueueOverflow, Confidence::High));
    assert!(!verdict.is_joined(), "it has no listener of its own");
}

#[test]
fn no_live_peers_without_a_marking_is_honest() {
    let mut correlator = Correlator::default();
    correlator.on_event(no_live(61), None, at(61));
    let verdict = decide_all(&mut correlator).remove(0);
    assert_eq!((verdict.cause, verdict.confidence), (Cause::NoKernelEvidence, Confidence::Low));
}

#[test]
fn a_marking_of_another_proxy_or_long_ago_does_not_explain() {
    let mut correlator = Correlator::default();
    correlator.on_sample(&lost(55, 9));
    correlator.on_event(marked(60), None, at(60));
    let mut other = no_live(61);
    other.source = "another.log".to_owned();
    correlator.on_event(other, None, at(61));
    correlator.on_event(no_live(150), None, at(150));
    let verdicts = decide_all(&mut correlator);
    assert!(verdicts[1..].iter().all(|verdict| verdict.cause == Cause::NoKernelEvidence));
}

#[test]
fn events_beyond_the_limit_are_decided_early_and_none_is_lost() {
    let mut correlator = Correlator::default();
    let inventory = Inventory::default();
    for _ in 0..MOST_PENDING + 10 {
        correlator.on_event(no_live(60), None, at(60));
    }
    let early = correlator.decide(at(60), &inventory).len();
    assert_eq!(early, 10);
    assert_eq!(decide_all(&mut correlator).len(), MOST_PENDING);
}
