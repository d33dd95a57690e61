//! What the agent wants to know of the kernel.

use serde::{Deserialize, Serialize};

/// Something the agent wants to know of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Signal {
    /// SYNs dropped at a listener (`tcp_conn_request`).
    SynDrops,
    /// Final ACKs dropped at a listener (`tcp_check_req`).
    AckDrops,
    /// ACKs with a SYN cookie dropped at a listener (`cookie_v4_check`, `cookie_v6_check`).
    CookieDrops,
    /// Pending requests ended by an ICMP error (`tcp_req_err`).
    IcmpDrops,
    /// SYN/ACKs sent again (`tcp_rtx_synack`).
    SynackRetransmits,
    /// Pending requests given up by their timer (`reqsk_timer_handler`).
    ExpiredRequests,
    /// Connections reset un-accepted because their listener closed (`inet_child_forget`).
    UnacceptedResets,
    /// TIME_WAIT entries (`inet_twsk_alloc`).
    TimeWait,
    /// SYNs of this host's clients sent again (`__tcp_retransmit_skb`).
    SynRetransmits,
    /// Connects that found no local port (`inet_hash_connect`).
    PortExhaustion,
    /// Accept-queue lengths and limits, and how high the queues rose (`inet_csk_reqsk_queue_add`).
    QueueDepth,
    /// Time that connections wait in the accept queue (`inet_csk_accept`).
    TimeInQueue,
    /// The backlogs that processes ask for, and listeners that come and go (`listen(2)`).
    ListenCalls,
    /// Connections established and ended, by service and peer.
    Churn,
    /// Unix connects refused (`unix_stream_connect`).
    UnixRefusals,
}

impl Signal {
    /// Name in metrics and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::SynDrops => "syn_drops",
            Self::AckDrops => "ack_drops",
            Self::CookieDrops => "cookie_drops",
            Self::IcmpDrops => "icmp_drops",
            Self::SynackRetransmits => "synack_retransmits",
            Self::ExpiredRequests => "expired_requests",
            Self::UnacceptedResets => "unaccepted_resets",
            Self::TimeWait => "time_wait",
            Self::SynRetransmits => "syn_retransmits",
            Self::PortExhaustion => "port_exhaustion",
            Self::QueueDepth => "queue_depth",
            Self::TimeInQueue => "time_in_queue",
            Self::ListenCalls => "listen_calls",
            Self::Churn => "connection_churn",
            Self::UnixRefusals => "unix_refusals",
        }
    }
}
