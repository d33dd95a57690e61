//! What this agent tells the others at each tick.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use anyhow::{Result, anyhow};
use bytes::Bytes;
use log::warn;
use ring::rand::{self, SystemRandom};

use super::{
    message::{Content, Message, Tick, VERSION},
    outbox::{Outbox, Outgoing, OutletStats},
    validate::{self, MAX_ITEMS, MAX_NAMESPACES, MAX_PAYLOAD, MAX_WAITING},
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

/// Tells the others, by way of an outbox.
pub struct Witness {
    host: String,
    run: UnixMs,
    /// Begins the ids by which the server knows a message again. Nobody can guess it, and so publish
    /// under an id before this agent does.
    nonce: String,
    number: u64,
    outbox: Arc<Outbox>,
    growth: Growth,
    told: BTreeMap<NetnsId, (Told, UnixMs)>,
}

impl Witness {
    /// One by the name of `host`.
    ///
    /// # Errors
    ///
    /// When the kernel gives no random numbers.
    pub fn new(host: String, outbox: Arc<Outbox>) -> Result<Self> {
        let nonce: [u8; 16] = rand::generate(&SystemRandom::new())
            .map_err(|_| anyhow!("cannot read random numbers from the kernel"))?
            .expose();
        let nonce = format!("{:032x}", u128::from_be_bytes(nonce));
        let (growth, told) = Default::default();
        Ok(Self { host, run: UnixMs::now(), nonce, number: 0, outbox, growth, told })
    }

    /// What has changed of the namespaces, and what was last told of long ago.
    fn tell_namespaces(&mut self, now: UnixMs, inventory: &Inventory) -> BTreeSet<NetnsId> {
        let mut there = BTreeSet::new();
        for mut told in inventory.tell().into_iter().take(MAX_NAMESPACES) {
            validate::fit_namespace(&mut told);
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
        while let Some((some, others)) = rest.split_at_checked(MAX_ITEMS)
            && !others.is_empty()
        {
            self.put(Content::Losses { sample: part(some, 0) });
            rest = others;
        }
        part(rest, sample.events_lost)
    }

    /// Puts a message in the outbox; in parts, where it is long.
    fn put(&mut self, content: Content) {
        let (host, run, number) = (self.host.clone(), self.run, self.number + 1);
        let message = Message { version: VERSION, host, run, number, content };
        let json = match serde_json::to_vec(&message) {
            Ok(json) => json,
            Err(error) => return warn!("cannot encode a message for NATS, dropping it: {error}"),
        };
        if json.len() > MAX_PAYLOAD / 2
            && let Some(halves) = halves(&message.content)
        {
            return halves.into_iter().for_each(|half| self.put(half));
        }
        self.number = number;
        let id = format!("{}-{number}", self.nonce);
        self.outbox.put_message(Outgoing { id, payload: Bytes::from(json) });
    }
}

/// The two halves of a list of several items.
fn halves(content: &Content) -> Option<[Content; 2]> {
    fn split<T: Clone>(items: &[T]) -> Option<[Vec<T>; 2]> {
        let (one, other) = items.split_at(items.len() / 2);
        (!one.is_empty()).then(|| [one.to_vec(), other.to_vec()])
    }
    match content {
        Content::Heard { heard } => Some(split(heard)?.map(|heard| Content::Heard { heard })),
        Content::Details { events } => {
            Some(split(events)?.map(|events| Content::Details { events }))
        }
        _ => None,
    }
}

/// The accept queues in which connections wait: the fullest, where they are too many to tell.
fn fullest(inventory: &Inventory) -> Vec<(Place, QueueDepth)> {
    let mut waiting: Vec<(Place, QueueDepth)> = inventory.waiting().collect();
    waiting.sort_by(|one, other| other.1.occupancy().total_cmp(&one.1.occupancy()));
    waiting.truncate(MAX_WAITING);
    waiting
}

/// What goes to others of what a proxy said. The line itself stays on the host: it may hold anything.
fn told(heard: &Heard) -> Heard {
    let mut heard = Heard { line: None, ..heard.clone() };
    validate::fit_event(&mut heard.event);
    heard
}

impl Outlet for Witness {
    fn tick(&mut self, inputs: &Inputs<'_>, heard: &[Heard], _: &[Verdict], inventory: &Inventory) {
        let namespaces = self.tell_namespaces(inputs.now, inventory);
        for heard in heard.chunks(MAX_ITEMS) {
            self.put(Content::Heard { heard: heard.iter().map(told).collect() });
        }
        for events in inputs.events.chunks(MAX_ITEMS) {
            self.put(Content::Details { events: events.to_vec() });
        }
        let rung = |signal| {
            let standing = inputs.standings.iter().find(|standing| standing.signal == signal);
            standing.map_or(Rung::None, |standing| standing.rung)
        };
        let counters = inputs.totals.kernel.iter().map(|(netns, (_, counts))| (*netns, counts));
        let mut tick = Tick {
            at: inputs.now,
            sample: self.last_of(inputs.sample),
            waiting: fullest(inventory),
            syns_repeated: self.growth.syns_repeated(&inputs.totals.services),
            syn_queues_full: self.growth.syn_queues_full(counters),
            aborting: &inventory.aborting() & &namespaces,
            syn_rung: rung(Signal::SynDrops),
            ack_rung: rung(Signal::AckDrops),
            namespaces,
        };
        tick.syns_repeated.truncate(MAX_WAITING);
        tick.syn_queues_full.truncate(MAX_NAMESPACES);
        self.put(Content::Tick(Box::new(tick)));
        if inputs.is_last {
            self.put(Content::Stopped);
        }
    }

    fn stats(&self) -> (String, Arc<OutletStats>) {
        ("nats".to_owned(), self.outbox.stats())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        across::{subject, validate::read},
        proxy::{Carrier, EventKind, ProxyEvent, ProxyKind, Upstream},
    };

    /// However odd the names are that a proxy has in its configuration.
    #[tokio::test]
    async fn a_reader_takes_whatever_is_published() {
        let upstream = Upstream::Group("\u{1b}[2J".to_owned() + &"é\"".repeat(5000));
        let carrier = Carrier::plain("a\nb", UnixMs(1));
        let at = (UnixMs(1), u32::MAX);
        let mut event =
            ProxyEvent::new(ProxyKind::Nginx, &carrier, at, EventKind::NoLivePeers, upstream);
        event.leads_to = vec!["[fd00::1]:65535".parse().unwrap(); 1000];
        let line = Some("GET /secret".to_owned());
        let heard = vec![Heard { event, netns: None, at: UnixMs(1), line }; MAX_ITEMS];

        let outbox = Arc::new(Outbox::new(1 << 30));
        let mut witness = Witness::new("web-1.x".to_owned(), Arc::clone(&outbox)).unwrap();
        witness.put(Content::Heard { heard: heard.iter().map(told).collect() });
        let published = outbox.next(usize::MAX).await;
        assert!(published.len() > 1);
        let subject = subject::of_host("web-1.x");
        let messages = published.iter().map(|one| read(&subject, &one.payload).unwrap());
        let mut count = 0;
        for (place, message) in messages.enumerate() {
            assert_eq!(message.number, place as u64 + 1);
            let Content::Heard { heard } = message.content else { panic!("{message:?}") };
            count += heard.len();
        }
        assert_eq!(count, MAX_ITEMS);
    }
}
