//! Everything counted since start, in bounded memory: the source of reports and metrics.

mod accounts;
mod proxies;
mod stalls;

use std::collections::{BTreeMap, BTreeSet};

pub use accounts::Accounts;
pub use proxies::{LastVerdict, ProxyAccounts, VERDICTS_KEPT, VerdictKind};
pub use stalls::Stalls;

use super::{
    keepalive::LinkReport,
    report::{BlindSpot, ListenerReport, NetnsReport, Report},
};
use crate::{
    inventory::{Inventory, LeftOut, Namespace},
    kernel::{Counter, KernelSample, MibCounts, NetnsId, NoPortCount, ServiceCount, Tally},
    time::{UnixMs, Window},
};

/// The counts.
pub struct Ledger {
    since: UnixMs,
    /// What the listeners lost.
    pub listeners: Accounts,
    /// What the proxies said.
    pub proxies: ProxyAccounts,
    /// Listeners whose queues are not emptied.
    pub stalls: Stalls,
    events_lost: u64,
    links: Vec<LinkReport>,
}

/// The kernel's side of a report, over the same time as the ledger's.
pub struct KernelSide<'a> {
    /// The rung in use for each signal.
    pub rungs: BTreeMap<String, String>,
    /// Each namespace's name and the growth of its own counters.
    pub kernel: &'a BTreeMap<NetnsId, (String, MibCounts)>,
    /// What became of connections, by service.
    pub services: Vec<ServiceCount>,
    /// The growth of each namespace's counters that those stand for.
    pub services_moved: BTreeMap<NetnsId, MibCounts>,
    /// Connects that found no local port.
    pub no_port: Vec<NoPortCount>,
    /// What bounds queues and ports, by namespace.
    pub settings: &'a BTreeMap<NetnsId, Namespace>,
    /// What the rungs in use cannot see.
    pub blind_spots: Vec<BlindSpot>,
    /// What listens beyond the limits of the inventory.
    pub left_out: LeftOut,
}

impl Ledger {
    /// An empty ledger, opened at `since`.
    pub fn new(since: UnixMs) -> Self {
        Self {
            since,
            listeners: Accounts::default(),
            proxies: ProxyAccounts::default(),
            stalls: Stalls::default(),
            events_lost: 0,
            links: Vec::new(),
        }
    }

    /// Adds the losses of one tick; `inventory` gives their listeners' owners.
    pub fn book_sample(&mut self, sample: &KernelSample, inventory: &Inventory) {
        self.events_lost += sample.events_lost;
        self.listeners.book_sample(sample, inventory);
    }

    /// Books the connections of this host's own processes since start; none: as before.
    pub fn book_links(&mut self, links: &[LinkReport]) {
        if !links.is_empty() {
            self.links = links.to_vec();
        }
    }

    /// The report on everything since start.
    pub fn report(&self, now: UnixMs, kernel: KernelSide<'_>) -> Report {
        let KernelSide {
            rungs,
            kernel,
            services,
            services_moved,
            no_port,
            settings,
            blind_spots,
            left_out,
        } = kernel;
        let attributed = self.listeners.attributed();
        let namespaces = kernel
            .iter()
            .map(|(netns, (name, counts))| {
                let mut attributed = attributed.get(netns).map(Tally::moved).unwrap_or_default();
                attributed += services_moved.get(netns).copied().unwrap_or_default();
                NetnsReport {
                    netns: *netns,
                    name: name.clone(),
                    kernel: *counts,
                    unattributed: counts
                        .unattributed(&attributed)
                        .filter(|(_, rest)| *rest != 0)
                        .map(|(counter, rest)| (counter.name().to_owned(), rest))
                        .collect(),
                }
            })
            .filter(|report| {
                let has_moved = Counter::reconciled().any(|counter| report.kernel[counter] > 0);
                // What was attributed and never counted shows too.
                has_moved || !report.unattributed.is_empty()
            })
            .collect();
        let listeners = self.listeners.reports(kernel);
        Report {
            window: Window { from: self.since, to: now },
            rungs,
            settings: self.settings_told(&listeners, &no_port, settings),
            blind_spots,
            left_out,
            links: self.links.clone(),
            listeners,
            namespaces,
            proxy: self.proxies.report(),
            events_lost: self.events_lost,
            services,
            no_port,
            clock_steps: Vec::new(),
            stalls: self.stalls.reports(),
        }
    }

    /// The settings of the namespaces that a report speaks of.
    fn settings_told(
        &self,
        listeners: &[ListenerReport],
        no_port: &[NoPortCount],
        settings: &BTreeMap<NetnsId, Namespace>,
    ) -> BTreeMap<NetnsId, Namespace> {
        let lost = listeners.iter().map(|report| report.listener.id.netns);
        let judged = self.proxies.verdicts().flat_map(|verdict| {
            verdict.listener.map(|id| id.netns).into_iter().chain(verdict.proxy_netns)
        });
        let told: BTreeSet<NetnsId> =
            lost.chain(judged).chain(no_port.iter().map(|count| count.netns)).collect();
        let known = |netns: NetnsId| Some((netns, settings.get(&netns)?.clone()));
        told.into_iter().filter_map(known).collect()
    }
}
