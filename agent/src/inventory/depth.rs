//! What the kernel's programs saw of accept queues, brought to the listeners.

use std::collections::BTreeMap;

use floodmark_common::queue::WAIT_BUCKETS;
use serde::{Deserialize, Serialize};

use super::Inventory;
use crate::kernel::{ListenerId, watch::QueueReading};

/// What the kernel saw of an accept queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Depth {
    /// The deepest queue since the last scrape.
    pub high_since_scrape: u32,
    /// The deepest queue between the last two looks.
    #[serde(skip)]
    pub high_at_last_look: u32,
    /// The deepest queue since start.
    pub high: u32,
    /// The longest SYN queue that a connection left since start.
    pub syn_queue_high: u32,
    /// Accepted connections by the time they had waited: up to 2^-20 s, 2^-19 s and so on.
    pub waits: [u64; WAIT_BUCKETS],
    /// Sum of those times in nanoseconds.
    pub waited_ns: u64,
}

impl Depth {
    /// Takes in what the kernel saw since the last look, and the queue at both ends of that time.
    pub(super) fn take(&mut self, reading: &QueueReading, at_either_end: u32, kept: Kept) {
        let high = reading.high_since_look.max(at_either_end);
        let before = match kept {
            Kept::All => self.high_since_scrape,
            Kept::LastLook => self.high_at_last_look,
            Kept::Nothing => 0,
        };
        self.high_since_scrape = before.max(high);
        self.high_at_last_look = high;
        self.high = self.high.max(reading.high).max(high);
        self.syn_queue_high = reading.syn_queue_high;
        self.waits = reading.waits;
        self.waited_ns = reading.waited_ns;
    }

    /// Accepted connections whose time was taken.
    pub fn accepted(&self) -> u64 {
        self.waits.iter().sum()
    }
}

/// How much of the high-water marks since the last scrape stands before a look is taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// Nobody has scraped.
    All,
    /// The state before the last look was scraped: what that look saw still stands.
    LastLook,
    /// The state after the last look was scraped.
    Nothing,
}

impl Inventory {
    /// Takes in what the kernel saw of the queues since the last time; `kept` says what stands of
    /// the high-water marks.
    ///
    /// Where a reading is of a SO_REUSEPORT group as a whole, each of its sockets has its peaks.
    pub fn heard_of_queues(&mut self, readings: &BTreeMap<ListenerId, QueueReading>, kept: Kept) {
        for (id, listener) in &mut self.listeners {
            let own = readings.get(id).copied();
            let group = readings.get(&ListenerId { inode: 0, ..*id }).copied();
            let reading = match (own, group) {
                (own, None) => own.unwrap_or_default(),
                (own, Some(group)) => with_peaks_of(own.unwrap_or_default(), &group),
            };
            let at_either_end = listener.queue.len;
            listener.depth.get_or_insert_with(Depth::default).take(&reading, at_either_end, kept);
        }
    }
}

fn with_peaks_of(own: QueueReading, group: &QueueReading) -> QueueReading {
    QueueReading {
        high_since_look: own.high_since_look.max(group.high_since_look),
        high: own.high.max(group.high),
        syn_queue_high: own.syn_queue_high.max(group.syn_queue_high),
        ..own
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        inventory::Listener,
        kernel::{NetnsId, QueueDepth},
    };

    fn id(inode: u32) -> ListenerId {
        ListenerId { netns: NetnsId(1), addr: "0.0.0.0:80".parse().unwrap(), inode }
    }

    #[test]
    fn a_groups_peak_is_each_members_but_waits_are_their_own() {
        let mut inventory = Inventory::default();
        for inode in [7, 8] {
            let listener = Listener::unknown(id(inode), QueueDepth::default(), None);
            inventory.listeners.insert(id(inode), listener);
        }
        let group = QueueReading { high_since_look: 9, high: 12, ..QueueReading::default() };
        let mut own = QueueReading::default();
        own.waits[3] = 5;
        inventory.heard_of_queues(&[(id(0), group), (id(7), own)].into(), Kept::All);
        let depth = |inode| inventory.listeners[&id(inode)].depth.unwrap();
        assert_eq!((depth(7).high_since_scrape, depth(8).high), (9, 12));
        assert_eq!((depth(7).accepted(), depth(8).accepted()), (5, 0));
    }

    #[test]
    fn a_high_water_mark_stands_until_it_was_scraped_and_no_longer() {
        let mut depth = Depth::default();
        let reading =
            |high_since_look| QueueReading { high_since_look, high: 90, ..QueueReading::default() };
        depth.take(&reading(90), 0, Kept::All);
        depth.take(&reading(0), 3, Kept::All);
        assert_eq!((depth.high_since_scrape, depth.high), (90, 90));
        depth.take(&reading(2), 0, Kept::Nothing);
        assert_eq!((depth.high_since_scrape, depth.high), (2, 90));
        // Scraped while the last look was under way: nobody has seen that one's 50 yet.
        depth.take(&reading(50), 0, Kept::All);
        depth.take(&reading(1), 0, Kept::LastLook);
        assert_eq!(depth.high_since_scrape, 50);
    }
}
