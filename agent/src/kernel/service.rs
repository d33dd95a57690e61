//! What became of connections to and from services, in the words of metrics and reports, and which of
//! the kernel's own counters each of it moves.

use std::{collections::BTreeMap, net::SocketAddr};

use floodmark_common::SERVICE_CLASSES;
pub use floodmark_common::ServiceClass;
use serde::{Deserialize, Serialize};

use super::{
    mib::{Counter, MibCounts},
    sample::NetnsId,
};

/// Connections of one service, counted on one side of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceCount {
    /// In which namespace.
    pub netns: NetnsId,
    /// The service's port: the lower one of the connection; 0 for all where both are ephemeral.
    pub port: u16,
    /// True where this is the service's side, false where it is its client's.
    pub is_local: bool,
    /// By the classes' words; only what is not 0.
    pub counts: BTreeMap<String, u64>,
}

/// Connects of one process to one destination that found no local port (EADDRNOTAVAIL).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoPortCount {
    /// In which namespace.
    pub netns: NetnsId,
    /// Where it wanted to connect to.
    pub destination: SocketAddr,
    /// Process id in the initial PID namespace.
    pub pid: u32,
    /// `comm` of the process.
    pub command: String,
    /// How often.
    pub failures: u64,
}

/// The word for a class in metrics and JSON.
pub const fn word(class: ServiceClass) -> &'static str {
    match class {
        ServiceClass::TimeWait => "time_wait",
        ServiceClass::FinWait2 => "fin_wait2",
        ServiceClass::FinWait2Short => "fin_wait2_short",
        ServiceClass::TimeWaitTableFull => "table_full",
        ServiceClass::TimeWaitExpired => "expired",
        ServiceClass::TimeWaitExpiredShort => "expired_short",
        ServiceClass::TimeWaitReused => "reused",
        ServiceClass::TimeWaitReopened => "reopened",
        ServiceClass::SynRepeated => "syn_repeated",
    }
}

/// The counter that each count of `class` moves by one. `at_expiry`: whether this kernel counts TW
/// and TWKilled when a mini-socket expires (before 5.18) rather than when it is made.
pub const fn counter_of(class: ServiceClass, at_expiry: bool) -> Option<Counter> {
    match class {
        ServiceClass::TimeWait | ServiceClass::FinWait2 if !at_expiry => Some(Counter::TimeWait),
        ServiceClass::FinWait2Short if !at_expiry => Some(Counter::TimeWaitShort),
        ServiceClass::TimeWaitExpired if at_expiry => Some(Counter::TimeWait),
        ServiceClass::TimeWaitExpiredShort if at_expiry => Some(Counter::TimeWaitShort),
        ServiceClass::TimeWaitTableFull => Some(Counter::TimeWaitOverflow),
        ServiceClass::TimeWaitReused => Some(Counter::TimeWaitRecycled),
        ServiceClass::SynRepeated => Some(Counter::SynRetrans),
        _ => None,
    }
}

/// The growth of the kernel's counters that `counts` stand for.
pub fn moved(counts: &[u64; SERVICE_CLASSES], at_expiry: bool) -> MibCounts {
    let mut moved = MibCounts::default();
    for class in ServiceClass::ALL {
        if let Some(counter) = counter_of(class, at_expiry) {
            moved[counter] += counts[class as usize];
        }
    }
    moved
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_wait_is_counted_once_whichever_way_the_kernel_does() {
        let mut counts = [0; SERVICE_CLASSES];
        for (class, count) in [
            (ServiceClass::TimeWait, 5),
            (ServiceClass::FinWait2, 2),
            (ServiceClass::FinWait2Short, 1),
            (ServiceClass::TimeWaitExpired, 3),
        ] {
            counts[class as usize] = count;
        }
        let (entry, expiry) = (moved(&counts, false), moved(&counts, true));
        assert_eq!((entry[Counter::TimeWait], entry[Counter::TimeWaitShort]), (7, 1));
        assert_eq!((expiry[Counter::TimeWait], expiry[Counter::TimeWaitShort]), (3, 0));
    }

    #[test]
    fn every_class_has_its_index() {
        for (index, class) in ServiceClass::ALL.into_iter().enumerate() {
            assert_eq!(class as usize, index);
        }
    }
}
