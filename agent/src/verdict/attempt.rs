//! The attempt that an event is about, and the time in which the kernel's part of it may lie.

use std::{net::SocketAddr, time::Duration};

use crate::{
    kernel::path::PeerPath,
    proxy::{EventKind, Failure, Phase, ProxyEvent},
    time::{UnixMs, Window},
};

/// How far back a timed-out attempt may have begun: the longest of the proxies' default connect and
/// read timeouts (nginx: 60 s), its time stamp being that of the end.
pub const LONGEST_ATTEMPT: Duration = Duration::from_secs(60);
/// How far back any other failure looks.
const SHORT_ATTEMPT: Duration = Duration::from_secs(2);
/// Losses come in slices of a second.
const SLICE: Duration = Duration::from_secs(1);
/// What is known of the attempt that an event is about.
pub(super) struct Attempt {
    pub phase: Phase,
    pub failure: Option<Failure>,
    pub took: Option<Duration>,
    pub local: Option<SocketAddr>,
    pub peer: Option<SocketAddr>,
    /// Where connections to the peer really go, if elsewhere.
    pub leads_to: Vec<SocketAddr>,
    /// The way there, a moment after it failed.
    pub path: Option<PeerPath>,
}

impl Attempt {
    pub fn of(event: &ProxyEvent) -> Self {
        let (phase, failure) = match event.kind {
            EventKind::AttemptFailed { phase, failure } => (phase, Some(failure)),
            EventKind::PeerMarked { phase, failure } => (phase, failure),
            EventKind::NoLivePeers | EventKind::PeerBack => (Phase::Other, None),
        };
        Self {
            phase,
            failure,
            took: event.took_ms.map(Duration::from_millis),
            local: event.local_addr,
            peer: event.addr(),
            leads_to: event.leads_to.clone(),
            path: event.path,
        }
    }
}

/// The stretch of time in which the kernel's part of an attempt may lie.
pub(super) fn reach(event: &ProxyEvent, attempt: &Attempt) -> Window {
    let long = match attempt.failure {
        // After as long, a client whose final ACK was dropped hears a reset: its request has expired.
        Some(failure) => matches!(
            failure,
            Failure::TIMEOUT | Failure::RESET | Failure::Aborted | Failure::Unknown
        ),
        None => true,
    };
    let back = match attempt.took {
        Some(took) => took.min(LONGEST_ATTEMPT) + SLICE,
        None if long => LONGEST_ATTEMPT,
        None => SHORT_ATTEMPT,
    };
    Window { from: event.at.earlier(back), to: end_of(event) }
}

/// The last instant an event's coarse time stamp may stand for.
pub(super) fn end_of(event: &ProxyEvent) -> UnixMs {
    event.at.later(Duration::from_millis(u64::from(event.precision_ms)))
}
