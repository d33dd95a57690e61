//! The rules: from how an attempt failed and what the kernel did meanwhile, to a cause.

mod path;

use std::time::Duration;

use super::{
    evidence::{Losses, QueueSeen},
    verdict::{Cause, Confidence},
    words::{final_acks, in_words},
};
use crate::{
    kernel::{Attribution, Class, Tally, path::PeerPath},
    proxy::{Failure, Phase},
    time::UnixMs,
};

use path::{not_allowed, path_closed, unreachable};

/// Linux error numbers, as proxies print them.
mod errno {
    pub const EPERM: i32 = 1;
    pub const ENOENT: i32 = 2;
    pub const EAGAIN: i32 = 11;
    pub const EACCES: i32 = 13;
    pub const EINVAL: i32 = 22;
    pub const ENFILE: i32 = 23;
    pub const EMFILE: i32 = 24;
    pub const EPIPE: i32 = 32;
    pub const ENONET: i32 = 64;
    pub const ENOPROTOOPT: i32 = 92;
    pub const EADDRNOTAVAIL: i32 = 99;
    pub const ENETUNREACH: i32 = 101;
    pub const ECONNRESET: i32 = 104;
    pub const ETIMEDOUT: i32 = 110;
    pub const ECONNREFUSED: i32 = 111;
    pub const EHOSTDOWN: i32 = 112;
    pub const EHOSTUNREACH: i32 = 113;
}

/// A connect that times out has lost every one of its SYNs, the last not longer than this before its
/// end: they are sent at 0, 1, 2, 3, 4, 5, 7, 11, 19 and 35 s (`tcp_syn_linear_timeouts`, since 6.5),
/// and before that at 0, 1, 3, 7, 15 and 31 s; a proxy gives up after 60 s at the latest.
const LAST_SYN: Duration = Duration::from_secs(30);

/// What is known about an attempt when its cause is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// How far it had come.
    pub phase: Phase,
    /// How it failed; unknown for a marking that no failing attempt goes with.
    pub failure: Option<Failure>,
    /// When it ended.
    pub ended: UnixMs,
    /// What the listener behind the address lost in the window.
    pub losses: Option<Losses>,
    /// What the kernel did to this very connection.
    pub connection: Option<Tally>,
    /// How the address led to a listener.
    pub trail: Trail,
    /// The proxy's connection came to a program that hands it on to the listener.
    pub is_beyond: bool,
    /// The listener's accept queue, where it was not empty.
    pub queue: Option<QueueSeen>,
    /// A SYN queue was full where the listener is (TCPReqQFullDrop).
    pub syn_queue_full: bool,
    /// SYNs were sent to the port again.
    pub syn_repeated: bool,
    /// `tcp_abort_on_overflow` is set where the listener is.
    pub aborting: bool,
    /// The way to the peer a moment after the attempt failed.
    pub path: Option<PeerPath>,
    /// Part of the window was before the agent began to watch: what was not seen may have been.
    pub unseen: bool,
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
    pub cause: Cause,
    pub confidence: Confidence,
    /// The reason.
    pub because: String,
}

/// Applies the rules.
pub fn rule(facts: &Facts) -> Ruling {
    use Confidence::{High, Medium};
    if let Some(dropped) = dropped_beyond(facts) {
        return dropped;
    }
    match facts.failure {
        Some(Failure::Errno { errno }) => by_errno(errno, facts),
        Some(Failure::Aborted) => reset(facts),
        Some(Failure::ClosedEarly) => ruling(
            Cause::ApplicationClosed,
            Medium,
            "the application closed the connection before it answered",
        ),
        Some(Failure::InvalidResponse) => {
            ruling(Cause::ApplicationFailed, High, "the application sent an invalid response")
        }
        Some(Failure::BadStatus) => ruling(
            Cause::ApplicationFailed,
            High,
            "the application answered with a status that the proxy counts as a failure",
        ),
        Some(Failure::OwnLimit) => {
            ruling(Cause::ProxyLimit, High, "the proxy reached one of its own limits")
        }
        Some(Failure::Unknown) => untold(facts),
        None if matches!(facts.phase, Phase::Connect | Phase::Other) => untold(facts),
        None => ruling(
            Cause::ApplicationFailed,
            Medium,
            "there is no failed attempt for it: the application answered with a status that the \
             proxy counts as a failure",
        ),
    }
}

fn by_errno(errno: i32, facts: &Facts) -> Ruling {
    use Confidence::{High, Low, Medium};
    match errno {
        errno::ETIMEDOUT if facts.phase == Phase::Connect => connect_timed_out(facts),
        errno::ETIMEDOUT if facts.phase == Phase::Other => {
            let closed = || syn_dropped(facts).or_else(|| path_closed(facts));
            let ruling = closed().unwrap_or_else(|| answer_timed_out(facts));
            Ruling { confidence: ruling.confidence.min(Medium), ..ruling }
        }
        errno::ETIMEDOUT => answer_timed_out(facts),
        errno::ECONNRESET | errno::EPIPE => reset(facts),
        errno::ECONNREFUSED => match facts.trail {
            Trail::Lost => ruling(
                Cause::Refused,
                High,
                "the connection was refused, and nothing on this host listens at the address",
            ),
            _ => ruling(
                Cause::Refused,
                Medium,
                "the connection was refused; a listener is there now, so either it was not there a \
                 moment ago or a firewall refuses on its behalf (by a reset, or by ICMP port \
                 unreachable)",
            ),
        },
        errno::ENOENT => ruling(Cause::Refused, High, "the Unix socket does not exist"),
        errno::EADDRNOTAVAIL => ruling(
            Cause::ProxyPortsExhausted,
            High,
            "the proxy had no ephemeral port left for this peer; the peer is healthy",
        ),
        errno::EMFILE | errno::ENFILE => {
            ruling(Cause::ProxyLimit, High, "the proxy had no file descriptor left")
        }
        errno::ENETUNREACH | errno::EHOSTUNREACH => unreachable(errno, facts),
        errno::EACCES | errno::EPERM | errno::EINVAL if facts.path.is_some() => {
            path_closed(facts).unwrap_or_else(|| not_allowed(errno))
        }
        // icmp_err_convert (net/ipv4/icmp.c) gives these for ICMP messages, connect(2) otherwise not.
        errno::ENONET | errno::ENOPROTOOPT | errno::EHOSTDOWN => ruling(
            Cause::Rejected,
            Medium,
            "a router or the peer's host answered with ICMP unreachable",
        ),
        // unix_stream_connect gives EAGAIN for a full queue and for nothing else.
        errno::EAGAIN => ruling(
            Cause::AcceptQueueOverflow,
            High,
            "the Unix socket's accept queue was full (connect returned EAGAIN)",
        ),
        other => ruling(
            Cause::NoKernelEvidence,
            Low,
            &format!("error number {other} is not related to a queue"),
        ),
    }
}

/// A connect times out where each of its SYNs, or of their answers, was lost.
fn connect_timed_out(facts: &Facts) -> Ruling {
    if let Some(dropped) = syn_dropped(facts) {
        return dropped;
    }
    if let Some(closed) = path_closed(facts) {
        return closed;
    }
    if facts.trail == Trail::Lost {
        return elsewhere();
    }
    let is_sure = facts.syn_repeated || answers_lost(facts);
    let sure = if is_sure { Confidence::High } else { Confidence::Medium };
    let how = match (facts.syn_repeated, answers_lost(facts)) {
        (_, true) => ", and its SYN/ACKs were not answered",
        (true, _) => ", and the retransmitted SYNs were not answered",
        _ => "",
    };
    ruling(
        Cause::PathLoss,
        by_absence(facts, sure),
        &format!(
            "the listener lost nothing in that time{how}: the network between proxy and peer \
                  lost segments"
        ),
    )
}

/// The SYN dropped at the listener.
fn syn_dropped(facts: &Facts) -> Option<Ruling> {
    if let Some(own) = &facts.connection {
        return Some(ruling(drop_of(own, facts)?, Confidence::High, &of_this_connection(own)));
    }
    let losses = facts.losses.as_ref()?;
    let recently = losses.dropped.is_some_and(|dropped| dropped.to.later(LAST_SYN) >= facts.ended);
    let confidence = confidence_of(facts, losses);
    let confidence = if recently { confidence } else { confidence.min(Confidence::Low) };
    Some(ruling(drop_of(&losses.tally, facts)?, confidence, &in_words(&losses.tally)))
}

fn drop_of(tally: &Tally, facts: &Facts) -> Option<Cause> {
    let unstaged = tally[Class::UnstagedOther] > 0 && facts.syn_queue_full;
    if tally.overflows() > 0 {
        Some(Cause::AcceptQueueOverflow)
    } else if tally[Class::SynQueueFull] > 0 || unstaged {
        Some(Cause::SynQueueFull)
    } else {
        (tally.drops() > 0).then_some(Cause::HandshakeDropped)
    }
}

fn answers_lost(facts: &Facts) -> bool {
    facts.losses.is_some_and(|losses| losses.tally[Class::RetransmitSilence] > 0)
}

/// The proxy was connected, as it believes, and no answer came. Either the listener does not know of
/// the connection, or nobody has accepted it, or it takes its time.
fn answer_timed_out(facts: &Facts) -> Ruling {
    if let Some(own) = facts.connection.filter(|own| own.overflows() > 0) {
        return ruling(Cause::HalfOpen, Confidence::High, &of_this_connection(&own));
    }
    let waiting = facts.queue.filter(|queue| queue.is_never_empty);
    // Whoever is told by a reset waits for nothing.
    let silent = facts.losses.filter(|_| !facts.aborting);
    if let Some(losses) = silent.filter(|losses| lost_final_acks(&losses.tally)) {
        // Others' connections may have lost them; with some waiting, both are likely.
        let sure = confidence_of(facts, &losses).min(Confidence::Medium);
        let sure = if waiting.is_some() { Confidence::Low } else { sure };
        return ruling(Cause::HalfOpen, sure, &in_words(&losses.tally));
    }
    if let Some(queue) = waiting {
        let sure = if facts.trail == Trail::Clear { Confidence::High } else { Confidence::Low };
        let words = format!(
            "up to {} connections waited in the accept queue, and it was not empty in any sample: \
             the application does not accept",
            queue.high.len
        );
        return ruling(Cause::NotAccepting, sure, &words);
    }
    if let Some(losses) = silent.filter(|losses| losses.tally.overflows() > 0) {
        let sure = confidence_of(facts, &losses).min(Confidence::Medium);
        return ruling(Cause::HalfOpen, sure, &in_words(&losses.tally));
    }
    if let Some(closed) = path_closed(facts) {
        return Ruling { confidence: Confidence::Medium, ..closed };
    }
    if facts.trail == Trail::Lost {
        return elsewhere();
    }
    ruling(
        Cause::ApplicationSlow,
        by_absence(facts, Confidence::Medium),
        "the listener lost nothing in that time, and its accept queue was emptied: the \
         application took longer than the proxy's timeout",
    )
}

/// With `tcp_abort_on_overflow` a full queue answers by a reset. Without, it does so in the end: the
/// proxy, whose final ACK was dropped, believes it is connected and sends its request again and
/// again, until the listener has given the handshake up (`reqsk_timer_handler`) and knows of no
/// connection.
fn reset(facts: &Facts) -> Ruling {
    let aborted = |tally: &Tally| {
        tally[Class::AckAcceptQueueFullReset] > 0 || (facts.aborting && tally.overflows() > 0)
    };
    if let Some(own) = facts.connection.filter(|own| own.overflows() > 0) {
        let cause = if aborted(&own) { Cause::AbortOnOverflow } else { Cause::HalfOpen };
        return ruling(cause, Confidence::High, &of_this_connection(&own));
    }
    match &facts.losses {
        Some(losses) if aborted(&losses.tally) => {
            let counted = losses.tally[Class::AckAcceptQueueFullReset] > 0;
            let most = if counted { Confidence::High } else { Confidence::Medium };
            ruling(
                Cause::AbortOnOverflow,
                confidence_of(facts, losses).min(most),
                &format!(
                    "{}, answered with a reset (tcp_abort_on_overflow)",
                    in_words(&losses.tally)
                ),
            )
        }
        Some(losses) if facts.phase != Phase::Connect && lost_final_acks(&losses.tally) => ruling(
            Cause::HalfOpen,
            confidence_of(facts, losses).min(Confidence::Medium),
            &format!(
                "{}; a connection whose final ACK is dropped ends with a reset when its request \
                 expires",
                in_words(&losses.tally)
            ),
        ),
        _ => ruling(
            Cause::ApplicationClosed,
            Confidence::Medium,
            "the peer closed or reset the connection, and its queue was not full",
        ),
    }
}

/// The program that took the proxy's connection found no way on, so that the proxy got no answer.
fn dropped_beyond(facts: &Facts) -> Option<Ruling> {
    let is_unanswered = match facts.failure? {
        Failure::Errno { errno } => {
            matches!(errno, errno::ETIMEDOUT | errno::ECONNRESET | errno::EPIPE)
        }
        Failure::ClosedEarly | Failure::Aborted => true,
        _ => false,
    };
    if !facts.is_beyond || !is_unanswered {
        return None;
    }
    let dropped = syn_dropped(facts)?;
    Some(Ruling {
        confidence: dropped.confidence.min(Confidence::Medium),
        because: format!("{}, behind the program that forwards connections", dropped.because),
        ..dropped
    })
}

/// The proxy does not say how it failed: only losses tell.
fn untold(facts: &Facts) -> Ruling {
    match syn_dropped(facts).or_else(|| path_closed(facts)) {
        Some(dropped) => {
            Ruling { confidence: dropped.confidence.min(Confidence::Medium), ..dropped }
        }
        None => ruling(
            Cause::NoKernelEvidence,
            Confidence::Low,
            "the proxy does not log how the attempt failed, and the listener lost nothing in that \
             time",
        ),
    }
}

/// Not a conclusion from what was not found: it was not looked for where it would be.
fn elsewhere() -> Ruling {
    ruling(
        Cause::NoKernelEvidence,
        Confidence::Low,
        "no listener on this host accepts connections for the address: run an agent on the peer's \
         host",
    )
}

fn confidence_of(facts: &Facts, losses: &Losses) -> Confidence {
    match (facts.trail, losses.attribution) {
        (Trail::Lost | Trail::Ambiguous, _) => Confidence::Low,
        (Trail::Clear, Attribution::Proportional) => Confidence::Medium,
        (Trail::Clear, Attribution::Exclusive | Attribution::Exact) => Confidence::High,
    }
}

/// How sure a conclusion is from nothing having been seen.
fn by_absence(facts: &Facts, sure: Confidence) -> Confidence {
    if facts.unseen || facts.trail != Trail::Clear { Confidence::Low } else { sure }
}

fn of_this_connection(own: &Tally) -> String {
    format!("{}, all of this connection", in_words(own))
}

/// Whether final ACKs were lost to a full queue, as far as the rung in use can tell. A SYN/ACK sent
/// again for a final ACK that this host dropped tells it on any rung.
fn lost_final_acks(tally: &Tally) -> bool {
    let told = final_acks(tally) + tally[Class::CookieAcceptQueueFull];
    told + tally[Class::RetransmitOwnDrop] > 0
}

fn ruling(cause: Cause, confidence: Confidence, because: &str) -> Ruling {
    Ruling { cause, confidence, because: because.to_owned() }
}

#[cfg(test)]
mod tests;
