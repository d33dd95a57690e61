//! What is known at a tick, as whoever exports it gets it.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use super::Configuration;
use crate::{
    across::OutletStats,
    inventory::{Lookups, View},
    kernel::{Health, Heard, MibCounts, NetnsId, Signal, Standing},
    proxy::{ProxyKind, SourceStats},
    stock::Scraped,
    time::UnixMs,
    verdict::{LastVerdict, ListenerReport, Report, VerdictKind},
};

/// How long the counters of a listener or namespace that has gone are still exported: so that their last
/// increase is scraped, at least once at the minute that Prometheus takes unless told otherwise, and no
/// longer.
const AFTERGLOW: Duration = Duration::from_secs(120);

/// Everything known at a tick, for whoever exports it.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// When it was taken.
    pub taken: Instant,
    /// Everything since start, by the wall clock.
    pub report: Report,
    /// Every namespace that is there, or was a moment ago: its name, and the growth of its own counters since start.
    pub namespaces: BTreeMap<NetnsId, (String, MibCounts)>,
    /// How many more there are.
    pub namespaces_left_out: usize,
    /// How each signal is had.
    pub standings: Vec<Standing>,
    /// Proxy events by proxy and name.
    pub proxy_events: BTreeMap<(ProxyKind, &'static str), u64>,
    /// Verdicts since the agent started, by kind; the number of kinds is limited.
    pub verdicts: BTreeMap<VerdictKind, u64>,
    /// When the newest of the events that verdicts explain was, by the wall clock.
    pub last_verdicts: BTreeMap<LastVerdict, UnixMs>,
    /// The agent's own troubles.
    pub health: Health,
    /// What each signal heard of the canary; empty while it sings.
    pub canary: BTreeMap<Signal, Heard>,
    /// Why there is no canary.
    pub no_canary: Option<String>,
    /// What each source has read, by its name.
    pub sources: Vec<(String, Arc<SourceStats>)>,
    /// Those who are told, by their names.
    pub outlets: Vec<(String, Arc<OutletStats>)>,
    /// Who owns what.
    pub view: View,
    /// How many listeners to export at most.
    pub listeners_exported: usize,
    /// What came of reading the configuration, at start and whenever it was read again.
    pub configuration: Configuration,
    /// To be told by whoever takes the high-water marks since the last scrape.
    pub scraped: Scraped,
    /// Time the last tick took.
    pub tick: Duration,
    /// What became of looking up the owners of sockets.
    pub lookups: Lookups,
    /// How many steps the wall clock made since start.
    pub clock_steps: u64,
    /// How late the ticks started.
    pub lateness: Lateness,
}

/// How late ticks start, relative to when they are due: one second after the one before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lateness {
    /// Of the last tick.
    pub last: Duration,
    /// The sum over all ticks since start.
    pub total: Duration,
}

impl Lateness {
    /// Adds a tick.
    pub(super) fn add(&mut self, last: Duration) {
        *self = Self { last, total: self.total + last };
    }
}

impl Snapshot {
    /// What was there at this time or later is exported.
    pub(super) fn horizon(now: UnixMs) -> UnixMs {
        now.earlier(AFTERGLOW)
    }

    /// Listeners with losses that are there, or were a moment ago, worst first.
    pub fn losers(&self) -> impl Iterator<Item = &ListenerReport> {
        let horizon = Self::horizon(self.report.window.to);
        self.report.listeners.iter().filter(move |listener| listener.last_seen >= horizon)
    }
}
