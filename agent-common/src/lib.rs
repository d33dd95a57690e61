//! The contract between Floodmark's eBPF programs and its agent: map keys, counters, event
//! records, and the names of the load-time constants. Plain data; nothing here can fail.
//!
//! Every record is `repr(C)` without padding (asserted below), so each of its bytes is
//! initialised when it crosses the boundary.

#![no_std]

/// `AF_INET` as the kernel stores it in `skc_family`.
pub const AF_INET: u16 = 2;
/// `AF_INET6` as the kernel stores it in `skc_family`.
pub const AF_INET6: u16 = 10;

/// Load-time constant for an offset the running kernel does not have.
pub const ABSENT: u64 = u64::MAX;

/// An IPv4 address in the first four bytes, or an IPv6 address, in network byte order.
pub type RawAddr = [u8; 16];

/// Identity of a listening socket, as key of the `LISTENERS` map.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ListenerKey {
    /// `net->ns.inum`: inode number of the network namespace.
    pub netns: u32,
    /// `sk->sk_socket->file->f_inode->i_ino`; 0 for a socket already released.
    pub inode: u32,
    /// Local address (`skc_rcv_saddr` or `skc_v6_rcv_saddr`).
    pub addr: RawAddr,
    /// Local port in host byte order (`skc_num`).
    pub port: u16,
    /// Address family of the socket (`skc_family`).
    pub family: u16,
}

/// What one CPU counted for one listener. Segments, as the kernel's MIBs count them.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ListenerTally {
    /// ListenOverflows inside `tcp_conn_request`.
    pub syn_overflow: u64,
    /// ListenOverflows inside `tcp_check_req`.
    pub ack_overflow: u64,
    /// ListenOverflows inside `cookie_v4_check` or `cookie_v6_check`.
    pub cookie_overflow: u64,
    /// ListenDrops beyond those overflows, in any of the three.
    pub other_drops: u64,
    /// TCPReqQFullDrop inside `tcp_conn_request`.
    pub syn_queue_full: u64,
    /// Overflows inside `tcp_check_req` with `tcp_abort_on_overflow` set.
    pub resets: u64,
    /// SYN/ACKs sent again (tracepoint `tcp_retransmit_synack`).
    pub synack_retransmits: u64,
    /// Detail events withheld by the rate limit.
    pub events_withheld: u64,
    /// Start of the rate limit's current second (`bpf_ktime_get_ns`).
    pub limit_since_ns: u64,
    /// Detail events sent since then.
    pub limit_sent: u64,
    /// Deepest accept queue seen at a drop (`sk_ack_backlog`).
    pub queue_high: u32,
    /// The limit in force then (`sk_max_ack_backlog`).
    pub queue_limit: u32,
}

/// Key of the `TIME_WAIT` map: a service in a namespace.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct TimeWaitKey {
    /// `net->ns.inum`.
    pub netns: u32,
    /// The lower port of the connection, taken for the service's.
    pub port: u16,
    /// 1 if that port is local, so the service closed first; 0 if its client did.
    pub by_service: u16,
}

/// Namespace-independent totals of one CPU. Bumped before any attribution, which can fail.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// ListenOverflows inside the brackets.
    pub overflows: u64,
    /// ListenDrops inside the brackets.
    pub drops: u64,
    /// SYN/ACKs sent again.
    pub synack_retransmits: u64,
    /// TIME_WAIT entries.
    pub time_wait: u64,
    /// Detail events the ring buffer had no room for.
    pub ring_full: u64,
    /// Counts that found no room in the `LISTENERS` or `TIME_WAIT` map.
    pub map_full: u64,
    /// Brackets entered while another stood open on the same CPU. 0 unless an exit was missed.
    pub nested: u64,
    /// Brackets left that were never entered: the hook was attached in between.
    pub orphan_exits: u64,
}

/// One dropped or repeated segment, as sent through the ring buffer `EVENTS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventRecord {
    /// `bpf_ktime_get_ns` (CLOCK_MONOTONIC).
    pub at_ns: u64,
    /// Whose queue.
    pub listener: ListenerKey,
    /// The client's address.
    pub peer: RawAddr,
    /// The client's port in host byte order.
    pub peer_port: u16,
    /// The family of `peer`.
    pub peer_family: u16,
    /// One of the `EVENT_*` constants.
    pub kind: u32,
    /// `sk_ack_backlog` at that moment.
    pub queue_len: u32,
    /// `sk_max_ack_backlog` at that moment.
    pub queue_limit: u32,
    /// Keeps the size a multiple of eight.
    pub reserved: u32,
}

/// SYN dropped, accept queue full.
pub const EVENT_SYN_OVERFLOW: u32 = 1;
/// Final ACK dropped, accept queue full.
pub const EVENT_ACK_OVERFLOW: u32 = 2;
/// ACK with a SYN cookie dropped, accept queue full.
pub const EVENT_COOKIE_OVERFLOW: u32 = 3;
/// Handshake segment dropped for another reason.
pub const EVENT_OTHER_DROP: u32 = 4;
/// SYN/ACK sent again.
pub const EVENT_SYNACK_RETRANSMIT: u32 = 5;

/// Detail events one CPU sends for one listener within a second; more are counted, not sent.
pub const EVENTS_PER_SECOND: u64 = 256;

const _: () = {
    assert!(size_of::<ListenerKey>() == 4 + 4 + 16 + 2 + 2);
    assert!(size_of::<ListenerTally>() == 10 * 8 + 2 * 4);
    assert!(size_of::<TimeWaitKey>() == 4 + 2 + 2);
    assert!(size_of::<Totals>() == 8 * 8);
    assert!(size_of::<EventRecord>() == 8 + 28 + 16 + 2 + 2 + 4 * 4);
};

#[cfg(feature = "user")]
mod user {
    use super::{EventRecord, ListenerKey, ListenerTally, TimeWaitKey, Totals};

    // SAFETY: `repr(C)`, integers only, no padding (asserted above): any bytes are a valid value.
    unsafe impl aya::Pod for ListenerKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for ListenerTally {}
    // SAFETY: as above.
    unsafe impl aya::Pod for TimeWaitKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Totals {}
    // SAFETY: as above.
    unsafe impl aya::Pod for EventRecord {}
}
