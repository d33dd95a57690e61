//! What the kernel side hands on: counts per listener and per network namespace, by interval.

use std::{fmt, net::SocketAddr, ops::AddAssign};

use serde::{Deserialize, Serialize};

use crate::time::Window;

/// A network namespace, by the inode number of its nsfs file (`readlink /proc/PID/ns/net`).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, Default,
)]
#[serde(transparent)]
pub struct NetnsId(pub u32);

impl fmt::Display for NetnsId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Identity of one listening socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ListenerId {
    /// The namespace it listens in.
    pub netns: NetnsId,
    /// Local address and port as bound; a wildcard is `0.0.0.0` or `[::]`.
    pub addr: SocketAddr,
    /// Inode of the socket (`socket:[N]` in `/proc/PID/fd`), which tells the members of a
    /// SO_REUSEPORT group apart; 0 when it was closed before it could be read.
    pub inode: u32,
}

/// Losses at one listener, in segments: one stuck client counts once per segment dropped,
/// just as the kernel's own counters do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// ListenOverflows while handling a SYN (`tcp_conn_request`).
    pub syn_overflow: u64,
    /// ListenOverflows while handling the final ACK (`tcp_check_req`).
    pub ack_overflow: u64,
    /// ListenOverflows while handling an ACK that carries a SYN cookie (`cookie_v*_check`).
    pub cookie_overflow: u64,
    /// ListenOverflows whose stage the rung in use cannot tell.
    pub unstaged_overflow: u64,
    /// ListenDrops that were no accept-queue overflow (SYN queue full, no memory, no route …).
    pub other_drops: u64,
    /// The part of `other_drops` that was a full SYN queue without cookies (TCPReqQFullDrop).
    pub syn_queue_full: u64,
    /// Overflowing final ACKs answered by a reset (`tcp_abort_on_overflow`).
    pub resets: u64,
    /// SYN/ACKs sent again (`tcp_rtx_synack`).
    pub synack_retransmits: u64,
}

impl Tally {
    /// Growth of the kernel's ListenOverflows that this tally stands for.
    pub fn overflows(&self) -> u64 {
        self.syn_overflow + self.ack_overflow + self.cookie_overflow + self.unstaged_overflow
    }

    /// Growth of the kernel's ListenDrops that this tally stands for.
    pub fn drops(&self) -> u64 {
        self.overflows() + self.other_drops
    }

    /// Whether nothing was counted.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, rhs: Self) {
        let Self {
            syn_overflow,
            ack_overflow,
            cookie_overflow,
            unstaged_overflow,
            other_drops,
            syn_queue_full,
            resets,
            synack_retransmits,
        } = rhs;
        self.syn_overflow += syn_overflow;
        self.ack_overflow += ack_overflow;
        self.cookie_overflow += cookie_overflow;
        self.unstaged_overflow += unstaged_overflow;
        self.other_drops += other_drops;
        self.syn_queue_full += syn_queue_full;
        self.resets += resets;
        self.synack_retransmits += synack_retransmits;
    }
}

/// How sure it is that the counts belong to this listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Attribution {
    /// Shared out by `SK_MEMINFO_DROPS` among several dropping listeners of the namespace.
    Proportional,
    /// The only listener of its namespace whose drop counter moved: the namespace's growth is its.
    Exclusive,
    /// Seen in the kernel, packet by packet.
    Exact,
}

/// Accept queue of a listener at an instant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueDepth {
    /// Completed connections waiting for `accept(2)` (`sk_ack_backlog`).
    pub len: u32,
    /// The limit in force (`sk_max_ack_backlog`, the smaller of backlog and somaxconn); the kernel
    /// drops when `len > limit`, so a full queue holds `limit + 1`.
    pub limit: u32,
}

/// What one listener lost during the interval of its sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenerDelta {
    /// Whose queue.
    pub listener: ListenerId,
    /// Growth during the interval.
    pub tally: Tally,
    /// How sure the attribution is.
    pub attribution: Attribution,
    /// The deepest queue seen at a drop, or at the end of the interval.
    pub queue: Option<QueueDepth>,
}

/// The kernel's own counters of one namespace: growth, or totals since the agent's baseline.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MibCounts {
    /// `TcpExt: ListenOverflows`.
    pub listen_overflows: u64,
    /// `TcpExt: ListenDrops`.
    pub listen_drops: u64,
    /// `TcpExt: TCPReqQFullDrop`.
    pub req_q_full_drop: u64,
    /// `TcpExt: TCPReqQFullDoCookies`.
    pub req_q_full_do_cookies: u64,
    /// `TcpExt: TW`: TIME_WAIT sockets (entered, or on kernels before 5.18 expired).
    pub time_wait: u64,
    /// `TcpExt: TCPSynRetrans`.
    pub syn_retrans: u64,
    /// `Tcp: PassiveOpens`.
    pub passive_opens: u64,
}

impl AddAssign for MibCounts {
    fn add_assign(&mut self, rhs: Self) {
        let Self {
            listen_overflows,
            listen_drops,
            req_q_full_drop,
            req_q_full_do_cookies,
            time_wait,
            syn_retrans,
            passive_opens,
        } = rhs;
        self.listen_overflows += listen_overflows;
        self.listen_drops += listen_drops;
        self.req_q_full_drop += req_q_full_drop;
        self.req_q_full_do_cookies += req_q_full_do_cookies;
        self.time_wait += time_wait;
        self.syn_retrans += syn_retrans;
        self.passive_opens += passive_opens;
    }
}

/// One interval's yield.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelSample {
    /// The interval the growths belong to.
    pub window: Window,
    /// Listeners that lost something.
    pub listeners: Vec<ListenerDelta>,
    /// Detail events the ring buffer had no room for, during the interval.
    pub events_lost: u64,
}

/// One lost or repeated segment in detail. Best effort: bounded in rate, counted exactly elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelEvent {
    /// Wall-clock time.
    pub at: crate::time::UnixMs,
    /// Whose queue.
    pub listener: ListenerId,
    /// The client side of the handshake.
    pub peer: SocketAddr,
    /// What happened.
    pub kind: KernelEventKind,
    /// The accept queue just then; unknown for SYN/ACK retransmits.
    pub queue: Option<QueueDepth>,
}

/// Kinds of [`KernelEvent`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KernelEventKind {
    /// SYN dropped: accept queue full.
    SynOverflow,
    /// Final ACK dropped: accept queue full.
    AckOverflow,
    /// ACK with a SYN cookie dropped: accept queue full.
    CookieOverflow,
    /// Dropped for another reason.
    OtherDrop,
    /// SYN/ACK sent again.
    SynackRetransmit,
}
