//! The hosts that tell, each with its namespaces, its clock, its share and how far it has told.
//!
//! Namespaces bear numbers that are each host's own, so each gets one that is the fleet's.

use std::{collections::BTreeMap, time::Duration};

use log::{info, warn};

use super::{
    clock::{Clock, Offset},
    joiner::Stored,
    message::{Message, Tick},
    punctuality::Punctuality,
    share::{READ, Share},
    validate::{MAX_NAMESPACES, Refusal, Refused},
};
use crate::{
    inventory::{HostId, Inventory, Told},
    kernel::{KernelEvent, KernelSample, ListenerId, NetnsId},
    time::{UnixMs, Window},
};

/// Hosts remembered at most. One more takes the place of the one that is silent for longest.
const MAX_HOSTS: usize = 10_000;
/// With fewer hosts than these, those that come and go are logged.
const SAID: usize = 1000;
/// A host that is silent for less than this does not make room for another.
const SILENT: Duration = Duration::from_secs(60);
/// Listeners and addresses of one host.
const MAX_HOST_SIZE: usize = 20_000;
/// Listeners of all hosts together.
const MAX_LISTENERS: usize = 500_000;
/// Evidence that a host may tell of each second, and at once: so many accept queues, or a quarter of
/// it in lost segments and events.
const EVIDENCE: (u64, u64) = (4000, 80_000);
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
    patience: Duration,
    /// Hosts that were forgotten, until someone asks.
    gone: Vec<HostId>,
}

#[derive(Debug)]
pub(super) struct Host {
    /// The fleet's number of it.
    pub id: HostId,
    run: UnixMs,
    number: u64,
    /// The run before.
    last_run: Option<UnixMs>,
    /// Whether two runs were seen at once.
    has_twin: bool,
    namespaces: BTreeMap<NetnsId, Known>,
    /// Stands for one of them where it is not known which.
    somewhere: NetnsId,
    clock: Clock,
    bytes: Share,
    evidence: Share,
    /// Whether the others wait for it.
    pub punctuality: Punctuality,
    /// Its events that wait for their verdict.
    pub pending: usize,
    /// When the server stored its last message.
    pub stored: UnixMs,
    /// Until when it has told, by the bus' clock.
    pub told_until: Option<UnixMs>,
    /// Whether it has said that it stops.
    pub has_stopped: bool,
    /// Messages that should have come.
    missing: u64,
}

/// What is known of a namespace.
#[derive(Clone, Copy, Debug)]
struct Known {
    /// The fleet's number of it.
    number: NetnsId,
    listeners: usize,
    addresses: usize,
}

/// What is known of a host, for whoever shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostState {
    /// The name under which it publishes (`--host-name`).
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
    /// No host yet; the others wait so long for one of them at most.
    pub fn new(patience: Duration) -> Self {
        Self { patience, ..Self::default() }
    }

    /// Makes room for `size` bytes of the host `name`.
    ///
    /// # Errors
    ///
    /// When the host has used up its share, or there are too many hosts.
    pub fn admit(&mut self, name: &str, size: usize, stored: UnixMs) -> Result<(), Refused> {
        if !self.hosts.contains_key(name) {
            self.make_room(stored)?;
            let host = self.newcomer(stored);
            self.say(name, "tells");
            self.hosts.insert(name.to_owned(), host);
        }
        let has_room =
            self.hosts.get_mut(name).is_none_or(|host| host.bytes.take_whole(size as u64, stored));
        let over = || Refused::new(Refusal::OverShare, "the host publishes too much");
        has_room.then_some(()).ok_or_else(over)
    }

    /// The host of a message that is to be taken, not for the second time, and whether its clock or the
    /// bus' was set since the last one.
    pub fn greet(&mut self, message: &Message, stored: Stored) -> Result<(HostId, bool), Refused> {
        let unknown = || Refused::new(Refusal::TooManyHosts, "there are too many hosts");
        let host = self.hosts.get_mut(&message.host).ok_or_else(unknown)?;
        host.stored = host.stored.max(stored.at);
        host.clock.stored(stored.sequence, stored.at);
        let was_set = stored.exchange.is_some_and(|exchange| host.clock.exchanged(exchange));
        host.count(message)?;
        Ok((host.id, was_set))
    }

    fn make_room(&mut self, now: UnixMs) -> Result<(), Refused> {
        if self.hosts.len() < MAX_HOSTS {
            return Ok(());
        }
        let silent = self.hosts.iter().filter(|(_, host)| host.stored.later(SILENT) < now);
        let longest = silent.min_by_key(|(_, host)| host.stored).map(|(name, _)| name.clone());
        let full =
            || Refused::new(Refusal::TooManyHosts, format!("{MAX_HOSTS} hosts publish already"));
        self.forget(&longest.ok_or_else(full)?);
        Ok(())
    }

    /// Says what becomes of a host, where that is not one of very many.
    fn say(&self, name: &str, what: &str) {
        if self.hosts.len() < SAID {
            info!("host {name} {what}");
        }
    }

    fn newcomer(&mut self, stored: UnixMs) -> Host {
        // This process is on none of them.
        self.hosts_seen = self.hosts_seen.wrapping_add(1).max(1);
        let id = HostId(self.hosts_seen);
        let somewhere = self.number();
        self.inventory.hear_of(id, somewhere);
        Host {
            id,
            run: UnixMs(0),
            number: 0,
            last_run: None,
            has_twin: false,
            namespaces: BTreeMap::new(),
            somewhere,
            clock: Clock::default(),
            bytes: Share::new(READ),
            evidence: Share::new(EVIDENCE),
            punctuality: Punctuality::new(self.patience),
            pending: 0,
            stored,
            told_until: None,
            has_stopped: false,
            missing: 0,
        }
    }

    /// One that no namespace has.
    fn number(&mut self) -> NetnsId {
        loop {
            self.namespaces_seen = self.namespaces_seen.wrapping_add(1);
            let number = NetnsId::new(self.namespaces_seen, 0);
            if self.inventory.host(number) == HostId::default() {
                return number;
            }
        }
    }

    /// How much of `wanted` pieces of evidence the host may still tell of, each of a weight.
    pub fn share(&mut self, name: &str, wanted: usize, weight: u64) -> usize {
        let Some(host) = self.hosts.get_mut(name) else { return 0 };
        let told = host.told_until.unwrap_or(host.stored);
        let granted = host.evidence.take(wanted as u64 * weight, told);
        (granted / weight) as usize
    }

    /// By how much a host's clock differs.
    pub fn offset(&self, host: &str) -> Offset {
        self.hosts.get(host).map_or_else(|| Clock::default().offset(), |host| host.clock.offset())
    }

    /// Changes what is known of a host.
    pub fn with(&mut self, name: &str, change: impl FnOnce(&mut Host)) {
        if let Some(host) = self.hosts.get_mut(name) {
            change(host);
        }
    }

    /// Forgets what was measured of a host's clock, which must have been set.
    pub fn mistrust_clock(&mut self, host: &str) {
        self.with(host, |host| host.clock.mistrust());
    }

    /// The fleet's number of a host's namespace; that of none in particular where it has too many.
    pub fn netns(&mut self, name: &str, netns: NetnsId) -> NetnsId {
        let Some(host) = self.hosts.get(name) else { return NetnsId::default() };
        match host.namespaces.get(&netns) {
            Some(known) => known.number,
            None if host.namespaces.len() >= MAX_NAMESPACES => host.somewhere,
            None => {
                let id = host.id;
                let number = self.number();
                self.inventory.hear_of(id, number);
                self.owners.insert(number, (name.to_owned(), netns));
                if let Some(host) = self.hosts.get_mut(name) {
                    let known = Known { number, listeners: 0, addresses: 0 };
                    host.namespaces.insert(netns, known);
                }
                number
            }
        }
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

    /// Takes in a namespace, as far as the host's share of room goes. Gives the number of listeners
    /// and addresses that are left out.
    pub fn told(&mut self, name: &str, mut told: Told) -> usize {
        let number = self.netns(name, told.netns);
        let Some(host) = self.hosts.get_mut(name) else { return 0 };
        let all = told.listeners.len() + told.addresses.len();
        let Some(known) = host.namespaces.get_mut(&told.netns) else { return all };
        let in_fleet = self.inventory.count_listeners().saturating_sub(known.listeners);
        (known.listeners, known.addresses) = (0, 0);
        let others = host.namespaces.values();
        let (listeners, addresses) = others.fold((0, 0), |(listeners, addresses), other| {
            (listeners + other.listeners, addresses + other.addresses)
        });
        let room = (MAX_HOST_SIZE - listeners).min(MAX_LISTENERS.saturating_sub(in_fleet));
        told.listeners.truncate(room);
        while told.addresses.len() > MAX_HOST_SIZE - addresses {
            told.addresses.pop_last();
        }
        let (listeners, addresses) = (told.listeners.len(), told.addresses.len());
        let id = host.id;
        host.namespaces.insert(told.netns, Known { number, listeners, addresses });
        self.inventory.hear(id, &Told { netns: number, ..told });
        all - listeners - addresses
    }

    /// Takes in how far a host has told, and which namespaces it has left. Gives the stretch before
    /// in which it was not watched.
    pub fn advance(&mut self, name: &str, tick: &Tick, window: Window) -> Option<Window> {
        let host = self.hosts.get_mut(name)?;
        host.has_stopped = false;
        let until = host.told_until.replace(window.to);
        let gone = host.namespaces.extract_if(.., |netns, _| !tick.namespaces.contains(netns));
        for (_, Known { number, .. }) in gone {
            self.inventory.forget(number);
            self.owners.remove(&number);
        }
        let gap = until.filter(|until| until.later(Duration::from_millis(GAP_MS)) < window.from);
        gap.map(|from| Window { from, to: window.from })
    }

    /// Takes in that a host has stopped: nobody is to wait for it.
    pub fn stopped(&mut self, name: &str) {
        if let Some(host) = self.hosts.get_mut(name)
            && !std::mem::replace(&mut host.has_stopped, true)
        {
            self.say(name, "tells no more");
        }
    }

    /// Forgets a host.
    pub fn forget(&mut self, name: &str) {
        let Some(host) = self.hosts.remove(name) else { return };
        self.gone.push(host.id);
        self.say(name, "is forgotten: it has told nothing for long");
        let numbers = host.namespaces.into_values().map(|known| known.number);
        for netns in numbers.chain([host.somewhere]) {
            self.inventory.forget(netns);
            self.owners.remove(&netns);
        }
    }

    /// The hosts that were forgotten since it was last asked.
    pub fn gone(&mut self) -> Vec<HostId> {
        std::mem::take(&mut self.gone)
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
    /// Whether the others wait for it.
    pub fn is_waited_for(&self, uptime: u64) -> bool {
        !self.has_stopped && self.punctuality.is_waited_for(uptime)
    }

    /// How wrong its clock may be.
    pub fn error(&self) -> Duration {
        self.clock.offset().error
    }

    /// Counts the messages that have not come before this one.
    fn count(&mut self, message: &Message) -> Result<(), Refused> {
        let Message { run, number, .. } = message;
        // Of a run that was under way before, the first were not meant for us.
        let expected = if *run == self.run { self.number.checked_add(1) } else { Some(*number) };
        let Some(missing) = expected.and_then(|expected| number.checked_sub(expected)) else {
            return Err(Refused::new(Refusal::Repeated, "it came before"));
        };
        if missing > 0 && self.missing == 0 {
            warn!("{missing} messages of host {} are missing", message.host);
        }
        self.missing = self.missing.saturating_add(missing);
        if *run != self.run {
            if self.last_run == Some(*run) && !std::mem::replace(&mut self.has_twin, true) {
                warn!(
                    "two agents use the host name {}; set a different --host-name for each",
                    message.host
                );
            }
            self.last_run = Some(self.run);
        }
        (self.run, self.number) = (*run, *number);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newcomer_takes_the_place_of_the_one_that_is_silent_for_longest() {
        let mut fleet = Fleet::new(SILENT);
        let mut now = UnixMs(1_700_000_000_000);
        for n in 0..MAX_HOSTS {
            fleet.admit(&format!("host-{n}"), 1, now).unwrap();
        }
        let refused = fleet.admit("late", 1, now.later(SILENT)).unwrap_err();
        assert_eq!(refused.refusal, Refusal::TooManyHosts);
        fleet.with("host-0", |host| host.stored = now.later(SILENT));
        now = now.later(2 * SILENT);
        fleet.admit("late", 1, now).unwrap();
        assert!(fleet.hosts.contains_key("late") && fleet.hosts.contains_key("host-0"));
        assert_eq!((fleet.hosts.len(), fleet.gone().len()), (MAX_HOSTS, 1));
    }

    #[test]
    fn numbers_of_namespaces_may_wrap_around_and_none_is_given_twice() {
        let mut fleet = Fleet::new(SILENT);
        for name in ["a", "b"] {
            fleet.admit(name, 1, UnixMs(1)).unwrap();
        }
        let first = fleet.netns("a", NetnsId(7));
        fleet.namespaces_seen = u32::MAX - 1;
        let others: Vec<NetnsId> = (0..9).map(|n| fleet.netns("b", NetnsId(n))).collect();
        assert!(!others.contains(&first));
        assert_eq!(fleet.netns("a", NetnsId(7)), first);
        let known: Vec<_> = others.iter().map(|number| fleet.owner(*number).cloned()).collect();
        assert!(known.iter().flatten().all(|(host, _)| host == "b") && known.len() == 9);
    }
}
