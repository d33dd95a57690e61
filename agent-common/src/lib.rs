//! The contract between Floodmark's eBPF programs and its agent: map keys, counters, event
//! records, and the constants that the programs leave open. Plain data; nothing here can fail.
//!
//! Every record is `repr(C)` without padding (asserted below), so each of its bytes is
//! initialised when it crosses the boundary.

#![no_std]
#![allow(unsafe_code, reason = "records are plain data to aya")]

pub mod churn;
pub mod constants;
pub mod flow;
pub mod queue;

/// `AF_INET` as the kernel stores it in `skc_family`.
pub const AF_INET: u16 = 2;
/// `AF_INET6` as the kernel stores it in `skc_family`.
pub const AF_INET6: u16 = 10;

/// Load-time constant for an offset the running kernel does not have.
pub const ABSENT: u64 = u64::MAX;

/// An IPv4 address in the first word, or an IPv6 address, in network byte order. Words, since programs
/// move them in one instruction each.
pub type RawAddr = [u32; 4];

/// What tells a network namespace from all others there ever are, unlike its inode number, which the
/// kernel gives to the next namespace. `net->net_cookie` where the kernel assigns one to each
/// namespace and tells it to user space (Linux 5.14); before that the inode number in the lower half,
/// and in the upper half how many namespaces with that number the programs have seen being made.
pub type NetnsKey = u64;

/// Identity of a listening socket, as key of the `LISTENERS` map.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ListenerKey {
    /// The network namespace.
    pub netns: NetnsKey,
    /// `SOCK_INODE(sk->sk_socket)->i_ino`, as sock_diag tells it; 0 for a socket already released.
    pub inode: u32,
    /// Local address (`skc_rcv_saddr` or `skc_v6_rcv_saddr`).
    pub addr: RawAddr,
    /// Local port in host byte order (`skc_num`).
    pub port: u16,
    /// Address family of the socket (`skc_family`).
    pub family: u16,
}

/// What became of a handshake at a listener; also the index of its count in [`ListenerTally`].
/// What each stands for in the kernel's own counters is in the agent's `kernel/class.rs`.
#[repr(usize)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// SYN dropped by `tcp_conn_request`, accept queue full.
    SynAcceptQueueFull,
    /// SYN dropped by `tcp_conn_request`, SYN queue full and cookies off.
    SynQueueFull,
    /// SYN dropped by `tcp_conn_request`: the last quarter of `tcp_max_syn_backlog` is kept for
    /// peers already proven (`tcp_peer_is_proven`).
    SynLastQuarter,
    /// SYN dropped by `tcp_conn_request`: no memory for the request (`inet_reqsk_alloc`).
    SynNoMemory,
    /// SYN dropped by `tcp_conn_request`: no route for the answer (`inet_csk_route_req`).
    SynNoRoute,
    /// SYN dropped by `tcp_conn_request`: a security module refused (`security_inet_conn_request`).
    SynPolicy,
    /// SYN to a broadcast, multicast or anycast address, dropped by `tcp_v4_conn_request` or
    /// `tcp_v6_conn_request` before `tcp_conn_request` is asked.
    SynNotUnicast,
    /// SYN dropped by `tcp_conn_request` for a reason that nobody watched for.
    SynOther,
    /// Fast Open child not made by `tcp_fastopen_create_child`, accept queue full; the SYN itself
    /// is answered all the same.
    FastOpenQueueFull,
    /// Fast Open child not made for another reason; the SYN itself is answered all the same.
    FastOpenChildFailed,
    /// Fast Open cookie refused by `tcp_try_fastopen`; the SYN is answered all the same, with another.
    FastOpenCookieInvalid,
    /// SYN answered with a cookie (`cookie_init_sequence`).
    SynCookieSent,
    /// SYN for which `tcp_syn_flood_action` wanted a cookie.
    SynCookieWanted,
    /// Segment for a pending request dropped by `tcp_check_req`, accept queue full.
    AckAcceptQueueFull,
    /// The same, answered by a reset (`tcp_abort_on_overflow`).
    AckAcceptQueueFullReset,
    /// Segment for a pending request dropped by `tcp_check_req`: its child could not take over the
    /// port (`__inet_inherit_port`).
    AckPortInheritance,
    /// Segment for a pending request dropped by `tcp_check_req`: no child for another reason.
    AckChildFailed,
    /// The same after the request had moved to another listener (`tcp_migrate_req`).
    AckMigrationFailed,
    /// Bare ACK ignored until data comes (TCP_DEFER_ACCEPT).
    AckDeferred,
    /// Pending request removed by `tcp_check_req` with a reset sent or received.
    RequestReset,
    /// ACK with a good cookie dropped, accept queue full.
    CookieAcceptQueueFull,
    /// ACK with a good cookie dropped: its child could not take over the port.
    CookiePortInheritance,
    /// ACK with a good cookie dropped: no child for another reason.
    CookieChildFailed,
    /// ACK with a good cookie (`cookie_v4_check`, `cookie_v6_check`).
    CookieReceived,
    /// ACK with a bad cookie.
    CookieFailed,
    /// Pending request killed by an ICMP error (`tcp_req_err`).
    IcmpRequestKilled,
    /// SYN/ACK sent again because this host dropped the final ACK.
    RetransmitOwnDrop,
    /// SYN/ACK sent again because the client had sent its SYN again.
    RetransmitClientRepeated,
    /// SYN/ACK sent again to a client whose bare ACK is being ignored (TCP_DEFER_ACCEPT).
    RetransmitDeferred,
    /// SYN/ACK sent again because nothing came back.
    RetransmitSilence,
    /// Request given up by its timer, the final ACK having been dropped by this host.
    ExpiredOwnDrop,
    /// Request given up by its timer after all retries, nothing having come back.
    ExpiredSilence,
    /// Request given up by its timer before all retries: the SYN queue was filling up
    /// (`reqsk_timer_handler`'s young/old rule), or its SYN/ACK could not be sent.
    ExpiredPruned,
    /// Request given up by its timer because the listener has closed.
    ExpiredListenerClosed,
    /// Connection reset in the accept queue, or on its way there, because the listener has closed
    /// (`inet_child_forget`).
    UnacceptedListenerClosed,
    /// Accept queue full at a step that the rung in use cannot tell. Never counted by a program.
    UnstagedAcceptQueueFull,
    /// Dropped for another reason at a step that the rung in use cannot tell. Never counted by a
    /// program.
    UnstagedOther,
}

/// Number of [`Class`]es.
pub const CLASSES: usize = Class::UnstagedOther as usize + 1;

impl Class {
    /// Whether a connection lost a segment or its request by it.
    pub const fn is_loss(self) -> bool {
        matches!(
            self,
            Self::SynAcceptQueueFull
                | Self::SynQueueFull
                | Self::SynLastQuarter
                | Self::SynNoMemory
                | Self::SynNoRoute
                | Self::SynPolicy
                | Self::SynNotUnicast
                | Self::SynOther
                | Self::AckAcceptQueueFull
                | Self::AckAcceptQueueFullReset
                | Self::AckPortInheritance
                | Self::AckChildFailed
                | Self::AckMigrationFailed
                | Self::CookieAcceptQueueFull
                | Self::CookiePortInheritance
                | Self::CookieChildFailed
                | Self::IcmpRequestKilled
                | Self::UnstagedAcceptQueueFull
                | Self::UnstagedOther
        )
    }

    /// Every class, each at its own index.
    pub const ALL: [Self; CLASSES] = [
        Self::SynAcceptQueueFull,
        Self::SynQueueFull,
        Self::SynLastQuarter,
        Self::SynNoMemory,
        Self::SynNoRoute,
        Self::SynPolicy,
        Self::SynNotUnicast,
        Self::SynOther,
        Self::FastOpenQueueFull,
        Self::FastOpenChildFailed,
        Self::FastOpenCookieInvalid,
        Self::SynCookieSent,
        Self::SynCookieWanted,
        Self::AckAcceptQueueFull,
        Self::AckAcceptQueueFullReset,
        Self::AckPortInheritance,
        Self::AckChildFailed,
        Self::AckMigrationFailed,
        Self::AckDeferred,
        Self::RequestReset,
        Self::CookieAcceptQueueFull,
        Self::CookiePortInheritance,
        Self::CookieChildFailed,
        Self::CookieReceived,
        Self::CookieFailed,
        Self::IcmpRequestKilled,
        Self::RetransmitOwnDrop,
        Self::RetransmitClientRepeated,
        Self::RetransmitDeferred,
        Self::RetransmitSilence,
        Self::ExpiredOwnDrop,
        Self::ExpiredSilence,
        Self::ExpiredPruned,
        Self::ExpiredListenerClosed,
        Self::UnacceptedListenerClosed,
        Self::UnstagedAcceptQueueFull,
        Self::UnstagedOther,
    ];
}

/// What was counted for one listener.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenerTally {
    /// Segments by [`Class`], as the kernel's MIBs count them.
    pub counts: [u64; CLASSES],
    /// Connections that lost a segment, each counted at its first. A table of bounded size tells
    /// the first from those that follow, so under very many connections some count twice.
    pub connections: u64,
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
    /// `net->ns.inum` of the listener's namespace, which may be gone before the agent meets it.
    pub netns_inode: u32,
    /// Keeps the size a multiple of eight.
    pub reserved: u32,
}

impl Default for ListenerTally {
    fn default() -> Self {
        Self::ZERO
    }
}

impl ListenerTally {
    /// Nothing counted.
    pub const ZERO: Self = Self {
        counts: [0; CLASSES],
        connections: 0,
        events_withheld: 0,
        limit_since_ns: 0,
        limit_sent: 0,
        queue_high: 0,
        queue_limit: 0,
        netns_inode: 0,
        reserved: 0,
    };
}

/// What became of connections to or from a service; also the index of its count in
/// [`ServiceTally`].
#[repr(usize)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ServiceClass {
    /// A connection entered TIME_WAIT.
    TimeWait,
    /// An orphaned connection became a FIN_WAIT2 mini-socket for more than 4 s.
    FinWait2,
    /// The same for 4 s or less.
    FinWait2Short,
    /// A connection closed without TIME_WAIT: `tcp_max_tw_buckets` was reached, or no memory.
    TimeWaitTableFull,
    /// On kernels before 5.18: a mini-socket expired.
    TimeWaitExpired,
    /// On kernels before 5.18: a FIN_WAIT2 mini-socket of 4 s or less expired.
    TimeWaitExpiredShort,
    /// A TIME_WAIT socket gave its port to a new connection of this host (`tcp_twsk_unique`).
    TimeWaitReused,
    /// A TIME_WAIT socket gave way to a SYN (`tcp_timewait_state_process`).
    TimeWaitReopened,
    /// A SYN of this host's client was sent again.
    SynRepeated,
}

/// Number of [`ServiceClass`]es.
pub const SERVICE_CLASSES: usize = ServiceClass::SynRepeated as usize + 1;

impl ServiceClass {
    /// Every class, each at its own index.
    pub const ALL: [Self; SERVICE_CLASSES] = [
        Self::TimeWait,
        Self::FinWait2,
        Self::FinWait2Short,
        Self::TimeWaitTableFull,
        Self::TimeWaitExpired,
        Self::TimeWaitExpiredShort,
        Self::TimeWaitReused,
        Self::TimeWaitReopened,
        Self::SynRepeated,
    ];
}

/// Key of the `SERVICES` map: a service in a namespace.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ServiceKey {
    /// The network namespace.
    pub netns: NetnsKey,
    /// The lower port of the connection, taken for the service's; 0 where both are ephemeral.
    pub port: u16,
    /// 1 if that port is local, so this is the service's side; 0 if it is its client's.
    pub is_local: u16,
    /// Keeps the size a multiple of eight.
    pub reserved: u32,
}

/// What was counted for one service.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServiceTally {
    /// Connections by [`ServiceClass`].
    pub counts: [u64; SERVICE_CLASSES],
}

/// Number of places in [`RecentServices`], a power of two.
pub const RECENT_PLACES: usize = 64;

/// A service that one CPU counts without looking it up.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecentService {
    /// Which service; the default where the place is free.
    pub key: ServiceKey,
    /// How many others may come by before one takes the place over.
    pub patience: u64,
    /// What was counted since it has this place. What was counted before is in `SERVICES`.
    pub tally: ServiceTally,
}

/// The services that one CPU met of late, each at the place that its key gives it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecentServices {
    /// By a hash of the key.
    pub places: [RecentService; RECENT_PLACES],
}

/// Key of the `NO_PORT` map: to whom a process could not connect for want of a local port.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct NoPortKey {
    /// The network namespace.
    pub netns: NetnsKey,
    /// Thread group id (process id) in the initial PID namespace.
    pub pid: u32,
    /// Destination address.
    pub addr: RawAddr,
    /// Destination port in host byte order.
    pub port: u16,
    /// Family of the address.
    pub family: u16,
}

/// What was counted for one [`NoPortKey`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NoPortTally {
    /// `connect(2)` calls that failed with EADDRNOTAVAIL.
    pub failures: u64,
    /// `comm` of the process.
    pub command: [u8; 16],
}

/// Namespace-independent totals of one CPU. Bumped before any attribution, which can fail.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Totals {
    /// Everything counted, by [`Class`].
    pub counts: [u64; CLASSES],
    /// Detail events the ring buffer had no room for.
    pub ring_full: u64,
    /// Counts that found no room in the map they belong to, by [`CountingMap`].
    pub map_full: [u64; COUNTING_MAPS],
    /// Brackets entered while another stood open on the same CPU. 0 unless an exit was missed.
    pub nested: u64,
    /// Brackets left that were never entered: the hook was attached in between.
    pub orphan_exits: u64,
}

impl Default for Totals {
    fn default() -> Self {
        Self {
            counts: [0; CLASSES],
            ring_full: 0,
            map_full: [0; COUNTING_MAPS],
            nested: 0,
            orphan_exits: 0,
        }
    }
}

/// A map of bounded room in which the programs count; also the index of what found no room in it, in
/// [`Totals::map_full`].
#[repr(usize)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CountingMap {
    /// Losses by listener.
    Listeners,
    /// What became of connections, by service.
    Services,
    /// Connects that found no local port.
    NoPort,
    /// Accept queues by listener.
    Queues,
    /// How connections come and go, by service and peer.
    Churn,
    /// Unix connects refused.
    UnixRefused,
}

/// Number of [`CountingMap`]s.
pub const COUNTING_MAPS: usize = CountingMap::UnixRefused as usize + 1;

impl CountingMap {
    /// Every one of them with its name, each at its own index.
    pub const ALL: [(Self, &'static str); COUNTING_MAPS] = [
        (Self::Listeners, "listeners"),
        (Self::Services, "services"),
        (Self::NoPort, "no_port"),
        (Self::Queues, "queues"),
        (Self::Churn, "churn"),
        (Self::UnixRefused, "unix_refused"),
    ];
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
    /// A [`Class`] as a number.
    pub class: u32,
    /// `sk_ack_backlog` at that moment.
    pub queue_len: u32,
    /// `sk_max_ack_backlog` at that moment.
    pub queue_limit: u32,
    /// `net->ns.inum` of the listener's namespace.
    pub netns_inode: u32,
    /// Keeps the size a multiple of eight.
    pub reserved: u32,
}

/// Bytes kept of the name that nginx has for a peer.
pub const NGINX_NAME: usize = 64;

/// What nginx did with a peer.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NginxKind {
    /// An attempt failed, and the peer stays.
    Failed,
    /// An attempt failed, and the peer is taken out.
    Marked,
    /// The group has no live peer.
    NoLivePeers,
}

/// What nginx did with a peer, as sent through the ring buffer `NGINX_EVENTS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NginxRecord {
    /// `bpf_ktime_get_ns` (CLOCK_MONOTONIC).
    pub at_ns: u64,
    /// Failures of the peer, this one included.
    pub fails: u64,
    /// Failures at which it is taken out; 0: never.
    pub max_fails: u64,
    /// Process id in the initial PID namespace.
    pub pid: u32,
    /// An [`NginxKind`] as a number.
    pub kind: u32,
    /// Length of the peer's address.
    pub socklen: u32,
    /// Length of `name`; what is longer is cut.
    pub name_len: u32,
    /// Local port of the connection; 0 where it is closed already.
    pub local_port: u16,
    /// 1 where the connection's address is the current peer's.
    pub is_same_peer: u16,
    /// `sk->skc_state` of the connection (`TCP_SYN_SENT` …); 0 where it is closed already.
    pub state: u32,
    /// The peer's address, as `sockaddr_in` or `sockaddr_in6`, and what follows it.
    pub sockaddr: [u8; 32],
    /// nginx's own text of it, or the group's name.
    pub name: [u8; NGINX_NAME],
}

/// Detail events sent for one listener within a second; more are counted, not sent.
pub const EVENTS_PER_SECOND: u64 = 256;

const _: () = {
    assert!(size_of::<ListenerKey>() == 8 + 4 + 16 + 2 + 2);
    assert!(size_of::<ListenerTally>() == (CLASSES + 4) * 8 + 4 * 4);
    assert!(size_of::<ServiceKey>() == 8 + 2 + 2 + 4);
    assert!(size_of::<RecentServices>() == RECENT_PLACES * (16 + 8 + SERVICE_CLASSES * 8));
    assert!(RECENT_PLACES.is_power_of_two());
    assert!(size_of::<NoPortKey>() == 8 + 4 + 16 + 2 + 2);
    assert!(size_of::<NoPortTally>() == 8 + 16);
    assert!(size_of::<Totals>() == (CLASSES + 3 + COUNTING_MAPS) * 8);
    assert!(size_of::<NginxRecord>() == 3 * 8 + 4 * 4 + 2 + 2 + 4 + 32 + NGINX_NAME);
    assert!(size_of::<EventRecord>() == 8 + 32 + 16 + 2 + 2 + 5 * 4);
};

#[cfg(feature = "user")]
mod user {
    use super::{
        EventRecord, ListenerKey, ListenerTally, NoPortKey, NoPortTally, RecentServices,
        ServiceKey, ServiceTally, Totals,
        churn::{ChurnKey, ChurnTally, UnixRefusal},
        flow::Arrivals,
        queue::{ListenCall, QueueTally, SocketKey},
    };

    // SAFETY: `repr(C)`, integers only, no padding (asserted above): any bytes are a valid value.
    unsafe impl aya::Pod for ListenerKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for ListenerTally {}
    // SAFETY: as above.
    unsafe impl aya::Pod for ServiceKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for ServiceTally {}
    // SAFETY: as above.
    unsafe impl aya::Pod for RecentServices {}
    // SAFETY: as above.
    unsafe impl aya::Pod for NoPortKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for NoPortTally {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Totals {}
    // SAFETY: as above.
    unsafe impl aya::Pod for EventRecord {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Arrivals {}
    // SAFETY: as above.
    unsafe impl aya::Pod for ChurnKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for ChurnTally {}
    // SAFETY: as above.
    unsafe impl aya::Pod for UnixRefusal {}
    // SAFETY: as above.
    unsafe impl aya::Pod for ListenCall {}
    // SAFETY: as above.
    unsafe impl aya::Pod for QueueTally {}
    // SAFETY: as above.
    unsafe impl aya::Pod for SocketKey {}
}
