//! What has grown since the last look, of counts that only grow.

use std::{collections::BTreeMap, mem};

use crate::kernel::{Counter, MibCounts, NetnsId, ServiceCount};

/// The word for SYNs sent again in [`ServiceCount::counts`].
const SYN_REPEATED: &str = "syn_repeated";

/// The counts at the last look.
#[derive(Debug, Default)]
pub struct Growth {
    syns_repeated: BTreeMap<(NetnsId, u16), u64>,
    syn_queues_full: BTreeMap<NetnsId, u64>,
}

impl Growth {
    /// Namespaces whose clients sent SYNs again since the last look, each with the port called. What is
    /// not among `services` any more is forgotten.
    pub fn syns_repeated(&mut self, services: &[ServiceCount]) -> Vec<(NetnsId, u16)> {
        let called = services.iter().filter(|service| !service.is_local);
        let counts = called.map(|service| {
            let count = service.counts.get(SYN_REPEATED).copied().unwrap_or(0);
            ((service.netns, service.port), count)
        });
        let before = mem::replace(&mut self.syns_repeated, counts.collect());
        let has_grown = |key, count| count > before.get(key).copied().unwrap_or(0);
        let counts = self.syns_repeated.iter();
        counts.filter(|(key, count)| has_grown(*key, **count)).map(|(key, _)| *key).collect()
    }

    /// Namespaces in which a SYN queue was full since the last look, by the kernel's own counters:
    /// they tell it where no program sees the dropped SYN itself. None at the first look; what is not
    /// among `counters` any more is forgotten.
    pub fn syn_queues_full<'a>(
        &mut self,
        counters: impl Iterator<Item = (NetnsId, &'a MibCounts)>,
    ) -> Vec<NetnsId> {
        let counts = counters.map(|(netns, counts)| (netns, counts[Counter::ReqQFullDrop]));
        let before = mem::replace(&mut self.syn_queues_full, counts.collect());
        let has_grown = |netns, count| before.get(netns).is_some_and(|before| count > *before);
        let counts = self.syn_queues_full.iter();
        counts
            .filter(|(netns, count)| has_grown(*netns, **count))
            .map(|(netns, _)| *netns)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repeated(netns: u64, count: u64) -> ServiceCount {
        ServiceCount {
            netns: NetnsId(netns),
            port: 80,
            is_local: false,
            counts: [(SYN_REPEATED.to_owned(), count)].into(),
        }
    }

    #[test]
    fn what_has_gone_is_forgotten() {
        let mut growth = Growth::default();
        let one = (NetnsId(1), 80);
        assert_eq!(growth.syns_repeated(&[repeated(1, 3), repeated(2, 0)]), [one]);
        assert_eq!(growth.syns_repeated(&[repeated(1, 3)]), []);
        assert_eq!(growth.syns_repeated(&[repeated(1, 4)]), [one]);
        assert_eq!(growth.syns_repeated.len(), 1);

        let mut full = MibCounts::default();
        full[Counter::ReqQFullDrop] = 7;
        let none = MibCounts::default();
        let mut look = |all: &[(u64, &MibCounts)]| {
            growth.syn_queues_full(all.iter().map(|(netns, counts)| (NetnsId(*netns), *counts)))
        };
        assert_eq!(look(&[(1, &none), (2, &full)]), []);
        assert_eq!(look(&[(1, &full)]), [NetnsId(1)]);
        assert_eq!(look(&[(1, &full), (2, &full)]), [], "a namespace seen for the first time");
    }
}
