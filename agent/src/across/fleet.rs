//! The hosts that tell, each with its namespaces, its clock and how far it has told.
//!
//! Namespaces bear numbers that are each host's own, so each gets one that is the fleet's.

use std::collections::BTreeMap;

use log::{info, warn};

use super::{
    clock::{Clock, Offset},
    joiner::Stored,
    message::{Message, Tick},
};
use crate::{
    inventory::{HostId, Inventory, Told},
    kernel::{KernelEvent, KernelSample, ListenerId, NetnsId},
    time::{UnixMs, Window},
};

/// Hosts remembered at most; what more of them tell is not heard, and said.
const MOST: usize = 10_000;
/// What was not told of for longer than this between two ticks was not seen. Ticks are a second apart.
const GAP_MS: u64 = 3000;

/// All hosts.
#[derive(Debug, Default)]
pub(super) struct Fleet {
    pub hosts: BTreeMap<String, Host>,
    pub inventory: Inventory,
    /// Whose each of the fleet's namespaces is.
    owners: BTreeMap<NetnsId, (String, NetnsId)>,
    namespaces_seen: u32,
    hosts_seen: u32,
}

/// One host.
#[derive(Debug)]
pub(super) struct Host {
    /// The fleet's number of it.
    pub id: HostId,
    run: UnixMs,
    number: u64,
    /// The fleet's number of each of its namespaces.
    namespaces: BTreeMap<NetnsId, NetnsId>,
    /// Stands for one of them where it is not known which.
    somewhere: NetnsId,
    clock: Clock,
    /// When the server stored its last message.
    pub stored: UnixMs,
    /// Until when it has told, by the bus' clock.
    pub told_until: Option<UnixMs>,
    /// Whether it has said that it stops.
    pub has_stopped: bool,
    /// Messages that should have come.
    missing: u64,
}

/// What is known of a host, for whoever shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostState {
    /// Its name.
    pub name: String,
    /// By how much its clock differs from the bus'.
    pub ahead_ms: i64,
    /// How wrong that may be, in milliseconds.
    pub error_ms: u64,
    /// For how long it has told nothing while others did, in milliseconds.
    pub silent_ms: u64,
    /// Messages that should have come and did not.
    pub missing: u64,
}

impl Fleet {
    /// The host of a message, if that is to be taken: not for the second time.
    pub fn greet(&mut self, message: &Message, stored: Stored) -> Option<HostId> {
        if !self.hosts.contains_key(&message.host) {
            if self.hosts.len() >= MOST {
                return None;
            }
            let host = self.newcomer(stored);
            info!("host {} tells", message.host);
            self.hosts.insert(message.host.clone(), host);
        }
        let host = self.hosts.get_mut(&message.host)?;
        host.stored = stored.at;
        host.clock.stored(stored.sequence, stored.at);
        if let Some(exchange) = stored.exchange {
            host.clock.exchanged(exchange);
        }
        host.counts(message).then_some(host.id)
    }

    fn newcomer(&mut self, stored: Stored) -> Host {
        // This process is on none of them.
        self.hosts_seen += 1;
        let id = HostId(self.hosts_seen);
        let somewhere = self.number();
        self.inventory.hear_of(id, somewhere);
        Host {
            id,
            run: UnixMs(0),
            number: 0,
            namespaces: BTreeMap::new(),
            somewhere,
            clock: Clock::default(),
            stored: stored.at,
            told_until: None,
            has_stopped: false,
            missing: 0,
        }
    }

    fn number(&mut self) -> NetnsId {
        self.namespaces_seen += 1;
        NetnsId(self.namespaces_seen)
    }

    /// By how much a host's clock differs.
    pub fn offset(&self, host: &str) -> Offset {
        self.hosts.get(host).map_or_else(|| Clock::default().offset(), |host| host.clock.offset())
    }

    /// The fleet's number of a host's namespace.
    pub fn netns(&mut self, host: &str, netns: NetnsId) -> NetnsId {
        if let Some(known) = self.hosts.get(host).and_then(|host| host.namespaces.get(&netns)) {
            return *known;
        }
        let number = self.number();
        if let Some(known) = self.hosts.get_mut(host) {
            known.namespaces.insert(netns, number);
            self.inventory.hear_of(known.id, number);
            self.owners.insert(number, (host.to_owned(), netns));
        }
        number
    }

    /// The namespace of a proxy of the host.
    pub fn home(&mut self, host: &str, netns: Option<NetnsId>) -> Option<NetnsId> {
        match netns {
            Some(netns) => Some(self.netns(host, netns)),
            None => self.hosts.get(host).map(|host| host.somewhere),
        }
    }

    /// Whose namespace it is.
    pub fn owner(&self, netns: NetnsId) -> Option<&(String, NetnsId)> {
        self.owners.get(&netns)
    }

    /// Takes in a namespace.
    pub fn told(&mut self, host: &str, told: Told) {
        let netns = self.netns(host, told.netns);
        if let Some(host) = self.hosts.get(host) {
            self.inventory.hear(host.id, &Told { netns, ..told });
        }
    }

    /// Takes in how far a host has told, and which namespaces it has left. Gives the stretch before
    /// in which it was not watched.
    pub fn advance(&mut self, name: &str, tick: &Tick, window: Window) -> Option<Window> {
        let host = self.hosts.get_mut(name)?;
        host.has_stopped = false;
        let until = host.told_until.replace(window.to);
        let gone = host.namespaces.extract_if(.., |netns, _| !tick.namespaces.contains(netns));
        for (_, netns) in gone {
            self.inventory.forget(netns);
            self.owners.remove(&netns);
        }
        let gap = until.filter(|until| until.0 + GAP_MS < window.from.0);
        gap.map(|from| Window { from, to: window.from })
    }

    /// Takes in that a host has stopped: nobody is to wait for it.
    pub fn stopped(&mut self, name: &str) {
        if let Some(host) = self.hosts.get_mut(name) {
            host.has_stopped = true;
            info!("host {name} tells no more");
        }
    }

    /// Forgets a host.
    pub fn forget(&mut self, name: &str) {
        let Some(host) = self.hosts.remove(name) else { return };
        warn!("host {name} is forgotten: it has told nothing for long");
        for netns in host.namespaces.into_values().chain([host.somewhere]) {
            self.inventory.forget(netns);
            self.owners.remove(&netns);
        }
    }

    /// A sample in the fleet's numbers and the bus' time.
    pub fn sample(&mut self, host: &str, mut sample: KernelSample) -> KernelSample {
        let ahead = self.offset(host).ahead_ms;
        let Window { from, to } = sample.window;
        sample.window = Window { from: from.shifted(ahead), to: to.shifted(ahead) };
        for delta in &mut sample.listeners {
            delta.listener = self.listener(host, delta.listener);
        }
        sample
    }

    /// A lost segment in the fleet's numbers and the bus' time.
    pub fn event(&mut self, host: &str, event: &KernelEvent) -> KernelEvent {
        let at = event.at.shifted(self.offset(host).ahead_ms);
        KernelEvent { at, listener: self.listener(host, event.listener), ..*event }
    }

    fn listener(&mut self, host: &str, id: ListenerId) -> ListenerId {
        ListenerId { netns: self.netns(host, id.netns), ..id }
    }

    /// What is known of each host, where the newest message of all was stored at `head`.
    pub fn states(&self, head: UnixMs) -> Vec<HostState> {
        let state = |(name, host): (&String, &Host)| {
            let Offset { ahead_ms, error } = host.clock.offset();
            HostState {
                name: name.clone(),
                ahead_ms,
                error_ms: error.as_millis() as u64,
                silent_ms: head.0.saturating_sub(host.stored.0),
                missing: host.missing,
            }
        };
        self.hosts.iter().map(state).collect()
    }
}

impl Host {
    /// Whether the message has not come before; counts those that have not come at all.
    fn counts(&mut self, message: &Message) -> bool {
        let Message { run, number, .. } = message;
        if *run < self.run || (*run == self.run && *number <= self.number) {
            return false;
        }
        // Of a run that was under way before, the first were not meant for us.
        let is_known = *run == self.run;
        let expected = if is_known { self.number + 1 } else { *number };
        let missing = number - expected;
        if missing > 0 {
            warn!("{missing} messages of host {} are missing", message.host);
        }
        self.missing += missing;
        (self.run, self.number) = (*run, *number);
        true
    }
}
