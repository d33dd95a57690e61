//! What this agent tells the others at each tick.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use log::warn;

use super::{
    message::{Content, Message, Tick, VERSION},
    outbox::{Outbox, Outgoing, OutletStats},
};
use crate::{
    agent::Outlet,
    inventory::{Inventory, Told},
    kernel::{KernelSample, ListenerDelta, NetnsId, QueueDepth, Rung, Signal},
    time::UnixMs,
    verdict::{Growth, Heard, Inputs, Place, Verdict},
};

/// How often a namespace is told of though nothing changed: who begins to read must hear of it.
const RETELL: Duration = Duration::from_secs(60);
/// What was heard, or lost segments, told in one message: well below the 1 MiB that a NATS server
/// takes (`max_payload`).
const CHUNK: usize = 500;
/// Accept queues told of in a second.
const MOST_WAITING: usize = 2000;

/// Tells the others, by way of an outbox.
pub struct Witness {
    host: String,
    run: UnixMs,
    number: u64,
    outbox: Arc<Outbox>,
    growth: Growth,
    told: BTreeMap<NetnsId, (Told, UnixMs)>,
}

impl Witness {
    /// One by the name of `host`.
    pub fn new(host: String, outbox: Arc<Outbox>) -> Self {
        let (growth, told) = Default::default();
        Self { host, run: UnixMs::now(), number: 0, outbox, growth, told }
    }

    /// What has changed of the namespaces, and what was last told of long ago.
    fn tell_namespaces(&mut self, now: UnixMs, inventory: &Inventory) -> BTreeSet<NetnsId> {
        let mut there = BTreeSet::new();
        for told in inventory.tell() {
            let netns = told.netns;
            there.insert(netns);
            let known = self.told.get(&netns);
            if known.is_none_or(|(known, at)| *known != told || at.later(RETELL) <= now) {
                self.told.insert(netns, (told.clone(), now));
                self.put(Content::Namespace(told));
            }
        }
        self.told.retain(|netns, _| there.contains(netns));
        there
    }

    /// Tells of the losses of all but the last listeners, and leaves those.
    fn last_of(&mut self, sample: &KernelSample) -> KernelSample {
        let part = |listeners: &[ListenerDelta], events_lost| KernelSample {
            window: sample.window,
            listeners: listeners.to_vec(),
            events_lost,
        };
        let mut rest = sample.listeners.as_slice();
        while let Some((some, others)) = rest.split_at_checked(CHUNK)
            && !others.is_empty()
        {
            self.put(Content::Losses { sample: part(some, 0) });
            rest = others;
        }
        part(rest, sample.events_lost)
    }

    fn put(&mut self, content: Content) {
        self.number += 1;
        let (host, run, number) = (self.host.clone(), self.run, self.number);
        let message = Message { version: VERSION, host, run, number, content };
        match serde_json::to_vec(&message) {
            Ok(json) => {
                self.outbox.put_message(Outgoing { id: message.id(), payload: Bytes::from(json) })
            }
            Err(error) => warn!("a message for the bus cannot be written: {error}"),
        }
    }
}

/// The accept queues in which connections wait: the fullest, where they are too many to tell.
fn fullest(inventory: &Inventory) -> Vec<(Place, QueueDepth)> {
    let mut waiting: Vec<(Place, QueueDepth)> = inventory.waiting().collect();
    waiting.sort_by(|one, other| other.1.occupancy().total_cmp(&one.1.occupancy()));
    waiting.truncate(MOST_WAITING);
    waiting
}

impl Outlet for Witness {
    fn tick(&mut self, inputs: &Inputs<'_>, heard: &[Heard], _: &[Verdict], inventory: &Inventory) {
        let namespaces = self.tell_namespaces(inputs.now, inventory);
        for heard in heard.chunks(CHUNK) {
            // The line itself stays on the host: it may hold anything.
            let heard = heard.iter().map(|heard| Heard { line: None, ..heard.clone() }).collect();
            self.put(Content::Heard { heard });
        }
        for events in inputs.events.chunks(CHUNK) {
            self.put(Content::Details { events: events.to_vec() });
        }
        let rung = |signal| {
            let standing = inputs.standings.iter().find(|standing| standing.signal == signal);
            standing.map_or(Rung::None, |standing| standing.rung).name().to_owned()
        };
        let counters = inputs.totals.kernel.iter().map(|(netns, (_, counts))| (*netns, counts));
        let tick = Tick {
            at: inputs.now,
            sample: self.last_of(inputs.sample),
            waiting: fullest(inventory),
            syns_repeated: self.growth.syns_repeated(&inputs.totals.services),
            syn_queues_full: self.growth.syn_queues_full(counters),
            aborting: inventory.aborting(),
            syn_rung: rung(Signal::SynDrops),
            ack_rung: rung(Signal::AckDrops),
            namespaces,
        };
        self.put(Content::Tick(Box::new(tick)));
        if inputs.is_last {
            self.put(Content::Stopped);
        }
    }

    fn stats(&self) -> (String, Arc<OutletStats>) {
        ("nats".to_owned(), self.outbox.stats())
    }
}
