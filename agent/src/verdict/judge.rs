//! What follows from a tick: the one way from what was seen and heard to accounts and verdicts, gone
//! by the agent live and by a recording that is replayed.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{
    join::Correlator,
    keepalive::LinkReport,
    ledger::{KernelSide, Ledger},
    report::{BlindSpot, Report},
    verdict::Verdict,
};
use crate::{
    clock::ClockSteps,
    inventory::Inventory,
    kernel::{
        KernelEvent, KernelSample, ListenerId, MibCounts, NetnsId, NoPortCount, Rung, ServiceCount,
        Signal, Standing, flow::Slot,
    },
    proxy::ProxyEvent,
    stall::StallSample,
    time::UnixMs,
};

/// What a proxy said, as the agent heard it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heard {
    /// What it said.
    pub event: ProxyEvent,
    /// Namespace of the proxy's own process, where known.
    pub netns: Option<NetnsId>,
    /// When it was heard.
    pub at: UnixMs,
    /// The line it was told in, as far as it is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<String>,
}

/// What a tick brings, besides the inventory.
#[derive(Debug)]
pub struct Inputs<'a> {
    /// When the tick's sample was taken.
    pub now: UnixMs,
    /// What was lost since the last one.
    pub sample: &'a KernelSample,
    /// Some of it in detail.
    pub events: &'a [KernelEvent],
    /// What the proxies said since.
    pub heard: &'a [Heard],
    /// Whether any proxy is listened to.
    pub hears_proxies: bool,
    /// Whether this is the time to forget the listeners that have gone for long.
    pub forgets: bool,
    /// Whether no further tick comes, so that all that waits is to be decided.
    pub is_last: bool,
    /// How each signal is had.
    pub standings: &'a [Standing],
    /// The kernel's counts since start.
    pub totals: &'a Totals,
    /// When connections came to the accept queues since the last tick.
    pub arrivals: &'a [(ListenerId, Vec<Slot>)],
    /// The connections of this host's own processes to their peers since start; empty: as before.
    pub links: &'a [LinkReport],
    /// What the holders of stalled listeners did since the last tick.
    pub stalls: &'a [StallSample],
    /// The steps of the wall clock since start.
    pub clock: &'a ClockSteps,
}

/// The kernel's counts since start.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    /// Each namespace's name and the growth of its own counters.
    pub kernel: BTreeMap<NetnsId, (String, MibCounts)>,
    /// What became of connections, by service.
    pub services: Vec<ServiceCount>,
    /// The growth of each namespace's counters that those stand for.
    pub services_moved: BTreeMap<NetnsId, MibCounts>,
    /// Connects that found no local port.
    pub no_port: Vec<NoPortCount>,
}

impl Totals {
    /// The growth since `before`.
    pub fn since(mut self, before: &Self) -> Self {
        for (netns, (_, counts)) in &mut self.kernel {
            if let Some((_, before)) = before.kernel.get(netns) {
                *counts = counts.since(before);
            }
        }
        for (netns, counts) in &mut self.services_moved {
            if let Some(before) = before.services_moved.get(netns) {
                *counts = counts.since(before);
            }
        }
        for service in &mut self.services {
            let is_it = |other: &&ServiceCount| {
                let key = |it: &ServiceCount| (it.netns, it.port, it.is_local);
                key(service) == key(other)
            };
            let Some(before) = before.services.iter().find(is_it) else { continue };
            for (word, count) in &mut service.counts {
                *count = count.saturating_sub(before.counts.get(word).copied().unwrap_or(0));
            }
            service.counts.retain(|_, count| *count > 0);
        }
        for refused in &mut self.no_port {
            let is_it = |other: &&NoPortCount| {
                let key = |it: &NoPortCount| (it.netns, it.destination, it.pid);
                key(refused) == key(other)
            };
            let failures = before.no_port.iter().find(is_it).map_or(0, |before| before.failures);
            refused.failures = refused.failures.saturating_sub(failures);
        }
        self.services.retain(|service| !service.counts.is_empty());
        self.no_port.retain(|refused| refused.failures > 0);
        self
    }
}

/// The outcome of a tick.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The verdicts that have become due.
    pub verdicts: Vec<Verdict>,
    /// Listeners that were forgotten.
    pub closed: BTreeSet<ListenerId>,
}

/// Keeps the accounts and decides.
pub struct Judge {
    correlator: Correlator,
    ledger: Ledger,
}

impl Judge {
    /// With empty accounts, opened at `since`.
    pub fn new(since: UnixMs) -> Self {
        Self { correlator: Correlator::default(), ledger: Ledger::new(since) }
    }

    /// Takes in what a proxy said.
    pub fn hear(&mut self, heard: &Heard, inventory: &Inventory) {
        self.ledger.proxies.book_event(&heard.event);
        self.correlator.on_event(heard.event.clone(), heard.netns, heard.at, inventory);
    }

    /// Takes in what a tick brings.
    pub fn tick(&mut self, inputs: &Inputs<'_>, inventory: &Inventory) -> Outcome {
        self.ledger.listeners.book_arrivals(inputs.arrivals, inventory);
        self.ledger.book_links(inputs.links);
        self.ledger.book_sample(inputs.sample, inventory);
        self.ledger.stalls.book(inputs.now, inputs.stalls, inventory);
        self.correlator.on_clock(inputs.clock);
        self.correlator.on_sample(inputs.sample);
        for event in inputs.events {
            self.ledger.listeners.book_event(event);
            self.correlator.on_kernel_event(event);
        }
        if inputs.hears_proxies {
            self.look_for_the_proxies(inputs, inventory);
        }
        for heard in inputs.heard {
            self.hear(heard, inventory);
        }
        let mut verdicts = self.correlator.decide(inputs.now, inventory);
        if inputs.is_last {
            verdicts.extend(self.correlator.decide_all(inventory));
        }
        for verdict in &verdicts {
            self.ledger.proxies.book_verdict(verdict.clone());
        }
        let known = |netns| inputs.totals.kernel.contains_key(&netns);
        let closed = inputs.forgets.then(|| self.ledger.listeners.forget_closed(inputs.now, known));
        Outcome { verdicts, closed: closed.unwrap_or_default() }
    }

    /// What no loss shows, and a proxy suffers from all the same.
    fn look_for_the_proxies(&mut self, inputs: &Inputs<'_>, inventory: &Inventory) {
        let rung = |signal| {
            let standing = inputs.standings.iter().find(|standing| standing.signal == signal);
            standing.map_or(Rung::None, |standing| standing.rung).name()
        };
        let (now, totals) = (inputs.now, inputs.totals);
        let aborting = inventory.aborting();
        self.correlator.on_settings(rung(Signal::SynDrops), rung(Signal::AckDrops), aborting);
        self.correlator.on_queues(now, inventory);
        self.correlator.on_services(now, &totals.services);
        self.correlator.on_counters(now, &totals.kernel);
    }

    /// The accounts.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// The report on everything since start, by the wall clock.
    pub fn report(
        &self,
        now: UnixMs,
        standings: &[Standing],
        totals: &Totals,
        inventory: &Inventory,
    ) -> Report {
        let name = |standing: &Standing| {
            (standing.signal.name().to_owned(), standing.rung.name().to_owned())
        };
        let Totals { kernel, services, services_moved, no_port } = totals;
        let kernel = KernelSide {
            rungs: standings.iter().map(name).collect(),
            kernel,
            services: services.clone(),
            services_moved: services_moved.clone(),
            no_port: no_port.clone(),
            settings: inventory.namespaces(),
            blind_spots: blind_spots(standings),
            left_out: inventory.left_out(),
        };
        let clock = self.correlator.clock();
        let report = self.ledger.report(now, kernel);
        Report { clock_steps: clock.latest.clone().into(), ..report }.shifted(clock.shift_ms)
    }
}

/// What rungs cannot see where a better one was refused.
fn blind_spots(standings: &[Standing]) -> Vec<BlindSpot> {
    let lower = |s: &&Standing| s.rung != Rung::None && s.higher_refused().next().is_some();
    let told = |s: &Standing| BlindSpot {
        signal: s.signal.name().to_owned(),
        rung: s.rung.name().to_owned(),
        unseen: s.blind_spot.clone(),
    };
    standings.iter().filter(lower).map(told).collect()
}

#[cfg(test)]
mod tests;
