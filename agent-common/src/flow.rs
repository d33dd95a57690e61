//! What comes to accept queues, in slots of time, and what this host's own clients open and close.

use crate::{NetnsKey, RawAddr};

/// Length of a slot in nanoseconds.
pub const SLOT_NS: u64 = 10_000_000;
/// Slots kept of a listener, a power of two: 2.5 s, more than twice the agent's tick.
pub const SLOTS: usize = 256;

/// One slot of one listener.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArrivalSlot {
    /// Its number: `bpf_ktime_get_ns` by [`SLOT_NS`], which a `u32` holds for 497 days.
    pub number: u32,
    /// Connections that entered the accept queue.
    pub enqueued: u32,
    /// The queue right after the last of them.
    pub depth: u32,
}

/// The latest slots of one listener, each at the place that its number gives it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrivals {
    /// A ring.
    pub slots: [ArrivalSlot; SLOTS],
}

impl Arrivals {
    /// Nothing yet.
    pub const BLANK: Self =
        Self { slots: [ArrivalSlot { number: 0, enqueued: 0, depth: 0 }; SLOTS] };
}

impl Default for Arrivals {
    fn default() -> Self {
        Self::BLANK
    }
}

/// A connection of this host's own making, by the address of its `struct sock`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Client {
    /// When its connect began (`bpf_ktime_get_ns`).
    pub at_ns: u64,
    /// Process id in the initial PID namespace.
    pub pid: u32,
    /// Keeps the size a multiple of eight.
    pub reserved: u32,
}

/// A connect began.
pub const CLIENT_OPENED: u8 = 0;
/// The connection was given up by either side, or reset.
pub const CLIENT_CLOSED: u8 = 1;
/// It never came to be.
pub const CLIENT_FAILED: u8 = 2;

/// A connection of this host's own making came or went.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClientRecord {
    /// When (`bpf_ktime_get_ns`).
    pub at_ns: u64,
    /// When its connect began.
    pub opened_ns: u64,
    /// The network namespace.
    pub netns: NetnsKey,
    /// Its `net->ns.inum`.
    pub netns_inode: u32,
    /// Process id in the initial PID namespace.
    pub pid: u32,
    /// Where it leads.
    pub addr: RawAddr,
    /// Port at `addr`.
    pub port: u16,
    /// Family of `addr`.
    pub family: u8,
    /// One of [`CLIENT_OPENED`], [`CLIENT_CLOSED`], [`CLIENT_FAILED`].
    pub what: u8,
    /// Keeps the size a multiple of eight.
    pub reserved: u32,
}

const _: () = {
    assert!(SLOTS.is_power_of_two());
    assert!(size_of::<Arrivals>() == SLOTS * 12);
    assert!(size_of::<Client>() == 16);
    assert!(size_of::<ClientRecord>() == 3 * 8 + 2 * 4 + 16 + 4 + 4);
};
