//! What the kernel side hands on: counts per listener and per network namespace, by interval.

use std::{
    collections::BTreeMap,
    fmt,
    net::{Ipv6Addr, SocketAddr, SocketAddrV6},
    ops::{AddAssign, Index, IndexMut, RangeInclusive},
};

use floodmark_common::CLASSES;
use serde::{Deserialize, Serialize};

use super::{
    class::{Class, meaning_of, word},
    mib::{Counter, MibCounts},
};
use crate::time::Window;

/// A network namespace: the inode number of its nsfs file (`readlink /proc/PID/ns/net`), and how many
/// namespaces with that number the agent knew of before, since the kernel gives a number again. As a
/// number, the inode number in the lower half and the other in the upper half: until a number is given
/// again, the inode number alone.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, Default,
)]
#[serde(transparent)]
pub struct NetnsId(pub u64);

impl NetnsId {
    /// The namespace with that inode number before which there were `life` others.
    pub const fn new(inode: u32, life: u32) -> Self {
        Self((life as u64) << 32 | inode as u64)
    }

    /// Its inode number, as `lsns` shows it.
    pub const fn inode(self) -> u32 {
        self.0 as u32
    }

    /// How many namespaces had the number before it.
    pub const fn life(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// What it is called where nobody gave it a name: `net:[N]` as its link in procfs, and `#2` and so on
    /// where it is not the first with that number.
    pub fn name(self) -> String {
        match self.life() {
            0 => format!("net:[{}]", self.inode()),
            life => format!("net:[{}]#{}", self.inode(), u64::from(life) + 1),
        }
    }
}

impl fmt::Display for NetnsId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.life() {
            0 => write!(f, "{}", self.inode()),
            life => write!(f, "{}#{}", self.inode(), u64::from(life) + 1),
        }
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

impl ListenerId {
    /// The range of every possible listener of a namespace.
    pub fn all_of(netns: NetnsId) -> RangeInclusive<Self> {
        let first = SocketAddr::from(([0; 4], 0));
        let last = SocketAddr::V6(SocketAddrV6::new(
            Ipv6Addr::from_bits(u128::MAX),
            u16::MAX,
            u32::MAX,
            u32::MAX,
        ));
        Self { netns, addr: first, inode: 0 }..=Self { netns, addr: last, inode: u32::MAX }
    }
}

/// What happened at one listener, by [`Class`]. In segments: one stuck client counts once per segment
/// dropped, just as the kernel's own counters do. As JSON, an object of what is not 0, by the words
/// of the classes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "BTreeMap<String, u64>", into = "BTreeMap<String, u64>")]
pub struct Tally {
    counts: [u64; CLASSES],
    /// Connections that lost a segment, each counted at its first; an upper bound under very many
    /// connections, and 0 where the rung in use does not see them.
    pub connections: u64,
}

/// Name of [`Tally::connections`] in JSON.
const CONNECTIONS: &str = "connections";

impl Default for Tally {
    fn default() -> Self {
        Self::counted([0; CLASSES], 0)
    }
}

impl Tally {
    /// A tally of these classes.
    pub fn of(counts: &[(Class, u64)]) -> Self {
        let mut tally = Self::default();
        counts.iter().for_each(|(class, count)| tally[*class] += *count);
        tally
    }

    /// What the programs counted.
    pub fn counted(counts: [u64; CLASSES], connections: u64) -> Self {
        Self { counts, connections }
    }

    /// Growth of the kernel's counters that this tally stands for.
    pub fn moved(&self) -> MibCounts {
        let mut moved = MibCounts::default();
        for (class, count) in self.counts() {
            meaning_of(class).counters.iter().for_each(|counter| moved[*counter] += count);
        }
        moved
    }

    /// Growth of the kernel's ListenOverflows that this tally stands for.
    pub fn overflows(&self) -> u64 {
        self.moved()[Counter::ListenOverflows]
    }

    /// Growth of the kernel's ListenDrops that this tally stands for.
    pub fn drops(&self) -> u64 {
        self.moved()[Counter::ListenDrops]
    }

    /// Segments and requests lost.
    pub fn losses(&self) -> u64 {
        self.counts().filter(|(class, _)| class.is_loss()).map(|(_, count)| count).sum()
    }

    /// SYN/ACKs sent again, for whatever cause.
    pub fn synack_retransmits(&self) -> u64 {
        self.moved()[Counter::SynRetrans]
    }

    /// Classes that were counted, with their counts.
    pub fn counts(&self) -> impl Iterator<Item = (Class, u64)> {
        let pairs = Class::ALL.into_iter().zip(self.counts);
        pairs.filter(|(_, count)| *count > 0)
    }

    /// Whether nothing was counted.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Index<Class> for Tally {
    type Output = u64;

    fn index(&self, class: Class) -> &u64 {
        &self.counts[class as usize]
    }
}

impl IndexMut<Class> for Tally {
    fn index_mut(&mut self, class: Class) -> &mut u64 {
        &mut self.counts[class as usize]
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, rhs: Self) {
        for (class, count) in rhs.counts() {
            self[class] = self[class].saturating_add(count);
        }
        self.connections = self.connections.saturating_add(rhs.connections);
    }
}

impl From<Tally> for BTreeMap<String, u64> {
    fn from(tally: Tally) -> Self {
        let mut by_word: Self = tally.counts().map(|(class, count)| (word(class), count)).collect();
        if tally.connections > 0 {
            by_word.insert(CONNECTIONS.to_owned(), tally.connections);
        }
        by_word
    }
}

impl From<BTreeMap<String, u64>> for Tally {
    fn from(by_word: BTreeMap<String, u64>) -> Self {
        let count = |class| by_word.get(&word(class)).copied().unwrap_or(0);
        let connections = by_word.get(CONNECTIONS).copied().unwrap_or(0);
        Self { counts: Class::ALL.map(count), connections }
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

/// One interval's yield.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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
    #[serde(with = "super::class::as_word")]
    pub class: Class,
    /// The accept queue just then; unknown for SYN/ACK retransmits.
    pub queue: Option<QueueDepth>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tally_stands_for_the_kernels_counters() {
        let tally = Tally::of(&[
            (Class::SynAcceptQueueFull, 3),
            (Class::AckAcceptQueueFullReset, 2),
            (Class::SynQueueFull, 5),
            (Class::RetransmitSilence, 7),
            (Class::ExpiredSilence, 11),
        ]);
        assert_eq!((tally.overflows(), tally.drops(), tally.synack_retransmits()), (5, 10, 7));
        assert_eq!(tally.moved()[Counter::ReqQFullDrop], 5);
    }

    #[test]
    fn json_names_what_was_counted() {
        let tally = Tally { connections: 2, ..Tally::of(&[(Class::SynAcceptQueueFull, 3)]) };
        let json = serde_json::to_string(&tally).unwrap();
        assert_eq!(json, r#"{"connections":2,"syn/accept_queue_full":3}"#);
        assert_eq!(serde_json::from_str::<Tally>(&json).unwrap(), tally);
    }
}
