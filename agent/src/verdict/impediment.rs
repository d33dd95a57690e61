//! Why a listener's queue is not emptied.

mod decide;

use serde::{Deserialize, Serialize};

pub use decide::{Stall, decide};

use super::verdict::Confidence;
use crate::{inventory::Listener, kernel::ListenerId, stall::Wait, time::UnixMs};

/// Why nobody accepts, or not fast enough. In order: what stands first explains what stands after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Impediment {
    /// A signal or a debugger stopped the process.
    Stopped,
    /// Its control group is frozen.
    Frozen,
    /// It has no descriptor left for another connection, or is at its own limit of connections.
    NoDescriptors,
    /// One socket of a SO_REUSEPORT group stands still while others have room.
    Uneven,
    /// Its control group has used up its processor quota.
    Throttled,
    /// It waits for memory.
    Memory,
    /// It is ready to run and gets no processor.
    CpuStarved,
    /// The accepting thread uses a whole processor itself.
    CpuBound,
    /// The accepting threads wait for something else: another server, a file, a lock, a client.
    Blocked,
    /// None of the workers is free to accept.
    WorkersBusy,
    /// A handler sleeps on the accepting thread.
    Sleeping,
    /// It accepts as ever, and more arrived at once than the queue holds.
    Burst,
}

/// Each with its label and what is said of it.
const TABLE: [(Impediment, &str, &str); 12] = [
    (Impediment::Stopped, "stopped", "the process is stopped"),
    (Impediment::Frozen, "frozen", "its control group is frozen"),
    (Impediment::NoDescriptors, "no_descriptors", "it can take no further connection"),
    (Impediment::Uneven, "uneven", "one socket of the group stands still, others have room"),
    (Impediment::Throttled, "throttled", "its control group is throttled"),
    (Impediment::Memory, "memory", "it waits for memory"),
    (Impediment::CpuStarved, "cpu_starved", "it is ready to run and gets no processor"),
    (Impediment::CpuBound, "cpu_bound", "the accepting thread uses a whole processor"),
    (Impediment::Blocked, "blocked", "the accepting threads wait for something else"),
    (Impediment::WorkersBusy, "workers_busy", "no worker is free to accept"),
    (Impediment::Sleeping, "sleeping", "a handler sleeps on the accepting thread"),
    (Impediment::Burst, "burst", "it accepts as usual, and more arrived than the queue holds"),
];

impl Impediment {
    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        TABLE.iter().map(|(impediment, ..)| *impediment)
    }

    /// Label in metrics.
    pub fn name(self) -> &'static str {
        TABLE[self as usize].1
    }

    /// In a few words.
    pub fn words(self) -> &'static str {
        TABLE[self as usize].2
    }
}

/// An impediment with its evidence.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ImpedimentReport {
    /// Which.
    pub impediment: Impediment,
    /// Share of the looks, or of the time, in which it held: 0 to 1.
    pub share: f64,
    /// How sure.
    pub confidence: Confidence,
    /// The processes that it holds up.
    pub pids: Vec<u32>,
    /// Its numbers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<Detail>,
}

/// The numbers of an impediment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Detail {
    /// Throttled by this group's quota.
    Quota {
        /// The control group.
        cgroup: String,
        /// Processors that it may use.
        cores: f64,
        /// Processors that it would have used.
        needed: f64,
        /// Periods in which something ran, and those in which it was throttled.
        periods: u64,
        /// See `periods`.
        throttled: u64,
    },
    /// Open files against their limit.
    Files {
        /// The most that were open.
        open: u64,
        /// The limit.
        limit: u64,
    },
    /// It does not watch its listener for connections, though descriptors are left.
    NotWatching,
    /// A debugger stopped it.
    Debugger,
    /// What it waits for.
    Wait(Wait),
    /// Another thread's lock, or an empty queue of work.
    Lock,
    /// Workers: threads that accept.
    Workers {
        /// How many there are.
        count: usize,
    },
    /// Sockets of the group.
    Group {
        /// How many share the address.
        members: u32,
        /// How many of the others had room.
        idle: u32,
    },
    /// Memory of this group.
    Memory {
        /// The control group.
        cgroup: String,
        /// Its limit in bytes.
        limit: Option<u64>,
    },
}

/// A listener that was stalled, and why.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StallReport {
    /// Which, with its owners.
    pub listener: Listener,
    /// Looks at its holders while it was stalled, and just after.
    pub looks: u32,
    /// When it was last stalled.
    pub last: UnixMs,
    /// Why, the most telling first; empty if nothing could be seen.
    pub impediments: Vec<ImpedimentReport>,
}

impl StallReport {
    /// Which listener.
    pub fn id(&self) -> ListenerId {
        self.listener.id
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_order_of_the_variants() {
        for (place, impediment) in Impediment::all().enumerate() {
            assert_eq!(impediment as usize, place);
            let json = serde_json::to_string(&impediment).unwrap();
            assert_eq!(json, format!("\"{}\"", impediment.name()));
        }
    }
}
