//! Which listeners are stalled, so that somebody looks at why.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use anyhow::Result;

use crate::{
    inventory::{Inventory, Listener, Owner, Server},
    kernel::{KernelSample, ListenerId},
    stall::{Holder, Sampler, StallSample, Stalled},
    time::UnixMs,
};

/// How long a listener stays watched after it was stalled.
const AFTERWARDS: Duration = Duration::from_secs(5);
/// Listeners watched at once, those first that drop.
const MOST: usize = 8;

/// Follows which listeners are stalled.
#[derive(Debug)]
pub(super) struct StallWatch {
    sampler: Sampler,
    /// When each was last pressed.
    watched: BTreeMap<ListenerId, UnixMs>,
}

impl StallWatch {
    pub(super) fn start() -> Result<Self> {
        Ok(Self { sampler: Sampler::start()?, watched: BTreeMap::new() })
    }

    /// Takes in a tick; returns what was learned since the last one.
    pub(super) fn tick(
        &mut self,
        sample: &KernelSample,
        inventory: &Inventory,
    ) -> Vec<StallSample> {
        let now = sample.window.to;
        let pressed = pressed(sample, inventory);
        let mut seen = self.sampler.take();
        // A listener of which nothing was seen yet is reported as well: that it was stalled counts.
        let watched = pressed.iter().filter(|id| self.watched.contains_key(id));
        let reported: BTreeSet<ListenerId> = watched.chain(seen.keys()).copied().collect();
        let samples = reported.into_iter().map(|id| {
            let (group, idle_members) = group_of(&id, inventory);
            StallSample {
                listener: id,
                is_pressed: pressed.contains(&id),
                group,
                idle_members,
                evidence: seen.remove(&id).unwrap_or_default(),
            }
        });
        let samples = samples.collect();
        self.follow(now, &pressed, inventory);
        samples
    }

    fn follow(&mut self, now: UnixMs, pressed: &[ListenerId], inventory: &Inventory) {
        self.watched.retain(|_, last| last.later(AFTERWARDS) >= now);
        for id in pressed {
            if self.watched.len() < MOST || self.watched.contains_key(id) {
                self.watched.insert(*id, now);
            }
        }
        let stalled = self.watched.keys().filter_map(|id| {
            let owners = &inventory.get(id)?.owners;
            // systemd holds the sockets of its units, and their services accept.
            let workers = owners.iter().filter(|owner| owner.server != Some(Server::Systemd));
            let holder = |owner: &Owner| Holder { pid: owner.pid, parent: owner.parent };
            Some(Stalled { listener: *id, holders: workers.map(holder).collect() })
        });
        self.sampler.watch(stalled.collect());
    }
}

/// Whether its queue is at half its limit or more.
fn is_half_full(listener: &Listener) -> bool {
    let queue = listener.queue;
    queue.len > 0 && u64::from(queue.len) * 2 >= u64::from(queue.limit)
}

/// Listeners whose queue is at half its limit or more, or that dropped, worst first.
fn pressed(sample: &KernelSample, inventory: &Inventory) -> Vec<ListenerId> {
    let mut drops: BTreeMap<ListenerId, u64> = BTreeMap::new();
    for delta in sample.listeners.iter().filter(|delta| delta.tally.overflows() > 0) {
        let count = delta.tally.overflows();
        let id = delta.listener;
        if inventory.get(&id).is_some() {
            *drops.entry(id).or_default() += count;
            continue;
        }
        // Counted for an address: its fullest socket is the one that drops.
        let same = inventory.listeners_in(id.netns).filter(|known| known.id.addr == id.addr);
        if let Some(fullest) = same.max_by_key(|known| known.queue.len) {
            *drops.entry(fullest.id).or_default() += count;
        }
    }
    for listener in inventory.listeners().filter(|listener| is_half_full(listener)) {
        drops.entry(listener.id).or_default();
    }
    let mut all: Vec<(ListenerId, u64)> = drops.into_iter().collect();
    all.sort_by_key(|(_, count)| Reverse(*count));
    all.into_iter().map(|(id, _)| id).collect()
}

/// How many sockets share its address, and how many of the others have room.
fn group_of(id: &ListenerId, inventory: &Inventory) -> (u32, u32) {
    let Some(own) = inventory.get(id).filter(|listener| listener.group > 1) else { return (1, 0) };
    let others = inventory
        .listeners_in(id.netns)
        .filter(|other| other.id != *id && other.id.addr == own.id.addr);
    (own.group, others.filter(|other| !is_half_full(other)).count() as u32)
}
