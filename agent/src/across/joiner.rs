//! The join of what many hosts told: pure, as the join on one host is. Its clock is that of the bus,
//! and goes no further than the slowest host that is waited for; so whoever reads the same messages in
//! the same order comes to the same verdicts.
//!
//! No host is trusted: what it sends is checked (`validate.rs`), limited to its share (`share.rs`), and
//! it cannot hold the others up for long (`punctuality.rs`).

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use log::warn;
use serde::{Deserialize, Serialize};

use super::{
    clock::{Exchange, UNMEASURED},
    fleet::{Fleet, Host, HostState},
    message::{Content, Message, Tick},
    subject,
    validate::{self, Refusals, Refused},
};
use crate::{
    kernel::{KernelSample, ListenerId},
    printable::printable,
    time::{UnixMs, Window},
    verdict::{Confidence, Correlator, HORIZON, Heard, Verdict},
};

/// A host that has told nothing for so long is forgotten.
const FORGOTTEN: Duration = Duration::from_secs(3600);
/// How long ago a message may tell of: for as long as the stream keeps messages.
const OLDEST: Duration = Duration::from_secs(3600);
/// By how much a message may tell of the future: clocks are known to a second at worst, and stepped.
const AHEAD: Duration = Duration::from_secs(5);
/// While the bus works, messages come at least as often as this: a longer pause is no host's fault.
const STEP_MS: u64 = 2000;
/// Events that may wait for their verdict, of one host and of all.
const MAX_PENDING_OF_ONE: usize = 5000;
const MAX_PENDING: usize = 100_000;
/// What a lost segment or an event takes of a host's share of evidence; an accept queue takes 1.
const WEIGHT: u64 = 4;
/// Hosts named that claim one address.
const NAMED: usize = 5;

/// When and where the bus stored a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its number in the stream.
    pub sequence: u64,
    /// When, by the server's clock.
    pub at: UnixMs,
    /// What the message's sender tells of an earlier one.
    pub exchange: Option<Exchange>,
}

/// A verdict of the fleet's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Joined {
    /// What no other verdict bears, and every reader gives to this one.
    pub id: String,
    /// The host that published the event.
    pub proxy_host: String,
    /// Host of the listener, where one was found.
    pub listener_host: Option<String>,
    /// The verdict. Its times are the bus'.
    #[serde(flatten)]
    pub verdict: Verdict,
}

/// Whose event awaits its verdict.
struct Origin {
    id: String,
    host: String,
    source: String,
}

/// Joins what the hosts tell.
pub struct Joiner {
    correlator: Correlator,
    fleet: Fleet,
    patience: Duration,
    /// By the number that the correlator gave.
    origins: BTreeMap<u64, Origin>,
    /// When the newest message was stored.
    head: UnixMs,
    /// For how long the bus has worked, in milliseconds.
    uptime: u64,
    /// Until when verdicts were made.
    decided: UnixMs,
    /// Whether any host was waited for then.
    waits: bool,
    refusals: Refusals,
    left_out: u64,
}

impl Joiner {
    /// One that waits so long for a host that has told nothing.
    pub fn new(patience: Duration) -> Self {
        let (origins, head, uptime, decided, waits, refusals, left_out) = Default::default();
        let correlator = Correlator::with_room(MAX_PENDING);
        let fleet = Fleet::new(patience);
        Self {
            correlator,
            fleet,
            patience,
            origins,
            head,
            uptime,
            decided,
            waits,
            refusals,
            left_out,
        }
    }

    /// Takes in what was published on `subject`, and gives the verdicts that are due with it. A message
    /// that does not count is counted.
    pub fn receive(&mut self, subject: &str, payload: &[u8], stored: Stored) -> Vec<Joined> {
        self.proceed(stored.at);
        let message = match subject::host_of(subject) {
            Some(host) => self.fleet.admit(&host, payload.len(), stored.at),
            None => Ok(()),
        };
        let message = message.and_then(|()| validate::read(subject, payload));
        self.take(message, stored).unwrap_or_else(|refused| {
            let count = self.refusals.entry(refused.refusal).or_default();
            *count += 1;
            if *count == 1 {
                warn!(
                    "ignoring message {} on {}: {refused}; similar ones are only counted",
                    stored.sequence,
                    printable(subject)
                );
            }
            Vec::new()
        })
    }

    fn proceed(&mut self, stored: UnixMs) {
        let passed = stored.0.saturating_sub(self.head.0);
        self.uptime = self.uptime.saturating_add(passed.min(STEP_MS));
        self.head = self.head.max(stored);
    }

    fn take(
        &mut self,
        message: Result<Message, Refused>,
        stored: Stored,
    ) -> Result<Vec<Joined>, Refused> {
        let mut message = message?;
        let (id, was_set) = self.fleet.greet(&message, stored)?;
        self.correlator.of(id);
        if was_set {
            self.clock_was_set(stored.at);
        }
        self.keep_timely(&mut message, stored.at)?;
        let id = message.id();
        let host = message.host;
        match message.content {
            Content::Namespace(told) => self.leave_out(|this| this.fleet.told(&host, told)),
            Content::Heard { heard } => {
                for (place, heard) in heard.into_iter().enumerate() {
                    self.hear(&host, heard, format!("{id}-{place}"));
                }
            }
            Content::Losses { sample } => {
                self.sample(&host, sample);
            }
            Content::Details { mut events } => {
                self.leave_out(|this| this.cut(&host, &mut events, WEIGHT));
                for event in &events {
                    let event = self.fleet.event(&host, event);
                    self.correlator.on_kernel_event(&event);
                }
            }
            Content::Tick(tick) => {
                self.tick(&host, *tick);
                // Whoever nobody waits for does not move the fleet's clock.
                if !self.waits
                    || self
                        .fleet
                        .hosts
                        .get(&host)
                        .is_some_and(|host| host.is_waited_for(self.uptime))
                {
                    return Ok(self.decide());
                }
            }
            Content::Stopped => {
                self.fleet.stopped(&host);
                return Ok(self.decide());
            }
        }
        Ok(Vec::new())
    }

    /// Leaves of a message what it can know: it cannot tell of what came after the server had stored
    /// it. One that does so is from a host whose clock was set.
    fn keep_timely(&mut self, message: &mut Message, stored: UnixMs) -> Result<(), Refused> {
        let behind = self.fleet.offset(&message.host).ahead_ms.saturating_neg();
        let allowed = Window {
            from: stored.earlier(OLDEST).shifted(behind),
            to: stored.later(AHEAD).shifted(behind),
        };
        let left_out = validate::keep_timely(&mut message.content, &allowed);
        if left_out.is_err() {
            self.fleet.mistrust_clock(&message.host);
            self.clock_was_set(stored);
        }
        self.left_out += left_out? as u64;
        Ok(())
    }

    /// What the host has told before lies in another time.
    fn clock_was_set(&mut self, now: UnixMs) {
        self.correlator.on_gap(Window { from: now.earlier(HORIZON), to: now });
    }

    fn leave_out(&mut self, part: impl FnOnce(&mut Self) -> usize) {
        self.left_out += part(self) as u64;
    }

    /// Leaves of `items` what the host's share of evidence has room for.
    fn cut<T>(&mut self, host: &str, items: &mut Vec<T>, weight: u64) -> usize {
        let all = items.len();
        items.truncate(self.fleet.share(host, all, weight));
        all - items.len()
    }

    fn hear(&mut self, host: &str, heard: Heard, id: String) {
        let Heard { mut event, netns, at, .. } = heard;
        let is_full = |host: &Host| host.pending >= MAX_PENDING_OF_ONE;
        if self.fleet.hosts.get(host).is_none_or(is_full) || self.fleet.share(host, 1, WEIGHT) == 0
        {
            self.left_out += 1;
            return;
        }
        let ahead = self.fleet.offset(host).ahead_ms;
        let source = event.source.clone();
        // Files of one name on two hosts are two sources.
        event.source = format!("{host}:{source}");
        event.at = event.at.shifted(ahead);
        let home = self.fleet.home(host, netns);
        let inventory = &self.fleet.inventory;
        if let Some(number) = self.correlator.on_event(event, home, at.shifted(ahead), inventory) {
            self.origins.insert(number, Origin { id, host: host.to_owned(), source });
            self.fleet.with(host, |host| host.pending += 1);
        }
    }

    /// Takes in what listeners lost, and gives the bus' time of it. Evidence that no verdict can ask
    /// for any more is not kept.
    fn sample(&mut self, host: &str, mut sample: KernelSample) -> Window {
        self.leave_out(|this| this.cut(host, &mut sample.listeners, WEIGHT));
        let sample = self.fleet.sample(host, sample);
        if self.is_wanted(sample.window.to) {
            self.correlator.on_sample(&sample);
        }
        sample.window
    }

    fn is_wanted(&self, at: UnixMs) -> bool {
        at.later(HORIZON) >= self.decided
    }

    fn tick(&mut self, host: &str, mut tick: Tick) {
        self.leave_out(|this| this.cut(host, &mut tick.waiting, 1));
        let sample = std::mem::take(&mut tick.sample);
        let window = self.sample(host, sample);
        if let Some(gap) = self.fleet.advance(host, &tick, window) {
            self.correlator.on_gap(gap);
        }
        let lag = self.head.0.saturating_sub(window.to.0);
        let uptime = self.uptime;
        self.fleet.with(host, |host| host.punctuality.told(uptime, lag));
        if !self.is_wanted(window.to) {
            return;
        }
        let at = tick.at.shifted(self.fleet.offset(host).ahead_ms);
        let mut of_fleet = |netns| self.fleet.netns(host, netns);
        let waiting: Vec<_> = tick
            .waiting
            .into_iter()
            .map(|((netns, addr), depth)| ((of_fleet(netns), addr), depth))
            .collect();
        let repeated = tick.syns_repeated.into_iter();
        let repeated = repeated.map(|(netns, port)| (of_fleet(netns), port)).collect();
        let full = tick.syn_queues_full.into_iter().map(&mut of_fleet).collect();
        let aborting = tick.aborting.into_iter().map(&mut of_fleet).collect();
        self.correlator.on_waiting(at, waiting.into_iter());
        self.correlator.on_syns_repeated(at, repeated);
        self.correlator.on_syn_queues_full(at, full);
        self.correlator.on_settings(tick.syn_rung.name(), tick.ack_rung.name(), aborting);
    }

    /// Whatever is due at the time until which every host has told that is waited for.
    fn decide(&mut self) -> Vec<Joined> {
        self.forget();
        let Some(now) = self.now() else { return Vec::new() };
        self.decided = self.decided.max(now);
        self.correlator.on_skew(self.skew());
        let verdicts = self.correlator.decide_numbered(now, &self.fleet.inventory);
        verdicts.into_iter().filter_map(|(number, verdict)| self.joined(number, verdict)).collect()
    }

    /// The least of what the hosts have told that are waited for; where none is yet, of those that are
    /// on time. What the others would have told is not seen.
    fn now(&mut self) -> Option<UnixMs> {
        let uptime = self.uptime;
        let (mut waited_for, mut on_time): (Option<UnixMs>, Option<UnixMs>) = (None, None);
        let mut absent = Vec::new();
        for host in self.fleet.hosts.values() {
            let Some(until) = host.told_until else { continue };
            let least = |of: Option<UnixMs>| Some(of.map_or(until, |least| least.min(until)));
            if host.has_stopped {
                absent.push((host.id, until));
            } else if host.is_waited_for(uptime) {
                waited_for = least(waited_for);
            } else if host.punctuality.is_on_time(uptime) {
                on_time = least(on_time);
            } else {
                absent.push((host.id, until));
            }
        }
        self.waits = waited_for.is_some();
        let now = waited_for.or(on_time)?;
        for (host, until) in absent.into_iter().filter(|(_, until)| *until < now) {
            self.correlator.of(host).on_gap(Window { from: until, to: now });
        }
        Some(now)
    }

    /// Two clocks differ by no more than what both may be wrong.
    fn skew(&self) -> Duration {
        let hosts = self.fleet.hosts.values();
        let present = hosts.filter(|host| host.stored.later(self.patience) >= self.head);
        let mut worst = [Duration::ZERO; 2];
        for error in present.map(|host| host.error().min(UNMEASURED)) {
            let least = usize::from(worst[1] < worst[0]);
            worst[least] = worst[least].max(error);
        }
        worst.iter().sum()
    }

    fn forget(&mut self) {
        let head = self.head;
        let hosts = self.fleet.hosts.iter();
        let gone = hosts.filter(|(_, host)| host.stored.later(FORGOTTEN) < head);
        let gone: Vec<String> = gone.map(|(name, _)| name.clone()).collect();
        gone.iter().for_each(|name| self.fleet.forget(name));
        self.fleet.gone().into_iter().for_each(|host| self.correlator.forget(host));
    }

    fn joined(&mut self, number: u64, mut verdict: Verdict) -> Option<Joined> {
        let Origin { id, host, source } = self.origins.remove(&number)?;
        self.fleet.with(&host, |host| host.pending = host.pending.saturating_sub(1));
        verdict.event.source = source;
        let claimants = self.claimants(&verdict);
        if claimants.len() > 1 {
            // Any host can claim an address, so none of them is accused.
            verdict.listener = None;
            verdict.confidence = Confidence::Low;
            let names: Vec<&str> = claimants.iter().map(String::as_str).take(NAMED).collect();
            let names = names.join(", ");
            verdict.because += &format!("; several hosts claim the address: {names}");
        }
        let owner = verdict.listener.and_then(|listener| self.fleet.owner(listener.netns).cloned());
        if let (Some(listener), Some((_, netns))) = (verdict.listener, &owner) {
            verdict.listener = Some(ListenerId { netns: *netns, ..listener });
        }
        let listener_host = owner.map(|(host, _)| host);
        let home = verdict.proxy_netns.and_then(|netns| self.fleet.owner(netns));
        verdict.proxy_netns = home.map(|(_, netns)| *netns);
        Some(Joined { id, proxy_host: host, listener_host, verdict })
    }

    /// The hosts that have the address that a verdict is about.
    fn claimants(&self, verdict: &Verdict) -> BTreeSet<String> {
        let inventory = &self.fleet.inventory;
        let Some(addr) = verdict.event.addr() else { return BTreeSet::new() };
        let found = inventory.candidates(addr, verdict.proxy_netns);
        let owners = found.iter().filter_map(|listener| self.fleet.owner(listener.id.netns));
        owners.map(|(host, _)| host.clone()).collect()
    }

    /// What is known of each host.
    pub fn hosts(&self) -> Vec<HostState> {
        self.fleet.states(self.head)
    }

    /// Events that wait for their verdict.
    pub fn pending(&self) -> usize {
        self.correlator.pending()
    }

    /// Messages that did not count.
    pub fn refusals(&self) -> &Refusals {
        &self.refusals
    }

    /// Parts of messages that had no room: listeners, addresses and evidence beyond a host's share.
    pub fn left_out(&self) -> u64 {
        self.left_out
    }
}

#[cfg(test)]
mod tests;
