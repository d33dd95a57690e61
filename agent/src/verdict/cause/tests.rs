use super::*;
use crate::{
    kernel::{
        QueueDepth,
        path::{Path, Reachability},
    },
    time::Window,
};

const ENDED: UnixMs = UnixMs(100_000);

fn losses(tally: Tally) -> Option<Losses> {
    let window = Window { from: UnixMs(98_000), to: UnixMs(99_000) };
    let dropped = (tally.drops() > 0).then_some(window);
    (!tally.is_empty()).then_some(Losses { tally, attribution: Attribution::Exact, dropped })
}

fn facts(phase: Phase, failure: Failure, tally: Tally) -> Facts {
    Facts {
        phase,
        failure: Some(failure),
        ended: ENDED,
        losses: losses(tally),
        connection: None,
        trail: Trail::Clear,
        is_beyond: false,
        queue: None,
        syn_queue_full: false,
        syn_repeated: false,
        aborting: false,
        path: None,
        unseen: false,
    }
}

fn cause_of(facts: &Facts) -> (Cause, Confidence) {
    let Ruling { cause, confidence, .. } = rule(facts);
    (cause, confidence)
}

fn syns() -> Tally {
    Tally::of(&[(Class::SynAcceptQueueFull, 3)])
}

fn waiting() -> Option<QueueSeen> {
    Some(QueueSeen { is_never_empty: true, high: QueueDepth { len: 5, limit: 128 } })
}

#[test]
fn a_connect_timeout_with_overflow_is_an_overflow() {
    let facts = facts(Phase::Connect, Failure::TIMEOUT, syns());
    assert_eq!(cause_of(&facts), (Cause::AcceptQueueOverflow, Confidence::High));
}

/// The last SYN of a connect that failed was dropped as well.
#[test]
fn losses_long_before_the_end_explain_little() {
    let mut facts = facts(Phase::Connect, Failure::TIMEOUT, syns());
    facts.ended = UnixMs(99_000).later(LAST_SYN);
    assert_eq!(cause_of(&facts).1, Confidence::High);
    facts.ended = facts.ended.later(Duration::from_secs(1));
    assert_eq!(cause_of(&facts).1, Confidence::Low);
}

#[test]
fn a_connect_timeout_without_losses_is_the_ways_fault_where_the_listener_is_known() {
    let mut facts = facts(Phase::Connect, Failure::TIMEOUT, Tally::default());
    assert_eq!(cause_of(&facts), (Cause::PathLoss, Confidence::Medium));
    facts.syn_repeated = true;
    assert_eq!(cause_of(&facts), (Cause::PathLoss, Confidence::High));
    facts.unseen = true;
    assert_eq!(cause_of(&facts), (Cause::PathLoss, Confidence::Low));
    facts.trail = Trail::Lost;
    assert_eq!(cause_of(&facts), (Cause::NoKernelEvidence, Confidence::Low));
}

#[test]
fn answers_that_nobody_confirmed_were_lost_on_their_way() {
    let tally = Tally::of(&[(Class::RetransmitSilence, 9)]);
    let facts = facts(Phase::Connect, Failure::TIMEOUT, tally);
    assert_eq!(cause_of(&facts), (Cause::PathLoss, Confidence::High));
}

#[test]
fn a_read_timeout_after_lost_final_acks_is_half_open() {
    for class in [Class::AckAcceptQueueFull, Class::CookieAcceptQueueFull, Class::RetransmitOwnDrop]
    {
        let facts = facts(Phase::ResponseHeader, Failure::TIMEOUT, Tally::of(&[(class, 1)]));
        assert_eq!(cause_of(&facts), (Cause::HalfOpen, Confidence::Medium), "{class:?}");
    }
}

#[test]
fn losses_of_the_very_connection_leave_no_doubt() {
    let own = Some(Tally::of(&[(Class::AckAcceptQueueFull, 1)]));
    let late = facts(Phase::ResponseHeader, Failure::TIMEOUT, Tally::default());
    let late = Facts { connection: own, ..late };
    assert_eq!(cause_of(&late), (Cause::HalfOpen, Confidence::High));
    let reset = Facts { failure: Some(Failure::RESET), ..late };
    assert_eq!(cause_of(&reset), (Cause::HalfOpen, Confidence::High));
    let own = Some(Tally::of(&[(Class::SynQueueFull, 1)]));
    let early = facts(Phase::Connect, Failure::TIMEOUT, syns());
    let early = Facts { connection: own, ..early };
    assert_eq!(cause_of(&early), (Cause::SynQueueFull, Confidence::High));
}

#[test]
fn a_queue_that_is_never_empty_is_not_accepted_from() {
    let mut facts = facts(Phase::ResponseHeader, Failure::TIMEOUT, Tally::default());
    facts.queue = waiting();
    assert_eq!(cause_of(&facts), (Cause::NotAccepting, Confidence::High));
    facts.queue = Some(QueueSeen { is_never_empty: false, ..waiting().unwrap() });
    assert_eq!(cause_of(&facts), (Cause::ApplicationSlow, Confidence::Medium));
    facts.trail = Trail::Lost;
    assert_eq!(cause_of(&facts).0, Cause::NoKernelEvidence);
}

#[test]
fn a_shared_out_or_ambiguous_loss_is_less_sure() {
    let mut facts = facts(Phase::Connect, Failure::TIMEOUT, syns());
    facts.losses = facts.losses.map(|l| Losses { attribution: Attribution::Proportional, ..l });
    assert_eq!(cause_of(&facts).1, Confidence::Medium);
    facts.trail = Trail::Ambiguous;
    assert_eq!(cause_of(&facts).1, Confidence::Low);
}

#[test]
fn a_reset_is_no_overflow_where_only_syns_were_lost() {
    let plain = facts(Phase::ResponseHeader, Failure::RESET, syns());
    assert_eq!(cause_of(&plain).0, Cause::ApplicationClosed);
    let aborted = Tally::of(&[(Class::AckAcceptQueueFullReset, 2)]);
    let aborted = facts(Phase::ResponseHeader, Failure::RESET, aborted);
    assert_eq!(cause_of(&aborted), (Cause::AbortOnOverflow, Confidence::High));
    let set = Facts { aborting: true, ..plain };
    assert_eq!(cause_of(&set), (Cause::AbortOnOverflow, Confidence::Medium));
}

#[test]
fn a_reset_after_lost_final_acks_is_the_end_of_a_request_that_expired() {
    let lost = Tally::of(&[(Class::AckAcceptQueueFull, 9), (Class::ExpiredOwnDrop, 1)]);
    let late = facts(Phase::ResponseHeader, Failure::RESET, lost);
    assert_eq!(cause_of(&late), (Cause::HalfOpen, Confidence::Medium));
}

#[test]
fn what_the_failure_itself_tells_stands_whatever_was_lost() {
    let errno = |errno| Failure::Errno { errno };
    for (failure, cause) in [
        (Failure::REFUSED, Cause::Refused),
        (errno(errno::ENOENT), Cause::Refused),
        (errno(errno::EADDRNOTAVAIL), Cause::ProxyPortsExhausted),
        (errno(errno::EMFILE), Cause::ProxyLimit),
        (Failure::OwnLimit, Cause::ProxyLimit),
        (errno(errno::EHOSTUNREACH), Cause::Unreachable),
        (errno(errno::EAGAIN), Cause::AcceptQueueOverflow),
        (Failure::ClosedEarly, Cause::ApplicationClosed),
        (Failure::BadStatus, Cause::ApplicationFailed),
        (Failure::InvalidResponse, Cause::ApplicationFailed),
        (errno(5), Cause::NoKernelEvidence),
    ] {
        assert_eq!(cause_of(&facts(Phase::Connect, failure, syns())).0, cause, "{failure:?}");
    }
}

#[test]
fn what_the_proxy_does_not_tell_is_told_by_losses_alone() {
    let lost = facts(Phase::Connect, Failure::Unknown, syns());
    assert_eq!(cause_of(&lost), (Cause::AcceptQueueOverflow, Confidence::Medium));
    let none = facts(Phase::Connect, Failure::Unknown, Tally::default());
    assert_eq!(cause_of(&none), (Cause::NoKernelEvidence, Confidence::Low));
}

/// The lowest rung does not see which SYN was dropped for what, and the kernel's counter tells.
#[test]
fn a_full_syn_queue_is_told_by_the_kernels_counter_too() {
    let other = Tally::of(&[(Class::UnstagedOther, 2)]);
    let dropped = facts(Phase::Connect, Failure::TIMEOUT, other);
    assert_eq!(cause_of(&dropped).0, Cause::HandshakeDropped);
    let told = Facts { syn_queue_full: true, ..dropped };
    assert_eq!(cause_of(&told).0, Cause::SynQueueFull);
}

/// With `tcp_abort_on_overflow` a dropped final ACK is answered: it is not what somebody waits for.
#[test]
fn nobody_waits_for_an_answer_to_what_was_reset() {
    let lost = Tally::of(&[(Class::AckAcceptQueueFull, 4)]);
    let late = facts(Phase::ResponseHeader, Failure::TIMEOUT, lost);
    let late = Facts { aborting: true, queue: waiting(), ..late };
    assert_eq!(cause_of(&late), (Cause::NotAccepting, Confidence::High));
}

/// Docker's userland proxy accepts at once, and waits for the container in the client's stead.
#[test]
fn what_a_container_drops_shows_as_no_answer_of_its_forwarder() {
    for failure in [Failure::TIMEOUT, Failure::RESET, Failure::ClosedEarly] {
        let facts = Facts { is_beyond: true, ..facts(Phase::ResponseHeader, failure, syns()) };
        assert_eq!(cause_of(&facts), (Cause::AcceptQueueOverflow, Confidence::Medium));
        let without = Facts { losses: None, ..facts };
        assert_ne!(cause_of(&without).0, Cause::AcceptQueueOverflow);
    }
    let answered = facts(Phase::ResponseHeader, Failure::BadStatus, syns());
    let facts = Facts { is_beyond: true, ..answered };
    assert_eq!(cause_of(&facts).0, Cause::ApplicationFailed);
}

fn with_path(errno: i32, path: Path) -> (Cause, Confidence) {
    let failure = Failure::Errno { errno };
    let facts = facts(Phase::Connect, failure, Tally::default());
    cause_of(&Facts { path: Some(PeerPath { path, is_router: false }), ..facts })
}

fn neighbour(state: Reachability) -> Path {
    Path::Neighbour { addr: [10, 0, 0, 2].into(), is_gateway: false, state }
}

#[test]
fn a_dead_neighbour_is_named_whatever_the_proxy_calls_it() {
    let dead = neighbour(Reachability::Unanswered);
    for errno in [errno::EHOSTUNREACH, errno::ENETUNREACH, errno::ETIMEDOUT, errno::EACCES] {
        let expected = (Cause::NeighbourUnresponsive, Confidence::High);
        assert_eq!(with_path(errno, dead), expected, "{errno}");
    }
    let lost = facts(Phase::Connect, Failure::TIMEOUT, syns());
    let lost = Facts { path: Some(PeerPath { path: dead, is_router: false }), ..lost };
    assert_eq!(cause_of(&lost).0, Cause::AcceptQueueOverflow, "the kernel saw the drop");
}

#[test]
fn no_route_and_one_that_refuses_are_unreachable() {
    let unreachable = (Cause::Unreachable, Confidence::High);
    assert_eq!(with_path(errno::ENETUNREACH, Path::NoRoute), unreachable);
    for errno in [errno::EHOSTUNREACH, errno::EACCES, errno::EINVAL] {
        assert_eq!(with_path(errno, Path::Refused { errno }), unreachable);
    }
}

#[test]
fn an_open_way_means_that_somebody_rejected() {
    for (state, sure) in [
        (Reachability::Answers, Confidence::High),
        (Reachability::Fixed, Confidence::High),
        (Reachability::Unconfirmed, Confidence::Medium),
        (Reachability::Unknown, Confidence::Medium),
    ] {
        let rejected = (Cause::Rejected, sure);
        assert_eq!(with_path(errno::EHOSTUNREACH, neighbour(state)), rejected);
    }
    let answers = neighbour(Reachability::Answers);
    assert_eq!(with_path(errno::EACCES, answers), (Cause::Rejected, Confidence::Medium));
    assert_eq!(with_path(errno::EINVAL, answers).0, Cause::NoKernelEvidence);
    assert_eq!(with_path(errno::ETIMEDOUT, answers).0, Cause::PathLoss);
}

#[test]
fn a_way_that_was_not_looked_at_leaves_it_open() {
    let facts = facts(Phase::Connect, Failure::Errno { errno: errno::EHOSTUNREACH }, syns());
    assert_eq!(cause_of(&facts), (Cause::Unreachable, Confidence::Medium));
}
