//! How connections come and go between a service and its peers, and Unix connects refused.

use core::ops::AddAssign;

use crate::{NetnsKey, RawAddr, queue::WAIT_BUCKETS};

/// Key of the `CHURN` map.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ChurnKey {
    /// The network namespace.
    pub netns: NetnsKey,
    /// The service's port: the local one where this host accepted, else the remote one.
    pub port: u16,
    /// 1 where this host accepted the connection, 0 where it made it.
    pub is_local: u8,
    /// Family of `peer`.
    pub family: u8,
    /// The other side's address.
    pub peer: RawAddr,
    /// Keeps the size a multiple of eight.
    pub reserved: u32,
}

/// What was seen of the connections between a service and a peer.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChurnTally {
    /// Connections that were established.
    pub opened: u64,
    /// Connections that this host closed first (ESTABLISHED to FIN_WAIT1).
    pub closed_here: u64,
    /// Connections that the peer closed first (ESTABLISHED to CLOSE_WAIT).
    pub closed_there: u64,
    /// Connections that ended otherwise: reset, timed out (ESTABLISHED to CLOSE).
    pub aborted: u64,
    /// Lifetimes of those that ended, in the buckets of [`crate::queue::wait_bucket`].
    pub lifetimes: [u64; WAIT_BUCKETS],
}

impl ChurnTally {
    /// A tally at zero.
    pub const BLANK: Self = Self {
        opened: 0,
        closed_here: 0,
        closed_there: 0,
        aborted: 0,
        lifetimes: [0; WAIT_BUCKETS],
    };
}

impl AddAssign for ChurnTally {
    fn add_assign(&mut self, more: Self) {
        self.opened += more.opened;
        self.closed_here += more.closed_here;
        self.closed_there += more.closed_there;
        self.aborted += more.aborted;
        self.lifetimes.iter_mut().zip(more.lifetimes).for_each(|(sum, more)| *sum += more);
    }
}

impl Default for ChurnTally {
    fn default() -> Self {
        Self::BLANK
    }
}

/// A connection under way, by the address of its `struct sock`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Connection {
    /// When it was established (`bpf_ktime_get_ns`).
    pub at_ns: u64,
    /// As in [`ChurnKey`].
    pub is_local: u64,
}

/// Longest path of a Unix socket (`UNIX_PATH_MAX`).
pub const UNIX_PATH: usize = 108;

/// Key of the `UNIX_REFUSED` map: where a Unix connect was refused, and how.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct UnixRefusal {
    /// The client's network namespace.
    pub netns: NetnsKey,
    /// EAGAIN (the queue is full) or ECONNREFUSED (nobody listens).
    pub errno: u32,
    /// `sun_path`; an abstract name begins with a zero.
    pub path: [u8; UNIX_PATH],
}

const _: () = {
    assert!(size_of::<ChurnKey>() == 8 + 2 + 1 + 1 + 16 + 4);
    assert!(size_of::<ChurnTally>() == (4 + WAIT_BUCKETS) * 8);
    assert!(size_of::<Connection>() == 16);
    assert!(size_of::<UnixRefusal>() == 8 + 4 + UNIX_PATH);
};
