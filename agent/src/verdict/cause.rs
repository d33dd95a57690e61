//! The rules: from how an attempt failed and what the kernel lost meanwhile, to a cause.

use super::{
    evidence::Losses,
    verdict::{Cause, Confidence},
};
use crate::{
    kernel::{Attribution, Class, Tally},
    proxy::{Failure, Phase},
};

/// Linux error numbers, as proxies print them.
mod errno {
    pub const EAGAIN: i32 = 11;
    pub const EPIPE: i32 = 32;
    pub const EADDRNOTAVAIL: i32 = 99;
    pub const ENETUNREACH: i32 = 101;
    pub const ECONNRESET: i32 = 104;
    pub const ETIMEDOUT: i32 = 110;
    pub const ECONNREFUSED: i32 = 111;
    pub const EHOSTUNREACH: i32 = 113;
}

/// What is known about an attempt when its cause is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// How far it had come.
    pub phase: Phase,
    /// How it failed; unknown for a marking that no failing attempt goes with.
    pub failure: Option<Failure>,
    /// What the listener behind the address lost in the window.
    pub losses: Option<Losses>,
    /// How the address led to a listener.
    pub trail: Trail,
}

/// How the upstream's address led to a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trail {
    /// No listener on this host takes connections to the address.
    Lost,
    /// Exactly one does.
    Clear,
    /// Several do, in different namespaces; the one that lost something was taken.
    Ambiguous,
}

/// A cause with how sure it is and why, in words that continue "because".
pub struct Ruling {
    /// The cause.
    pub cause: Cause,
    /// How sure.
    pub confidence: Confidence,
    /// The reason.
    pub because: String,
}

/// Applies the rules.
pub fn rule(facts: &Facts) -> Ruling {
    match facts.failure {
        Some(Failure::Errno { errno }) => by_errno(errno, facts),
        Some(Failure::ClosedEarly) => ruling(
            Cause::Application,
            Confidence::Medium,
            "the application closed the connection before it had answered",
        ),
        Some(Failure::InvalidResponse) => ruling(
            Cause::Application,
            Confidence::High,
            "the application answered something that is no valid response",
        ),
        Some(Failure::Aborted) => reset(facts),
        Some(Failure::OwnLimit | Failure::Unknown | Failure::BadStatus) => no_evidence(facts),
        None if facts.phase == Phase::Connect => timed_out(facts),
        None => ruling(
            Cause::Application,
            Confidence::Medium,
            "no failed attempt goes with it: the application answered with a status that the proxy \
             counts as a failure",
        ),
    }
}

fn by_errno(errno: i32, facts: &Facts) -> Ruling {
    match errno {
        errno::ETIMEDOUT => timed_out(facts),
        errno::ECONNREFUSED => match facts.trail {
            Trail::Lost => ruling(
                Cause::Refused,
                Confidence::High,
                "the connection was refused and nothing listens at the address",
            ),
            _ => ruling(
                Cause::Refused,
                Confidence::Medium,
                "the connection was refused; a listener is there now",
            ),
        },
        errno::ECONNRESET | errno::EPIPE => reset(facts),
        errno::EADDRNOTAVAIL => ruling(
            Cause::ProxyPortsExhausted,
            Confidence::High,
            "the proxy had no ephemeral port left towards this peer; the peer is innocent",
        ),
        errno::ENETUNREACH | errno::EHOSTUNREACH => {
            ruling(Cause::Unreachable, Confidence::High, "there is no route to the peer")
        }
        // unix_stream_connect gives EAGAIN for a full queue and for nothing else.
        errno::EAGAIN => ruling(
            Cause::AcceptQueueOverflow,
            Confidence::High,
            "the Unix socket's accept queue was full (connect gave EAGAIN)",
        ),
        other => ruling(
            Cause::NoKernelEvidence,
            Confidence::Low,
            &format!("error number {other} says nothing about a queue"),
        ),
    }
}

fn timed_out(facts: &Facts) -> Ruling {
    let Some(losses) = &facts.losses else { return no_evidence(facts) };
    let tally = &losses.tally;
    let (cause, confidence) = if tally.overflows() > 0 {
        (Cause::AcceptQueueOverflow, overflow_confidence(facts, losses))
    } else if tally[Class::SynQueueFull] > 0 {
        (Cause::SynQueueFull, confidence_of(facts, losses))
    } else if tally.drops() > 0 {
        (Cause::HandshakeDropped, confidence_of(facts, losses))
    } else {
        return no_evidence(facts);
    };
    ruling(cause, confidence, &in_words(tally))
}

/// A timeout after `connect` had succeeded is explained best by a lost final ACK: the proxy believes
/// it is connected, the listener does not know of it. A queue that was full for SYNs alone only
/// makes it likely.
fn overflow_confidence(facts: &Facts, losses: &Losses) -> Confidence {
    let sure = confidence_of(facts, losses);
    let late = final_acks(&losses.tally) + losses.tally[Class::CookieAcceptQueueFull] > 0;
    if facts.phase == Phase::Connect || late { sure } else { sure.min(Confidence::Medium) }
}

fn confidence_of(facts: &Facts, losses: &Losses) -> Confidence {
    match (facts.trail, losses.attribution) {
        (Trail::Lost | Trail::Ambiguous, _) => Confidence::Low,
        (Trail::Clear, Attribution::Proportional) => Confidence::Medium,
        (Trail::Clear, Attribution::Exclusive | Attribution::Exact) => Confidence::High,
    }
}

/// With `tcp_abort_on_overflow` a full queue answers by a reset. Without, it does so in the end: the
/// proxy, whose final ACK was dropped, believes it is connected and sends its request again and
/// again, until the listener has given the handshake up (`reqsk_timer_handler`) and knows of no
/// connection.
fn reset(facts: &Facts) -> Ruling {
    match &facts.losses {
        Some(losses) if losses.tally[Class::AckAcceptQueueFullReset] > 0 => ruling(
            Cause::AcceptQueueOverflow,
            confidence_of(facts, losses),
            &format!("{}, answered by a reset (tcp_abort_on_overflow)", in_words(&losses.tally)),
        ),
        Some(losses) if facts.phase != Phase::Connect && lost_final_acks(&losses.tally) => ruling(
            Cause::AcceptQueueOverflow,
            confidence_of(facts, losses).min(Confidence::Medium),
            &format!(
                "{}; a connection whose final ACK is dropped ends by a reset once its request has \
                 expired",
                in_words(&losses.tally)
            ),
        ),
        _ => ruling(
            Cause::Reset,
            Confidence::Medium,
            "the peer reset the connection, and not for a full queue",
        ),
    }
}

fn no_evidence(facts: &Facts) -> Ruling {
    match facts.trail {
        Trail::Lost => ruling(
            Cause::NoKernelEvidence,
            Confidence::Low,
            "no listener on this host takes connections to the address",
        ),
        _ => ruling(
            Cause::NoKernelEvidence,
            Confidence::Medium,
            "the listener lost nothing in that time: slow application, or loss on the way",
        ),
    }
}

/// "dropped 12 SYNs and 3 final ACKs, accept queue full".
pub fn in_words(tally: &Tally) -> String {
    let parts = [
        (tally[Class::SynAcceptQueueFull], "SYN", ""),
        (final_acks(tally), "final ACK", ""),
        (tally[Class::CookieAcceptQueueFull], "ACK", " with a SYN cookie"),
        (tally[Class::FastOpenQueueFull], "Fast Open request", ""),
        (tally[Class::UnstagedAcceptQueueFull], "handshake segment", ""),
    ];
    let mut clauses = Vec::new();
    if tally.overflows() > 0 {
        clauses.push(format!("dropped {}, accept queue full", enumerate(&parts)));
    }
    if tally[Class::SynQueueFull] > 0 {
        let parts = [(tally[Class::SynQueueFull], "SYN", "")];
        clauses.push(format!("dropped {}, SYN queue full", enumerate(&parts)));
    }
    let rest = tally.drops() - tally.overflows() - tally[Class::SynQueueFull];
    if rest > 0 {
        let parts = [(rest, "handshake segment", "")];
        clauses.push(format!("dropped {} for another reason", enumerate(&parts)));
    }
    if tally.synack_retransmits() > 0 {
        let own = match tally[Class::RetransmitOwnDrop] {
            0 => String::new(),
            count => format!(", {count} of them for a final ACK it had dropped itself"),
        };
        let again = plural(tally.synack_retransmits(), "SYN/ACK", "");
        clauses.push(format!("sent {again} again{own}"));
    }
    let expired = tally[Class::ExpiredOwnDrop]
        + tally[Class::ExpiredSilence]
        + tally[Class::ExpiredPruned]
        + tally[Class::ExpiredListenerClosed];
    if expired > 0 {
        clauses.push(format!("gave up {}", plural(expired, "pending request", "")));
    }
    format!("the listener {}", clauses.join("; "))
}

/// Whether final ACKs were lost to a full queue, as far as the rung in use can tell.
fn lost_final_acks(tally: &Tally) -> bool {
    final_acks(tally) + tally[Class::UnstagedAcceptQueueFull] > 0
}

fn final_acks(tally: &Tally) -> u64 {
    tally[Class::AckAcceptQueueFull] + tally[Class::AckAcceptQueueFullReset]
}

fn enumerate(parts: &[(u64, &str, &str)]) -> String {
    let named: Vec<String> = parts
        .iter()
        .filter(|(count, ..)| *count > 0)
        .map(|(count, noun, tail)| plural(*count, noun, tail))
        .collect();
    match named.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} and {last}", rest.join(", ")),
        None => String::new(),
    }
}

fn plural(count: u64, noun: &str, tail: &str) -> String {
    format!("{count} {noun}{}{tail}", if count == 1 { "" } else { "s" })
}

fn ruling(cause: Cause, confidence: Confidence, because: &str) -> Ruling {
    Ruling { cause, confidence, because: because.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(phase: Phase, errno: i32, tally: Tally) -> Facts {
        let losses =
            (!tally.is_empty()).then_some(Losses { tally, attribution: Attribution::Exact });
        let failure = Some(Failure::Errno { errno });
        Facts { phase, failure, losses, trail: Trail::Clear }
    }

    fn cause_of(facts: &Facts) -> (Cause, Confidence) {
        let Ruling { cause, confidence, .. } = rule(facts);
        (cause, confidence)
    }

    fn syns_and(others: &[(Class, u64)]) -> Tally {
        let mut tally = Tally::of(&[(Class::SynAcceptQueueFull, 3)]);
        tally += Tally::of(others);
        tally
    }

    fn syns() -> Tally {
        syns_and(&[])
    }

    #[test]
    fn a_connect_timeout_with_overflow_is_an_overflow() {
        let facts = facts(Phase::Connect, errno::ETIMEDOUT, syns());
        assert_eq!(cause_of(&facts), (Cause::AcceptQueueOverflow, Confidence::High));
    }

    #[test]
    fn a_connect_timeout_without_losses_has_no_kernel_evidence() {
        let mut facts = facts(Phase::Connect, errno::ETIMEDOUT, Tally::default());
        assert_eq!(cause_of(&facts), (Cause::NoKernelEvidence, Confidence::Medium));
        facts.trail = Trail::Lost;
        assert_eq!(cause_of(&facts), (Cause::NoKernelEvidence, Confidence::Low));
    }

    #[test]
    fn retransmits_alone_are_no_cause() {
        let tally = Tally::of(&[(Class::RetransmitSilence, 9)]);
        let facts = facts(Phase::Connect, errno::ETIMEDOUT, tally);
        assert_eq!(cause_of(&facts).0, Cause::NoKernelEvidence);
    }

    #[test]
    fn a_read_timeout_needs_a_lost_ack_to_be_sure() {
        let syn_only = facts(Phase::ResponseHeader, errno::ETIMEDOUT, syns());
        assert_eq!(cause_of(&syn_only), (Cause::AcceptQueueOverflow, Confidence::Medium));
        let with_ack = syns_and(&[(Class::AckAcceptQueueFull, 1)]);
        let with_ack = facts(Phase::ResponseHeader, errno::ETIMEDOUT, with_ack);
        assert_eq!(cause_of(&with_ack), (Cause::AcceptQueueOverflow, Confidence::High));
    }

    #[test]
    fn a_shared_out_or_ambiguous_loss_is_less_sure() {
        let mut facts = facts(Phase::Connect, errno::ETIMEDOUT, syns());
        facts.losses = Some(Losses { tally: syns(), attribution: Attribution::Proportional });
        assert_eq!(cause_of(&facts).1, Confidence::Medium);
        facts.trail = Trail::Ambiguous;
        assert_eq!(cause_of(&facts).1, Confidence::Low);
    }

    #[test]
    fn a_reset_is_no_overflow_where_only_syns_were_lost() {
        let plain = facts(Phase::ResponseHeader, errno::ECONNRESET, syns());
        assert_eq!(cause_of(&plain).0, Cause::Reset);
        let aborted = Tally::of(&[(Class::AckAcceptQueueFullReset, 2)]);
        let aborted = facts(Phase::ResponseHeader, errno::ECONNRESET, aborted);
        assert_eq!(cause_of(&aborted), (Cause::AcceptQueueOverflow, Confidence::High));
    }

    #[test]
    fn a_reset_after_lost_final_acks_is_the_end_of_a_request_that_expired() {
        let lost = Tally::of(&[(Class::AckAcceptQueueFull, 9), (Class::ExpiredOwnDrop, 1)]);
        let late = facts(Phase::ResponseHeader, errno::ECONNRESET, lost);
        assert_eq!(cause_of(&late), (Cause::AcceptQueueOverflow, Confidence::Medium));
    }

    #[test]
    fn other_error_numbers_have_their_own_causes_whatever_was_lost() {
        for (errno, cause) in [
            (errno::ECONNREFUSED, Cause::Refused),
            (errno::EADDRNOTAVAIL, Cause::ProxyPortsExhausted),
            (errno::EHOSTUNREACH, Cause::Unreachable),
            (errno::EAGAIN, Cause::AcceptQueueOverflow),
            (5, Cause::NoKernelEvidence),
        ] {
            assert_eq!(cause_of(&facts(Phase::Connect, errno, syns())).0, cause, "errno {errno}");
        }
    }

    #[test]
    fn says_why_a_synack_was_sent_again() {
        let tally = Tally::of(&[
            (Class::AckAcceptQueueFull, 4),
            (Class::RetransmitOwnDrop, 2),
            (Class::RetransmitSilence, 1),
            (Class::ExpiredSilence, 1),
        ]);
        assert_eq!(
            in_words(&tally),
            "the listener dropped 4 final ACKs, accept queue full; sent 3 SYN/ACKs again, 2 of them \
             for a final ACK it had dropped itself; gave up 1 pending request"
        );
    }

    #[test]
    fn says_what_was_dropped() {
        let tally = syns_and(&[
            (Class::AckAcceptQueueFull, 1),
            (Class::SynQueueFull, 4),
            (Class::SynOther, 1),
        ]);
        assert_eq!(
            in_words(&tally),
            "the listener dropped 3 SYNs and 1 final ACK, accept queue full; dropped 4 SYNs, SYN \
             queue full; dropped 1 handshake segment for another reason"
        );
    }
}
