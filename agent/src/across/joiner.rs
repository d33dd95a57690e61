//! The join of what many hosts told: pure, as the join on one host is. Its clock is that of the bus,
//! and goes no further than the slowest host has told; so whoever reads the same messages in the same
//! order comes to the same verdicts.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    clock::{Exchange, UNMEASURED},
    fleet::{Fleet, Host, HostState},
    message::{Content, Message, Tick, VERSION},
};
use crate::{
    kernel::ListenerId,
    time::{UnixMs, Window},
    verdict::{Correlator, Heard, Verdict},
};

/// A host that has told nothing for so long is forgotten.
const FORGOTTEN: Duration = Duration::from_secs(3600);

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
    /// Host of the proxy.
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
    refused: u64,
}

impl Joiner {
    /// One that waits so long for a host that has told nothing.
    pub fn new(patience: Duration) -> Self {
        let (correlator, fleet, origins, head) = Default::default();
        Self { correlator, fleet, patience, origins, head, refused: 0 }
    }

    /// Takes in a message and gives the verdicts that are due with it.
    pub fn take(&mut self, message: Message, stored: Stored) -> Vec<Joined> {
        self.head = self.head.max(stored.at);
        let greeted = self.fleet.greet(&message, stored).filter(|_| message.version == VERSION);
        let Some(host) = greeted else {
            self.refused += 1;
            return Vec::new();
        };
        self.correlator.of(host);
        let id = message.id();
        let host = message.host;
        match message.content {
            Content::Namespace(told) => self.fleet.told(&host, told),
            Content::Heard { heard } => {
                for (place, heard) in heard.into_iter().enumerate() {
                    self.hear(&host, heard, format!("{id}-{place}"));
                }
            }
            Content::Losses { sample } => {
                let sample = self.fleet.sample(&host, sample);
                self.correlator.on_sample(&sample);
            }
            Content::Details { events } => {
                for event in &events {
                    let event = self.fleet.event(&host, event);
                    self.correlator.on_kernel_event(&event);
                }
            }
            Content::Tick(tick) => self.tick(&host, *tick),
            Content::Stopped => self.fleet.stopped(&host),
        }
        self.decide()
    }

    fn hear(&mut self, host: &str, heard: Heard, id: String) {
        let Heard { mut event, netns, at, .. } = heard;
        let ahead = self.fleet.offset(host).ahead_ms;
        let source = event.source.clone();
        // Files of one name on two hosts are two sources.
        event.source = format!("{host}:{source}");
        event.at = event.at.shifted(ahead);
        let home = self.fleet.home(host, netns);
        let inventory = &self.fleet.inventory;
        if let Some(number) = self.correlator.on_event(event, home, at.shifted(ahead), inventory) {
            self.origins.insert(number, Origin { id, host: host.to_owned(), source });
        }
    }

    fn tick(&mut self, host: &str, tick: Tick) {
        let sample = self.fleet.sample(host, tick.sample.clone());
        if let Some(gap) = self.fleet.advance(host, &tick, sample.window) {
            self.correlator.on_gap(gap);
        }
        self.correlator.on_sample(&sample);
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
        self.correlator.on_settings(&tick.syn_rung, &tick.ack_rung, aborting);
    }

    /// Whatever is due at the time until which every host has told that still tells.
    fn decide(&mut self) -> Vec<Joined> {
        self.forget();
        let Some(now) = self.now() else { return Vec::new() };
        self.correlator.on_skew(self.skew());
        let verdicts = self.correlator.decide_numbered(now, &self.fleet.inventory);
        verdicts.into_iter().filter_map(|(number, verdict)| self.joined(number, verdict)).collect()
    }

    /// The least of what the hosts have told. One that tells nothing any more is not waited for, and
    /// what it would have told is not seen.
    fn now(&mut self) -> Option<UnixMs> {
        let is_silent =
            |host: &Host| host.has_stopped || host.stored.later(self.patience) < self.head;
        let told = |host: &Host| Some((host.id, is_silent(host), host.told_until?));
        let all: Vec<_> = self.fleet.hosts.values().filter_map(told).collect();
        let (silent, telling): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|(_, is_silent, _)| *is_silent);
        let now = telling.iter().map(|(.., until)| *until).min()?;
        for (host, _, until) in silent.into_iter().filter(|(.., until)| *until < now) {
            self.correlator.of(host).on_gap(Window { from: until, to: now });
        }
        Some(now)
    }

    /// Two clocks differ by no more than what both may be wrong.
    fn skew(&self) -> Duration {
        let states = self.fleet.states(self.head);
        let mut errors: Vec<u64> = states
            .iter()
            .filter(|state| state.silent_ms <= self.patience.as_millis() as u64)
            .map(|state| state.error_ms.min(UNMEASURED.as_millis() as u64))
            .collect();
        errors.sort_unstable();
        Duration::from_millis(errors.iter().rev().take(2).sum())
    }

    fn forget(&mut self) {
        let head = self.head;
        let hosts = self.fleet.hosts.iter();
        let gone = hosts.filter(|(_, host)| host.stored.later(FORGOTTEN) < head);
        let gone: Vec<String> = gone.map(|(name, _)| name.clone()).collect();
        gone.iter().for_each(|name| self.fleet.forget(name));
    }

    fn joined(&mut self, number: u64, mut verdict: Verdict) -> Option<Joined> {
        let Origin { id, host, source } = self.origins.remove(&number)?;
        verdict.event.source = source;
        let owner = verdict.listener.and_then(|listener| self.fleet.owner(listener.netns).cloned());
        if let (Some(listener), Some((_, netns))) = (verdict.listener, &owner) {
            verdict.listener = Some(ListenerId { netns: *netns, ..listener });
        }
        let listener_host = owner.map(|(host, _)| host);
        let home = verdict.proxy_netns.and_then(|netns| self.fleet.owner(netns));
        verdict.proxy_netns = home.map(|(_, netns)| *netns);
        Some(Joined { id, proxy_host: host, listener_host, verdict })
    }

    /// What is known of each host.
    pub fn hosts(&self) -> Vec<HostState> {
        self.fleet.states(self.head)
    }

    /// Events that wait for their verdict.
    pub fn pending(&self) -> usize {
        self.correlator.pending()
    }

    /// Messages that came twice, were of another version, or of one host too many.
    pub fn refused(&self) -> u64 {
        self.refused
    }
}

#[cfg(test)]
mod tests;
