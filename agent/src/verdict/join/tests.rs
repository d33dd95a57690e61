use super::*;
use crate::{
    kernel::{Attribution, Class, ListenerDelta, QueueDepth},
    proxy::{Failure, Phase, ProxyKind, Upstream},
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
        leads_to: Vec::new(),
        path: None,
        local_addr: None,
        took_ms: None,
        trust: crate::proxy::Trust::Verified,
        line: None,
        undated: None,
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

fn hear(correlator: &mut Correlator, event: ProxyEvent, now: UnixMs) {
    correlator.on_event(event, None, now, &Inventory::default());
}

fn decide_all(correlator: &mut Correlator) -> Vec<Verdict> {
    correlator.decide_all(&Inventory::default())
}

#[test]
fn a_marking_is_joined_with_losses_of_the_minute_before() {
    let mut correlator = Correlator::default();
    correlator.on_sample(&lost(0, 4));
    correlator.on_sample(&lost(10, 3));
    correlator.on_sample(&lost(55, 1));
    hear(&mut correlator, marked(60), at(60));
    let verdict = decide_all(&mut correlator).remove(0);
    assert_eq!(verdict.cause, Cause::AcceptQueueOverflow);
    assert_eq!(verdict.evidence[Class::SynAcceptQueueFull], 8);
    assert_eq!(verdict.lead_ms, Some(61_000));
    assert_eq!(verdict.window, Window { from: at(0), to: at(61) });
    assert!(verdict.is_joined());
}

#[test]
fn losses_after_the_event_explain_nothing() {
    let mut correlator = Correlator::default();
    hear(&mut correlator, marked(60), at(60));
    correlator.on_sample(&lost(70, 3));
    let verdict = decide_all(&mut correlator).remove(0);
    assert_eq!(verdict.cause, Cause::NoKernelEvidence);
    assert!(!verdict.is_joined());
}

#[test]
fn an_event_waits_until_its_last_second_has_been_sampled() {
    let mut correlator = Correlator::default();
    let inventory = Inventory::default();
    hear(&mut correlator, marked(60), at(60));
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
        lines.into_iter().for_each(|line| hear(&mut correlator, line, at(60)));
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
    hear(&mut correlator, other, at(60));
    hear(&mut correlator, marked(60), at(60));
    let verdicts = decide_all(&mut correlator);
    assert_eq!(verdicts[1].cause, Cause::AcceptQueueOverflow);
}

#[test]
fn no_live_peers_has_the_cause_of_the_markings_before_it() {
    let mut correlator = Correlator::default();
    correlator.on_sample(&lost(55, 9));
    hear(&mut correlator, marked(60), at(60));
    hear(&mut correlator, no_live(61), at(61));
    let verdict = decide_all(&mut correlator).remove(1);
    // The marking's own line did not say how the attempt had failed.
    assert_eq!(verdict.cause, Cause::AcceptQueueOverflow);
    assert_eq!(verdict.confidence, Confidence::Medium);
    assert!(!verdict.is_joined(), "it has no listener of its own");
}

#[test]
fn no_live_peers_that_nothing_led_to_is_the_proxys_own_doing() {
    let mut correlator = Correlator::default();
    correlator.on_sample(&lost(0, 0));
    hear(&mut correlator, no_live(61), at(61));
    let verdict = decide_all(&mut correlator).remove(0);
    assert_eq!((verdict.cause, verdict.confidence), (Cause::ProxyLimit, Confidence::Medium));
}

fn of_peer(mut event: ProxyEvent, peer: &str, connection: u64) -> ProxyEvent {
    event.upstream = Upstream::Inet(peer.parse().unwrap());
    event.connection = Some(connection);
    event
}

/// Two groups of one nginx, with two faults at once.
#[test]
fn a_group_has_the_causes_of_its_own_peers() {
    let mut correlator = Correlator::default();
    correlator.on_sample(&lost(0, 0));
    let refused = "10.0.0.9:80";
    for (peer, errno, connection) in [(PEER, 110, 1), (refused, 111, 2), (refused, 111, 3)] {
        correlator.on_sample(&lost(55, 9));
        hear(&mut correlator, of_peer(failed(60, errno), peer, connection), at(60));
        hear(&mut correlator, of_peer(marked(60), peer, connection), at(60));
    }
    for (group, connection) in [("app", 1), ("other", 2)] {
        let mut event = event(60, EventKind::NoLivePeers, Upstream::Group(group.to_owned()));
        event.connection = Some(connection);
        hear(&mut correlator, event, at(60));
    }
    let verdicts = decide_all(&mut correlator);
    let causes: Vec<Cause> = verdicts[6..].iter().map(|verdict| verdict.cause).collect();
    assert_eq!(causes, [Cause::AcceptQueueOverflow, Cause::Refused]);
}

/// nginx lets one request try a peer that failed; the others go without, however long ago that was.
#[test]
fn an_old_marking_explains_where_the_peer_is_known_to_be_the_groups() {
    let mut correlator = Correlator::default();
    correlator.on_sample(&lost(0, 0));
    hear(&mut correlator, failed(60, 111), at(60));
    hear(&mut correlator, marked(60), at(60));
    hear(&mut correlator, no_live(60), at(60));
    let of_another_request = ProxyEvent { connection: Some(9), ..no_live(260) };
    hear(&mut correlator, of_another_request, at(260));
    let verdict = decide_all(&mut correlator).remove(3);
    assert_eq!(verdict.cause, Cause::Refused);
}

#[test]
fn an_ejection_has_the_cause_of_the_requests_that_led_to_it() {
    let mut correlator = Correlator::default();
    let envoy = |mut event: ProxyEvent, source: &str| {
        (event.proxy, event.connection, event.source) = (ProxyKind::Envoy, None, source.to_owned());
        event
    };
    let phase = Phase::Other;
    let failure = Some(Failure::BadStatus);
    let marking = event(60, EventKind::PeerMarked { phase, failure }, peer());
    hear(&mut correlator, envoy(marking, "outlier.log"), at(60));
    let inventory = Inventory::default();
    // The access log is written later.
    assert!(correlator.decide(at(68), &inventory).is_empty());
    hear(&mut correlator, envoy(failed(60, 111), "access.log"), at(69));
    let verdicts = correlator.decide(at(75), &inventory);
    assert_eq!(verdicts.iter().map(|v| v.cause).collect::<Vec<_>>(), [Cause::Refused; 2]);
}

#[test]
fn four_addresses_and_ports_join_exactly() {
    let mut correlator = Correlator::default();
    let local = "10.0.0.5:40000".parse().unwrap();
    correlator.on_kernel_event(&KernelEvent {
        at: at(59),
        listener: ListenerId { netns: NETNS, addr: "0.0.0.0:8000".parse().unwrap(), inode: 3 },
        peer: local,
        class: Class::SynQueueFull,
        queue: None,
    });
    // Others lost theirs for another reason.
    correlator.on_sample(&lost(59, 9));
    let own = ProxyEvent { local_addr: Some(local), ..failed(60, 110) };
    hear(&mut correlator, own, at(60));
    hear(&mut correlator, failed(60, 110), at(60));
    let verdicts = decide_all(&mut correlator);
    assert_eq!((verdicts[0].cause, verdicts[0].is_exact), (Cause::SynQueueFull, true));
    assert_eq!((verdicts[1].cause, verdicts[1].is_exact), (Cause::AcceptQueueOverflow, false));
}

#[test]
fn an_attempt_that_tells_its_duration_is_searched_no_further_back() {
    let mut correlator = Correlator::default();
    correlator.on_sample(&lost(50, 9));
    let short = ProxyEvent { took_ms: Some(300), ..failed(60, 110) };
    hear(&mut correlator, short, at(60));
    let verdict = decide_all(&mut correlator).remove(0);
    assert_eq!(verdict.window.from, UnixMs(at(58).0 + 700));
    assert!(!verdict.is_joined());
}

#[test]
fn a_peer_that_is_back_explains_nothing_any_more() {
    let mut correlator = Correlator::default();
    hear(&mut correlator, marked(60), at(60));
    decide_all(&mut correlator);
    hear(&mut correlator, event(70, EventKind::PeerBack, peer()), at(70));
    hear(&mut correlator, no_live(71), at(71));
    let verdicts = decide_all(&mut correlator);
    assert_eq!(verdicts.len(), 1, "there is nothing to explain about a peer that is back");
    assert_eq!(verdicts[0].cause, Cause::NoKernelEvidence);
    assert!(verdicts[0].because.starts_with("no marking"), "{}", verdicts[0].because);
}

#[test]
fn what_was_before_the_start_is_told() {
    let mut correlator = Correlator::default();
    correlator.on_sample(&lost(50, 9));
    hear(&mut correlator, failed(60, 110), at(60));
    let verdict = decide_all(&mut correlator).remove(0);
    assert_eq!(verdict.health.unseen_ms, 50_000);
}

#[test]
fn no_live_peers_without_a_marking_is_honest() {
    let mut correlator = Correlator::default();
    hear(&mut correlator, no_live(61), at(61));
    let verdict = decide_all(&mut correlator).remove(0);
    assert_eq!((verdict.cause, verdict.confidence), (Cause::NoKernelEvidence, Confidence::Low));
}

#[test]
fn a_marking_of_another_proxy_or_long_ago_does_not_explain() {
    let mut correlator = Correlator::default();
    correlator.on_sample(&lost(55, 9));
    hear(&mut correlator, marked(60), at(60));
    let mut other = no_live(61);
    other.source = "another.log".to_owned();
    hear(&mut correlator, other, at(61));
    hear(&mut correlator, no_live(150), at(150));
    let verdicts = decide_all(&mut correlator);
    let causes: Vec<Cause> = verdicts[1..].iter().map(|verdict| verdict.cause).collect();
    assert_eq!(causes, [Cause::NoKernelEvidence, Cause::ProxyLimit]);
}

#[test]
fn events_beyond_the_limit_are_decided_early_and_none_is_lost() {
    let mut correlator = Correlator::default();
    let inventory = Inventory::default();
    for _ in 0..MOST_PENDING + 10 {
        hear(&mut correlator, no_live(60), at(60));
    }
    let early = correlator.decide(at(60), &inventory).len();
    assert_eq!(early, 10);
    assert_eq!(decide_all(&mut correlator).len(), MOST_PENDING);
}

/// A Kubernetes Service, or a container's published port: nothing listens at the address itself.
#[test]
fn a_translated_address_leads_to_the_listener_behind_it() {
    let mut correlator = Correlator::default();
    correlator.on_sample(&lost(0, 0));
    correlator.on_sample(&lost(59, 9));
    let service = Upstream::Inet("10.96.0.1:80".parse().unwrap());
    let through = |leads_to: &[&str]| ProxyEvent {
        upstream: service.clone(),
        leads_to: leads_to.iter().map(|addr| addr.parse().unwrap()).collect(),
        ..failed(60, 110)
    };
    hear(&mut correlator, through(&[PEER]), at(60));
    hear(&mut correlator, through(&["10.0.0.7:8000", PEER]), at(60));
    hear(&mut correlator, through(&[]), at(60));
    let verdicts = decide_all(&mut correlator);
    let told: Vec<_> = verdicts.iter().map(|verdict| (verdict.cause, verdict.confidence)).collect();
    assert_eq!(told[0], (Cause::AcceptQueueOverflow, Confidence::High));
    // Which of the two it went to is not known.
    assert_eq!(told[1], (Cause::AcceptQueueOverflow, Confidence::Low));
    assert_eq!(told[2], (Cause::NoKernelEvidence, Confidence::Low));
}

/// Whoever failed before the agent began to watch has failed again within `fail_timeout`.
#[test]
fn a_young_agent_knows_of_limits_once_it_has_watched_for_long_enough() {
    for (second, cause) in [(5, Cause::NoKernelEvidence), (20, Cause::ProxyLimit)] {
        let mut correlator = Correlator::default();
        correlator.on_sample(&lost(100, 0));
        hear(&mut correlator, no_live(100 + second), at(100 + second));
        let verdict = decide_all(&mut correlator).remove(0);
        assert_eq!((verdict.cause, verdict.confidence), (cause, Confidence::Low), "{second}");
    }
}
