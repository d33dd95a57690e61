//! What has grown since the last look, of counts that only grow.

use std::collections::BTreeMap;

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
    /// Namespaces whose clients sent SYNs again since the last look, each with the port called.
    pub fn syns_repeated(&mut self, services: &[ServiceCount]) -> Vec<(NetnsId, u16)> {
        let mut grown = Vec::new();
        for service in services.iter().filter(|service| !service.is_local) {
            let count = service.counts.get(SYN_REPEATED).copied().unwrap_or(0);
            let key = (service.netns, service.port);
            if count > self.syns_repeated.insert(key, count).unwrap_or(0) {
                grown.push(key);
            }
        }
        grown
    }

    /// Namespaces in which a SYN queue was full since the last look, by the kernel's own counters:
    /// they tell it where no program sees the dropped SYN itself. None at the first look.
    pub fn syn_queues_full<'a>(
        &mut self,
        counters: impl Iterator<Item = (NetnsId, &'a MibCounts)>,
    ) -> Vec<NetnsId> {
        let mut grown = Vec::new();
        for (netns, counts) in counters {
            let count = counts[Counter::ReqQFullDrop];
            let before = self.syn_queues_full.insert(netns, count);
            if before.is_some_and(|before| count > before) {
                grown.push(netns);
            }
        }
        grown
    }
}
