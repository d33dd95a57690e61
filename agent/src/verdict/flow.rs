//! What came to a listener and what was accepted from it, slot by slot: the record that what-if
//! replays.

mod waiting;

use std::{
    collections::{BTreeMap, VecDeque},
    mem,
};

use serde::{Deserialize, Serialize};

use self::waiting::{Fates, Waiting};
use crate::{
    inventory::Listener,
    kernel::{ListenerId, flow::Slot},
    time::{UnixMs, Window},
};

/// Length of a slot in milliseconds.
pub const SLOT_MS: u64 = 10;
/// Slots kept of a listener that lost something: a minute in which every slot has its connection.
const MOST_SLOTS: usize = 6000;
/// Slots kept are no older than this, in units of [`SLOT_MS`]: ten minutes, as long as the account of a
/// listener that has closed.
const OLDEST: u64 = 600_000 / SLOT_MS;
/// Slots kept of one that has not yet, so that what led to its first loss is known.
const PRELUDE: usize = 300;
/// Listeners of which slots are kept.
const MOST_LISTENERS: usize = 256;

/// What came to one listener. Times without a slot saw nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flow {
    /// Oldest first.
    pub slots: VecDeque<FlowSlot>,
}

/// Ten milliseconds of a listener in which something came, or at whose end the queue was looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowSlot {
    /// Its begin, in units of [`SLOT_MS`] since the Unix epoch.
    pub at: u64,
    /// Connections that entered the accept queue.
    pub enqueued: u32,
    /// Of them those that had been lost before and came again.
    pub again: u32,
    /// Connections that were lost for the first time.
    pub lost: u32,
    /// The queue at its end.
    pub depth: u32,
}

impl Flow {
    /// Its first and last instant.
    pub fn window(&self) -> Option<Window> {
        let (first, last) = (self.slots.front()?, self.slots.back()?);
        Some(Window { from: UnixMs(first.at * SLOT_MS), to: UnixMs((last.at + 1) * SLOT_MS) })
    }

    fn at(&mut self, at: u64) -> &mut FlowSlot {
        let place = self.slots.partition_point(|slot| slot.at < at);
        if self.slots.get(place).is_none_or(|slot| slot.at != at) {
            let depth = place.checked_sub(1).map_or(0, |before| self.slots[before].depth);
            self.slots.insert(place, FlowSlot { at, depth, ..FlowSlot::default() });
        }
        &mut self.slots[place]
    }

    fn keep(&mut self, most: usize) {
        let too_many = self.slots.len().saturating_sub(most);
        let newest = self.slots.back().map_or(0, |slot| slot.at);
        let too_old = self.slots.partition_point(|slot| slot.at + OLDEST < newest);
        self.slots.drain(..too_many.max(too_old));
    }
}

/// The flows of all listeners that take connections.
#[derive(Debug, Default)]
pub struct Flows(BTreeMap<ListenerId, Kept>);

#[derive(Debug, Default)]
struct Kept {
    /// The socket that the queue belongs to, where the kernel tells the group only; 0 until it is known.
    inode: u32,
    /// Of the accept queue, as last seen; 0 until it is known.
    limit: u32,
    flow: Flow,
    has_lost: bool,
    /// Segments dropped that have not come again yet.
    waiting: Waiting,
}

impl Flows {
    /// Takes in what the kernel saw enter the queues since the last time.
    pub fn arrived(&mut self, id: ListenerId, slots: &[Slot]) {
        if !self.0.contains_key(&id) {
            self.make_room();
        }
        let kept = self.0.entry(id).or_default();
        for slot in slots {
            let place = kept.flow.at(slot.at.0 / SLOT_MS);
            // A listener on every address may be told of address by address.
            let before = if place.enqueued > 0 { place.depth } else { 0 };
            place.enqueued += slot.enqueued;
            place.depth = slot.depth.max(before);
        }
        kept.flow.keep(if kept.has_lost { MOST_SLOTS } else { PRELUDE });
    }

    /// Forgets the listener that nothing has come to for longest, if there are too many.
    fn make_room(&mut self) {
        let newest = |(_, kept): &(&ListenerId, &Kept)| kept.flow.slots.back().map(|slot| slot.at);
        if self.0.len() >= MOST_LISTENERS
            && let Some(silent) = self.0.iter().min_by_key(newest).map(|(id, _)| *id)
        {
            self.0.remove(&silent);
        }
    }

    /// Takes in a look at a listener's queue.
    pub fn looked(&mut self, listener: &Listener, at: UnixMs) {
        let Some(key) = self.key(listener) else { return };
        if key.inode == 0 {
            self.belongs(key, listener.id.inode);
        }
        let Some(kept) = self.0.get_mut(&key) else { return };
        kept.limit = listener.queue.limit;
        if kept.flow.slots.back().is_some_and(|last| last.at < at.0 / SLOT_MS) {
            kept.flow.at(at.0 / SLOT_MS).depth = listener.queue.len;
        }
    }

    /// Takes in whose queue a group's is now. What came to the one before, if there was one, goes with it.
    fn belongs(&mut self, group: ListenerId, inode: u32) {
        let Some(kept) = self.0.get_mut(&group) else { return };
        if [0, inode].contains(&kept.inode) {
            kept.inode = inode;
            return;
        }
        let own = mem::replace(kept, Kept { inode, ..Kept::default() });
        self.make_room();
        self.0.insert(ListenerId { inode: own.inode, ..group }, own);
    }

    /// Takes in what was dropped in `window` for a full accept queue: segments, and connections that
    /// had lost none before, where the latter are told. Where they are not, what was dropped a second
    /// before is taken to have come again.
    pub fn dropped(&mut self, window: Window, drops: &BTreeMap<ListenerId, (u64, u64)>) {
        for (id, kept) in &mut self.0 {
            let (dropped, connections) = drops.get(id).copied().unwrap_or_default();
            if dropped > 0 || kept.has_lost {
                kept.dropped(window, dropped, connections);
            }
        }
    }

    /// By what a listener is known here: where the kernel does not tell the sockets of a SO_REUSEPORT
    /// group apart, by the group, and then only one that is alone in it.
    pub fn key(&self, listener: &Listener) -> Option<ListenerId> {
        let group = ListenerId { inode: 0, ..listener.id };
        let is_alone = listener.group <= 1;
        [listener.id, group]
            .into_iter()
            .find(|id| self.0.contains_key(id) && (id.inode != 0 || is_alone))
    }

    /// What came to a listener that may have closed meanwhile, where it lost something.
    pub fn of(&self, listener: &Listener) -> Option<&Flow> {
        let key = self.key(listener)?;
        let kept = self.0.get(&key)?;
        let is_own = key.inode != 0 || [0, listener.id.inode].contains(&kept.inode);
        (is_own && kept.has_lost).then_some(&kept.flow)
    }

    /// Forgets those that have gone.
    pub fn retain(&mut self, alive: impl Fn(&ListenerId) -> bool) {
        self.0.retain(|id, _| alive(id));
    }
}

impl Kept {
    fn dropped(&mut self, window: Window, dropped: u64, connections: u64) {
        let slots = &mut self.flow.slots;
        let before = |end: UnixMs| move |slot: &FlowSlot| slot.at * SLOT_MS < end.0;
        let inside =
            slots.partition_point(before(window.from))..slots.partition_point(before(window.to));
        let came: u64 = slots.range(inside.clone()).map(|slot| u64::from(slot.enqueued)).sum();
        let again = self.waiting.due(window.to).min(dropped + came);
        let first = match connections {
            // Who came again and was dropped again is not counted as a connection of its own.
            0 => dropped.saturating_sub(again),
            told => told.min(dropped),
        };
        let dropped_again = dropped - first;
        let mut got_in = again.saturating_sub(dropped_again);
        for slot in slots.range_mut(inside.clone()).rev() {
            slot.again = got_in.min(u64::from(slot.enqueued)) as u32;
            got_in -= u64::from(slot.again);
        }
        // Drops begin when the queue is full (kernel: `sk_acceptq_is_full`). If no slot shows that, they are of
        // one that had not ended when the slots were read: the last of the sample.
        let full = slots.range(inside).rev().filter(|slot| slot.depth > self.limit);
        let deepest = full.max_by_key(|slot| slot.depth);
        let at = deepest.map_or(window.to.0 / SLOT_MS, |slot| slot.at);
        let fates = Fates { again, dropped_again, first };
        self.waiting.sampled(window.to, fates, UnixMs(at * SLOT_MS));
        self.has_lost |= dropped > 0;
        if first > 0 {
            self.flow.at(at).lost += u32::try_from(first).unwrap_or(u32::MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::{NetnsId, QueueDepth};

    const SECOND: Window = Window { from: UnixMs(1000), to: UnixMs(2000) };
    const NEXT: Window = Window { from: UnixMs(2000), to: UnixMs(3000) };

    fn id() -> ListenerId {
        ListenerId { netns: NetnsId(1), addr: ([10, 0, 0, 1], 80).into(), inode: 1 }
    }

    fn listener(inode: u32) -> Listener {
        Listener::unknown(ListenerId { inode, ..id() }, QueueDepth::default(), None)
    }

    /// Begin, arrivals, those of them that came again, and first losses of each slot.
    fn told(flows: &Flows) -> Vec<(u64, u32, u32, u32)> {
        let slots = &flows.of(&listener(1)).unwrap().slots;
        slots.iter().map(|s| (s.at, s.enqueued, s.again, s.lost)).collect()
    }

    fn slot(ms: u64, enqueued: u32, depth: u32) -> Slot {
        Slot { at: UnixMs(ms), enqueued, depth }
    }

    /// A sample of the second that begins `from` then: what came, and how many segments and connections
    /// were dropped.
    fn second(flows: &mut Flows, from: u64, came: &[Slot], dropped: (u64, u64)) {
        flows.arrived(id(), came);
        let window = Window { from: UnixMs(from), to: UnixMs(from + 1000) };
        flows.dropped(window, &[(id(), dropped)].into());
    }

    #[test]
    fn who_was_dropped_comes_again_and_is_counted_once() {
        let mut flows = Flows::default();
        second(&mut flows, 1000, &[slot(1200, 1, 1), slot(1500, 10, 11)], (40, 0));
        second(&mut flows, 2000, &[slot(2500, 25, 11)], (15, 0));
        assert_eq!(told(&flows), [(120, 1, 0, 0), (150, 10, 0, 40), (250, 25, 25, 0)]);
    }

    #[test]
    fn connections_that_the_kernel_told_apart_are_taken_as_told() {
        let mut flows = Flows::default();
        second(&mut flows, 1000, &[slot(1500, 10, 11)], (40, 40));
        second(&mut flows, 2000, &[slot(2500, 5, 11)], (50, 12));
        let last = *flows.of(&listener(1)).unwrap().slots.back().unwrap();
        assert_eq!((last.again, last.lost), (2, 12), "38 came again and were dropped, 2 got in");
    }

    #[test]
    fn a_look_tells_the_depth_and_what_is_kept_is_bounded() {
        let mut flows = Flows::default();
        let many: Vec<Slot> = (0..2000).map(|n| slot(1000 + 20 * n, 1, 1)).collect();
        flows.arrived(id(), &many);
        let queue = QueueDepth { len: 7, ..QueueDepth::default() };
        flows.looked(&Listener { queue, ..listener(1) }, UnixMs(99_000));
        let kept = &flows.0[&id()].flow.slots;
        assert_eq!((kept.len(), kept.back().unwrap().depth), (PRELUDE + 1, 7));
        assert_eq!(flows.of(&listener(1)), None, "it has lost nothing");
    }

    #[test]
    fn a_listener_that_is_seldom_called_keeps_ten_minutes() {
        let mut flows = Flows::default();
        for second in 0..900 {
            let dropped = (u64::from(second == 0), 0);
            self::second(&mut flows, second * 1000, &[slot(second * 1000, 1, 1)], dropped);
        }
        let slots = told(&flows);
        assert_eq!((slots.len(), slots[0].0), (601, 29_900));
    }

    /// Nobody can have come again yet: the burst goes on.
    #[test]
    fn a_burst_on_both_sides_of_a_sample_is_one() {
        let mut flows = Flows::default();
        second(&mut flows, 1000, &[slot(1990, 11, 11)], (40, 0));
        second(&mut flows, 2000, &[slot(2000, 1, 11)], (60, 0));
        second(&mut flows, 3000, &[slot(3000, 10, 11)], (90, 0));
        assert_eq!(told(&flows), [(199, 11, 0, 40), (200, 1, 0, 60), (300, 10, 10, 0)]);
    }

    /// The sample came in the middle of the slot in which the burst began.
    #[test]
    fn a_burst_whose_slot_is_not_known_yet_is_counted_whole() {
        let mut flows = Flows::default();
        second(&mut flows, 0, &[slot(100, 1, 1)], (0, 0));
        let queue = QueueDepth { limit: 10, len: 0 };
        flows.looked(&Listener { queue, ..listener(1) }, UnixMs(1000));
        second(&mut flows, 1000, &[slot(1100, 1, 1)], (40, 0));
        second(&mut flows, 2000, &[slot(1990, 11, 11), slot(2010, 1, 11)], (60, 0));
        let lost: u32 = told(&flows).iter().map(|(.., lost)| lost).sum();
        let again: u32 = told(&flows).iter().map(|(_, _, again, _)| again).sum();
        assert_eq!((lost, again), (100, 0));
    }

    /// A client waits a second, then two, then four.
    #[test]
    fn who_is_dropped_again_may_wait_twice_as_long() {
        let mut flows = Flows::default();
        let mut again_and_lost = |from: u64, came: u32, dropped: u64| {
            second(&mut flows, from, &[slot(from + 500, came, 11)], (dropped, 0));
            let last = flows.of(&listener(1)).unwrap().slots.back().unwrap();
            (last.again, last.lost)
        };
        assert_eq!(again_and_lost(1000, 10, 40), (0, 40));
        assert_eq!(again_and_lost(2000, 10, 30), (10, 0), "a second later");
        assert_eq!(again_and_lost(3000, 5, 0), (5, 0), "five waited no longer than before");
        assert_eq!(again_and_lost(4000, 10, 15), (10, 0), "the others two seconds");
        assert_eq!(again_and_lost(8000, 15, 0), (15, 0), "and four");
        assert_eq!(again_and_lost(9000, 15, 0), (0, 0), "nobody is due any more");
    }

    #[test]
    fn who_does_not_come_again_is_not_waited_for() {
        let mut flows = Flows::default();
        second(&mut flows, 1000, &[slot(1500, 10, 11)], (40, 0));
        second(&mut flows, 2000, &[slot(2500, 0, 0)], (0, 0));
        second(&mut flows, 3000, &[slot(3500, 10, 11)], (20, 0));
        assert_eq!(told(&flows)[2..], [(350, 10, 0, 20)], "others");
    }

    /// The tracepoint rung tells a port's connections, not whose listener took them.
    #[test]
    fn a_restarted_listener_does_not_inherit_what_came_to_the_one_before() {
        let group = ListenerId { inode: 0, ..id() };
        let mut flows = Flows::default();
        flows.arrived(group, &[slot(1500, 10, 11)]);
        flows.looked(&listener(1), SECOND.from);
        flows.dropped(SECOND, &[(group, (40, 40))].into());
        flows.looked(&listener(2), SECOND.to);
        assert_eq!(flows.of(&listener(2)), None);
        flows.arrived(group, &[slot(2500, 5, 3)]);
        flows.dropped(NEXT, &[(group, (7, 7))].into());
        flows.looked(&listener(2), NEXT.to);
        let lost = |inode| flows.of(&listener(inode)).map(|flow| flow.slots[0].lost);
        assert_eq!((lost(1), lost(2)), (Some(40), Some(7)));
    }

    #[test]
    fn the_listener_silent_for_longest_makes_room() {
        let mut flows = Flows::default();
        let inodes = 1..=MOST_LISTENERS as u32 + 1;
        for inode in inodes {
            flows.arrived(
                ListenerId { inode, ..id() },
                &[slot(10_000 - 10 * u64::from(inode), 1, 1)],
            );
        }
        assert_eq!(flows.0.len(), MOST_LISTENERS);
        let silent = ListenerId { inode: MOST_LISTENERS as u32, ..id() };
        assert!(!flows.0.contains_key(&silent));
    }
}
