//! A verdict: a proxy's event, its cause, and the evidence it stands on.

use serde::{Deserialize, Serialize};

use crate::{
    kernel::{Attribution, ListenerId, Tally},
    proxy::ProxyEvent,
    time::Window,
};

/// Why a proxy said what it said.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// The event that is explained.
    pub event: ProxyEvent,
    /// Its cause.
    pub cause: Cause,
    /// How sure.
    pub confidence: Confidence,
    /// The listener behind the upstream address, where one was found.
    pub listener: Option<ListenerId>,
    /// The stretch of time searched for evidence.
    pub window: Window,
    /// What the listener lost inside the window.
    pub evidence: Tally,
    /// How sure the evidence belongs to that listener; none without evidence.
    pub attribution: Option<Attribution>,
    /// The same in words, for a person.
    pub because: String,
}

impl Verdict {
    /// Whether the event was joined with losses that the kernel counted at a listener.
    pub fn is_joined(&self) -> bool {
        self.listener.is_some() && self.evidence.drops() > 0
    }
}

/// Causes a verdict can give.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// The listener's accept queue was full.
    AcceptQueueOverflow,
    /// The listener's SYN queue was full and SYN cookies were off.
    SynQueueFull,
    /// The kernel dropped handshakes at this listener for another reason.
    HandshakeDropped,
    /// Nothing listens at the address (ECONNREFUSED).
    Refused,
    /// The peer, or its kernel, reset the connection (ECONNRESET).
    Reset,
    /// The proxy itself ran out of ephemeral ports (EADDRNOTAVAIL): the peer is innocent.
    ProxyPortsExhausted,
    /// There is no route to the peer (ENETUNREACH, EHOSTUNREACH).
    Unreachable,
    /// The application closed, or answered what the proxy counts as a failure.
    Application,
    /// The event fits no kernel evidence that was looked for.
    NoKernelEvidence,
}

impl Cause {
    /// Name in metrics and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::AcceptQueueOverflow => "accept_queue_overflow",
            Self::SynQueueFull => "syn_queue_full",
            Self::HandshakeDropped => "handshake_dropped",
            Self::Refused => "refused",
            Self::Reset => "reset",
            Self::ProxyPortsExhausted => "proxy_ports_exhausted",
            Self::Unreachable => "unreachable",
            Self::Application => "application",
            Self::NoKernelEvidence => "no_kernel_evidence",
        }
    }
}

/// How sure a verdict is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Confidence {
    /// It fits, but so might something else.
    Low,
    /// It fits the only evidence there is.
    Medium,
    /// Exact evidence at the one listener behind the address.
    High,
}

impl Confidence {
    /// Name in metrics and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
        }
    }
}
