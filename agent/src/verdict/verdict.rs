//! A verdict: a proxy's event, its cause, and the evidence it stands on.

use serde::{Deserialize, Serialize};

use crate::{
    kernel::{Attribution, ListenerId, NetnsId, Tally},
    proxy::ProxyEvent,
    time::Window,
};

/// Why a proxy said what it said.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// The event that is explained.
    pub event: ProxyEvent,
    /// What made the proxy report the event.
    pub cause: Cause,
    /// How exact the evidence is; docs/verdicts.md defines the levels.
    pub confidence: Confidence,
    /// The listener behind the upstream address, where one was found.
    pub listener: Option<ListenerId>,
    /// The namespace of the proxy's own process, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy_netns: Option<NetnsId>,
    /// The stretch of time searched for evidence.
    pub window: Window,
    /// What the listener lost inside the window.
    pub evidence: Tally,
    /// How sure the evidence belongs to that listener; none without evidence.
    pub attribution: Option<Attribution>,
    /// From the first loss in the window to the event, in milliseconds: by how much the kernel knew
    /// earlier than the proxy.
    #[serde(default)]
    pub lead_ms: Option<u64>,
    /// Whether losses of this very connection were found, by its four addresses and ports.
    #[serde(default)]
    pub is_exact: bool,
    /// What the evidence may lack.
    #[serde(default)]
    pub health: EvidenceHealth,
    /// The same in words, for a person.
    pub because: String,
}

impl Verdict {
    /// The verdict by a clock that is ahead by `offset_ms`.
    pub fn shifted(self, offset_ms: i64) -> Self {
        let window = self.window.shifted(offset_ms);
        Self { event: self.event.shifted(offset_ms), window, ..self }
    }

    /// Whether the event was joined with losses that the kernel counted at a listener.
    pub fn is_joined(&self) -> bool {
        self.listener.is_some() && self.evidence.drops() > 0
    }
}

/// What the evidence may lack.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EvidenceHealth {
    /// Detail events lost inside the window. Counts do not suffer from it.
    pub events_lost: u64,
    /// Part of the window before the agent had begun to watch, or while it was not heard of; in
    /// milliseconds.
    pub unseen_ms: u64,
    /// By how much the clocks of the proxy's host and the listener's may differ, in milliseconds; the
    /// window is wider by as much at both ends. 0 where they are one host.
    #[serde(default)]
    pub skew_ms: u64,
    /// By how much the wall clock was set inside the window, in milliseconds: the sum of all steps, each
    /// without its sign. Verdicts don't depend on the wall clock, but timers of the proxy may.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub clock_set_ms: u64,
    /// The rung from which dropped SYNs are had.
    pub syn_rung: String,
    /// The rung from which dropped final ACKs are had.
    pub ack_rung: String,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Causes a verdict can give.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// The listener's accept queue was full and it dropped the SYN; or a Unix socket's queue was.
    AcceptQueueOverflow,
    /// The listener's accept queue was full and it dropped the final ACK: the proxy believes that it
    /// is connected, and waits for an answer that nobody will give.
    HalfOpen,
    /// The listener's accept queue was full and it answered the final ACK by a reset
    /// (`net.ipv4.tcp_abort_on_overflow`).
    AbortOnOverflow,
    /// The listener's SYN queue was full and SYN cookies were off.
    SynQueueFull,
    /// The kernel dropped handshakes at this listener for another reason.
    HandshakeDropped,
    /// The connection sits in the accept queue: nothing was dropped, but nobody accepts.
    NotAccepting,
    /// Nothing listens at the address (ECONNREFUSED).
    Refused,
    /// A SYN or its answer was lost on the way: the listener dropped nothing.
    PathLoss,
    /// The proxy's kernel has no route to the peer, or one that refuses it.
    Unreachable,
    /// The peer, or the gateway towards it, does not answer ARP or neighbour discovery.
    NeighbourUnresponsive,
    /// A firewall, a router or a security policy rejects the connection: the kernel has a route to
    /// the peer and hears its next hop.
    Rejected,
    /// The proxy itself ran out of ephemeral ports (EADDRNOTAVAIL): the peer is innocent.
    ProxyPortsExhausted,
    /// The proxy itself came up against a limit: connections, queue, descriptors.
    ProxyLimit,
    /// The application, or its kernel for it, closed or reset the connection.
    ApplicationClosed,
    /// The application answered a status that the proxy counts as a failure, or no valid response.
    ApplicationFailed,
    /// The application took longer than the proxy waits.
    ApplicationSlow,
    /// The event fits no kernel evidence that was looked for.
    NoKernelEvidence,
}

impl Cause {
    /// Name in metrics and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::AcceptQueueOverflow => "accept_queue_overflow",
            Self::HalfOpen => "half_open",
            Self::AbortOnOverflow => "abort_on_overflow",
            Self::SynQueueFull => "syn_queue_full",
            Self::HandshakeDropped => "handshake_dropped",
            Self::NotAccepting => "not_accepting",
            Self::Refused => "refused",
            Self::PathLoss => "path_loss",
            Self::Unreachable => "unreachable",
            Self::NeighbourUnresponsive => "neighbour_unresponsive",
            Self::Rejected => "rejected",
            Self::ProxyPortsExhausted => "proxy_ports_exhausted",
            Self::ProxyLimit => "proxy_limit",
            Self::ApplicationClosed => "application_closed",
            Self::ApplicationFailed => "application_failed",
            Self::ApplicationSlow => "application_slow",
            Self::NoKernelEvidence => "no_kernel_evidence",
        }
    }

    /// Whether an accept queue was too short or emptied too slowly.
    pub fn is_overflow(self) -> bool {
        matches!(self, Self::AcceptQueueOverflow | Self::HalfOpen | Self::AbortOnOverflow)
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
