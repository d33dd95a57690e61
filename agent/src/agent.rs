//! The agent: kernel and proxies in, inventory and verdicts in the middle, a snapshot out.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use tokio::{
    sync::{mpsc, watch},
    time::{MissedTickBehavior, interval},
};

use crate::{
    inventory::View,
    kernel::{
        Health, Heard, KernelSource, MibCounts, NetnsId, Reach, Rung, ServiceCount, Signal,
        Standing, netns::discover,
    },
    proxy::{
        Directory, Homes, ProxyEvent, ProxyKind, SourceStats,
        source::{Positions, Source},
        uprobe::{self, Uprobes},
    },
    stock::{Scraped, Stock},
    time::UnixMs,
    verdict::{BlindSpot, Correlator, KernelSide, Ledger, Report, Verdict, VerdictKind},
};

/// What [`KernelSource::services`] tells.
type Services = (Vec<ServiceCount>, BTreeMap<NetnsId, MibCounts>);

/// How often the kernel's counts are read.
const TICK: Duration = Duration::from_secs(1);
/// Detail events taken at a tick; more wait in the ring buffer.
const EVENTS_PER_TICK: usize = 20_000;
/// Proxy events that may wait for the agent; followers wait when it is full.
const PROXY_QUEUE: usize = 4096;
/// Listeners exported where nobody says how many.
pub const LISTENERS_EXPORTED: usize = 1000;

/// What the agent is asked to do.
#[derive(Clone, Debug)]
pub struct AgentConfig {
    /// Where the proxies speak.
    pub sources: Vec<Source>,
    /// Where to keep how far files have been read; nowhere: they are read from their ends.
    pub state_directory: Option<PathBuf>,
    /// HAProxy's command sockets, or files with `show servers state`, for its servers' addresses.
    pub haproxy_servers: Vec<PathBuf>,
    /// Watch nginx by uprobes in its workers.
    pub nginx_uprobes: bool,
    /// Tell the rarer causes of a drop apart from the first drop on.
    pub watch_causes: bool,
    /// How many listeners to export at most, busiest first.
    pub listeners_exported: usize,
    /// Whether signals may be had that make every system call of the host take longer.
    pub trace_system_calls: bool,
    /// Whether signals may be had whose programs run for every connection, trouble or not.
    pub watch_connections: bool,
}

impl Default for AgentConfig {
    fn default() -> Self {
        Self {
            sources: Vec::new(),
            state_directory: None,
            haproxy_servers: Vec::new(),
            nginx_uprobes: false,
            watch_causes: false,
            listeners_exported: LISTENERS_EXPORTED,
            trace_system_calls: false,
            watch_connections: false,
        }
    }
}

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
    /// The agent's own troubles.
    pub health: Health,
    /// What each signal heard of the canary; empty while it sings.
    pub canary: BTreeMap<Signal, Heard>,
    /// Why there is no canary.
    pub no_canary: Option<String>,
    /// What each source has read, by its name.
    pub sources: Vec<(String, Arc<SourceStats>)>,
    /// Who owns what.
    pub view: View,
    /// How many listeners to export at most.
    pub listeners_exported: usize,
    /// To be told by whoever takes the high-water marks since the last scrape.
    pub scraped: Scraped,
    /// Time the last tick took.
    pub tick: Duration,
}

/// The agent's state between two ticks.
pub struct Agent {
    kernel: KernelSource,
    stock: Stock,
    listeners_exported: usize,
    correlator: Correlator,
    ledger: Ledger,
    sources: Vec<(String, Arc<SourceStats>)>,
    proxy_events: mpsc::Receiver<ProxyEvent>,
    stop_followers: Arc<AtomicBool>,
    positions: Option<Arc<Positions>>,
    directory: Directory,
    homes: Homes,
}

impl Agent {
    /// Attaches to the kernel and opens the sources.
    ///
    /// # Errors
    ///
    /// When nothing at all can be looked at: no procfs, no threads.
    pub fn start(config: &AgentConfig) -> Result<Self> {
        let namespaces = discover()?;
        let reach = Reach {
            system_calls: config.trace_system_calls,
            connections: config.watch_connections,
            ..Reach::default()
        };
        let mut kernel = KernelSource::attach_at_most(&namespaces, reach)?;
        if config.watch_causes {
            kernel.watch_causes()?;
        }
        kernel.release_canary();
        let stock = Stock::take(namespaces)?;
        let (sender, proxy_events) = mpsc::channel(PROXY_QUEUE);
        let stop_followers = Arc::new(AtomicBool::new(false));
        let mut sources = Vec::new();
        let positions = config.state_directory.as_deref().map(Positions::open).transpose()?;
        let positions = positions.map(Arc::new);
        for source in &config.sources {
            let stats =
                source.start(sender.clone(), Arc::clone(&stop_followers), positions.clone())?;
            sources.push((source.name(), stats));
        }
        if config.nginx_uprobes {
            let uprobes = Uprobes::load().context("watching nginx by uprobes")?;
            sources.push((uprobe::SOURCE.to_owned(), uprobes.stats()));
            uprobes.spawn(sender.clone(), Arc::clone(&stop_followers))?;
        }
        Ok(Self {
            kernel,
            stock,
            listeners_exported: config.listeners_exported,
            correlator: Correlator::default(),
            ledger: Ledger::new(UnixMs::now()),
            sources,
            proxy_events,
            stop_followers,
            positions,
            directory: Directory::new(config.haproxy_servers.clone()),
            homes: Homes::default(),
        })
    }

    /// How each signal is had.
    pub fn standings(&self) -> &[Standing] {
        self.kernel.standings()
    }

    /// Runs until `stop` completes, publishing a snapshot at every tick; then decides what still
    /// waits and publishes a last one.
    ///
    /// # Errors
    ///
    /// When the kernel can no longer be read.
    pub async fn run(
        mut self,
        snapshots: &watch::Sender<Option<Arc<Snapshot>>>,
        stop: impl Future<Output = ()>,
        mut on_verdict: impl FnMut(&Verdict),
    ) -> Result<()> {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        tokio::pin!(stop);
        loop {
            tokio::select! {
                biased;
                () = &mut stop => break,
                _ = ticks.tick() => {
                    let snapshot = tokio::task::block_in_place(|| self.tick(&mut on_verdict))?;
                    snapshots.send_replace(Some(Arc::new(snapshot)));
                }
                Some(event) = self.proxy_events.recv() => self.hear(event),
            }
        }
        self.stop_followers.store(true, std::sync::atomic::Ordering::Relaxed);
        let snapshot = tokio::task::block_in_place(|| {
            self.tick(&mut on_verdict)?;
            // Once more: the lower rung gives some drops to a listener one sample later.
            self.tick(&mut on_verdict)?;
            let rest = self.correlator.decide_all(&self.stock.inventory);
            self.book(rest, &mut on_verdict);
            let services = self.kernel.services()?;
            self.snapshot(Duration::ZERO, services)
        })?;
        if let Some(positions) = &self.positions {
            positions.flush();
        }
        snapshots.send_replace(Some(Arc::new(snapshot)));
        Ok(())
    }

    fn hear(&mut self, mut event: ProxyEvent) {
        self.directory.look_up(&mut event);
        self.ledger.book_proxy_event(&event);
        let netns = self.homes.of(&event);
        self.correlator.on_event(event, netns, UnixMs::now(), &self.stock.inventory);
    }

    fn tick(&mut self, on_verdict: &mut impl FnMut(&Verdict)) -> Result<Snapshot> {
        let started = Instant::now();
        if self.stock.tick(&mut self.kernel)? {
            self.forget()?;
        }
        let sample = self.kernel.sample(&self.stock.namespaces)?;
        let is_known = |listener| self.stock.inventory.get(listener).is_some();
        if sample.listeners.iter().any(|delta| !is_known(&delta.listener)) {
            // A listener younger than the last sweep.
            self.stock.sweep(&mut self.kernel, false)?;
        }
        if let Some(watch) = self.kernel.watch() {
            self.ledger.book_arrivals(&watch.flow().arrivals()?);
            self.ledger.book_clients(&watch.flow().clients()?, name_of);
        }
        self.ledger.book_sample(&sample, &self.stock.inventory);
        self.correlator.on_sample(&sample);
        for event in self.kernel.events(EVENTS_PER_TICK) {
            self.ledger.book_event(&event);
            self.correlator.on_kernel_event(&event);
        }
        let services = self.kernel.services()?;
        if !self.sources.is_empty() {
            self.look_for_the_proxies(&services.0);
        }
        while let Ok(event) = self.proxy_events.try_recv() {
            self.hear(event);
        }
        let verdicts = self.correlator.decide(UnixMs::now(), &self.stock.inventory);
        self.book(verdicts, on_verdict);
        self.snapshot(started.elapsed(), services)
    }

    /// What no loss shows, and a proxy suffers from all the same.
    fn look_for_the_proxies(&mut self, services: &[ServiceCount]) {
        let now = UnixMs::now();
        let rung = |signal| {
            let standing = self.kernel.standings().iter().find(|s| s.signal == signal);
            standing.map_or(Rung::None, |standing| standing.rung).name()
        };
        let aborting = self.stock.inventory.aborting();
        self.correlator.on_settings(rung(Signal::SynDrops), rung(Signal::AckDrops), aborting);
        self.correlator.on_queues(now, &self.stock.inventory);
        self.correlator.on_services(now, services);
        self.correlator.on_counters(now, &self.kernel.kernel_counts());
    }

    fn forget(&mut self) -> Result<()> {
        let known = self.kernel.kernel_counts();
        let closed = self.ledger.forget_closed(UnixMs::now(), |netns| known.contains_key(&netns));
        self.kernel.forget(&closed)
    }

    fn book(&mut self, verdicts: Vec<Verdict>, on_verdict: &mut impl FnMut(&Verdict)) {
        for verdict in verdicts {
            on_verdict(&verdict);
            self.ledger.book_verdict(verdict);
        }
    }

    fn snapshot(&self, tick: Duration, services: Services) -> Result<Snapshot> {
        let rungs = self
            .kernel
            .standings()
            .iter()
            .map(|standing| (standing.signal.name().to_owned(), standing.rung.name().to_owned()))
            .collect();
        let (services, services_moved) = services;
        let namespaces = self.kernel.kernel_counts();
        let no_port = self.kernel.no_port()?;
        let heard = self.kernel.heard();
        let no_canary = heard.as_ref().err().map(ToString::to_string);
        let kernel = KernelSide {
            rungs,
            kernel: &namespaces,
            services,
            services_moved,
            no_port,
            settings: self.stock.inventory.namespaces(),
            blind_spots: blind_spots(self.kernel.standings()),
        };
        Ok(Snapshot {
            report: self.ledger.report(UnixMs::now(), kernel),
            namespaces,
            standings: self.kernel.standings().to_vec(),
            proxy_events: self.ledger.event_counts().clone(),
            verdicts: self.ledger.verdict_counts().clone(),
            health: self.kernel.health()?,
            canary: heard.ok().flatten().cloned().unwrap_or_default(),
            no_canary,
            sources: self.sources.clone(),
            view: self.stock.view(self.listeners_exported),
            listeners_exported: self.listeners_exported,
            scraped: self.stock.scraped(),
            tick,
        })
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

fn name_of(pid: u32) -> Option<String> {
    let name = std::fs::read(format!("/proc/{pid}/comm")).ok()?;
    Some(String::from_utf8_lossy(&name).trim_end().to_owned())
}
