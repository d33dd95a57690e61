//! What is known at a tick, as whoever exports it gets it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::Configuration;
use crate::{
    across::OutletStats,
    inventory::View,
    kernel::{Health, Heard, MibCounts, NetnsId, Signal, Standing},
    proxy::{ProxyKind, SourceStats},
    stock::Scraped,
    time::UnixMs,
    verdict::{LastVerdict, Report, VerdictKind},
};

/// Everything known at a tick, for whoever exports it.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Everything since start.
    pub report: Report,
    /// Every namespace: its name, and the growth of its own counters since start.
    pub namespaces: BTreeMap<NetnsId, (String, MibCounts)>,
    /// How each signal is had.
    pub standings: Vec<Standing>,
    /// Proxy events by proxy and name.
    pub proxy_events: BTreeMap<(ProxyKind, &'static str), u64>,
    /// Verdicts by kind.
    pub verdicts: BTreeMap<VerdictKind, u64>,
    /// When the newest of the events that verdicts explain was, by the proxy's clock.
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
}
