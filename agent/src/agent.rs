//! The agent: kernel and proxies in, inventory and verdicts in the middle, a snapshot out.

mod config;
mod snapshot;
mod stalls;

use std::{
    cell::Cell,
    cmp::Reverse,
    collections::BTreeMap,
    mem,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use log::warn;
use tokio::{
    sync::{mpsc, watch},
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

pub use config::{AgentConfig, Change, Configuration, LISTENERS_EXPORTED, NAMESPACES_EXPORTED};
pub use snapshot::{Lateness, Snapshot};

use stalls::StallWatch;

use crate::{
    across::OutletStats,
    clock::{AgentClock, ClockSteps},
    inventory::{Inventory, Paths, Routes},
    kernel::{
        Counter, KernelSource, ListenerId, MibCounts, NetnsId, Reach, Standing,
        flow::Slot,
        netns::{discover_among, of_process},
    },
    proxy::{
        Directory, EventKind, Failure, Homes, ProxyEvent, SourceStats,
        source::{Following, Positions},
        uprobe::{self, Uprobes},
    },
    record::{Moment, Recorder},
    stock::Stock,
    time::UnixMs,
    verdict::{Heard, Inputs, Judge, LastVerdict, LinkReport, Links, Outcome, Totals, Verdict},
};

/// How often it is told what became of this host's own connections.
const LINKS: Duration = Duration::from_secs(10);
/// How often the kernel's counts are read.
const TICK: Duration = Duration::from_secs(1);
/// Detail events taken at a tick; more wait in the ring buffer.
const EVENTS_PER_TICK: usize = 20_000;
/// Processes whose names are read at a tick, which the kernel keeps; others get theirs later.
const NAMES_PER_TICK: usize = 500;
/// Proxy events that may wait for the agent; followers wait when it is full.
const PROXY_QUEUE: usize = 4096;
/// Somebody who is told what the agent took in and found.
pub trait Outlet: Send {
    /// Tells of a tick: what it took in, with all that was `heard` since the one before, and the
    /// verdicts that it led to.
    fn tick(
        &mut self,
        inputs: &Inputs<'_>,
        heard: &[Heard],
        verdicts: &[Verdict],
        inventory: &Inventory,
    );

    /// Its name, and what became of what it was told.
    fn stats(&self) -> (String, Arc<OutletStats>);
}

/// The agent's state between two ticks.
pub struct Agent {
    kernel: KernelSource,
    stock: Stock,
    listeners_exported: usize,
    namespaces_exported: usize,
    judge: Judge,
    links: Links,
    links_told: Instant,
    since: UnixMs,
    lateness: Lateness,
    recorder: Option<Recorder>,
    following: Following,
    uprobes: Option<Arc<SourceStats>>,
    proxy_events: mpsc::Receiver<ProxyEvent>,
    stop_uprobes: CancellationToken,
    configuration: Configuration,
    positions: Option<Arc<Positions>>,
    directory: Directory,
    homes: Homes,
    routes: Routes,
    paths: Paths,
    stalls: StallWatch,
    outlets: Vec<Box<dyn Outlet>>,
    /// What was heard since the last tick, for the outlets.
    heard: Vec<Heard>,
}

impl Agent {
    /// Attaches to the kernel and opens the sources.
    ///
    /// # Errors
    ///
    /// When nothing at all can be looked at: no procfs, no threads.
    pub fn start(config: &AgentConfig) -> Result<Self> {
        let namespaces = discover_among(&config.namespaces)?;
        for name in &config.namespaces {
            if namespaces.iter().all(|netns| netns.name != *name) {
                warn!(
                    "network namespace {name} does not exist yet; the agent observes it as soon \
                       as it does"
                );
            }
        }
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
        let stock = Stock::take(&config.namespaces, config.limits)?;
        let (sender, proxy_events) = mpsc::channel(PROXY_QUEUE);
        let positions = config.state_directory.as_deref().map(Positions::open).transpose()?;
        let positions = positions.map(Arc::new);
        let mut following = Following::new(sender.clone(), positions.clone());
        if let Some(failure) = following.follow(&config.sources).pop() {
            return Err(failure);
        }
        let stop_uprobes = CancellationToken::new();
        let mut uprobes = None;
        if config.nginx_uprobes {
            let loaded = Uprobes::load().context("observing nginx with uprobes")?;
            uprobes = Some(loaded.stats());
            loaded.spawn(sender, stop_uprobes.clone())?;
        }
        Ok(Self {
            kernel,
            stock,
            listeners_exported: config.listeners_exported,
            namespaces_exported: config.namespaces_exported,
            judge: Judge::new(UnixMs::now()),
            links: Links::default(),
            links_told: Instant::now(),
            since: UnixMs::now(),
            lateness: Lateness::default(),
            recorder: None,
            following,
            uprobes,
            proxy_events,
            stop_uprobes,
            configuration: Configuration { is_in_force: true, since: UnixMs::now() },
            positions,
            directory: Directory::new(config.haproxy_servers.clone()),
            homes: Homes::default(),
            routes: Routes::default(),
            paths: Paths::default(),
            stalls: StallWatch::start()?,
            outlets: Vec::new(),
            heard: Vec::new(),
        })
    }

    /// How each signal is had.
    pub fn standings(&self) -> &[Standing] {
        self.kernel.standings()
    }

    /// Adds somebody who is told of every tick.
    pub fn tell(&mut self, outlet: Box<dyn Outlet>) {
        self.outlets.push(outlet);
    }

    /// Has every tick recorded.
    pub fn record(&mut self, recorder: Recorder) {
        self.recorder = Some(recorder);
    }

    /// Runs until `stop` completes, taking on `changes` and publishing a snapshot at every tick; then
    /// decides what still waits and publishes a last one.
    ///
    /// # Errors
    ///
    /// When the kernel can no longer be read.
    pub async fn run(
        mut self,
        snapshots: &watch::Sender<Option<Arc<Snapshot>>>,
        stop: impl Future<Output = ()>,
        mut changes: mpsc::Receiver<Change>,
        mut on_verdict: impl FnMut(&Verdict),
    ) -> Result<()> {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        tokio::pin!(stop);
        loop {
            tokio::select! {
                biased;
                () = &mut stop => break,
                due = ticks.tick() => {
                    self.lateness.add(due.elapsed());
                    let snapshot = tokio::task::block_in_place(|| self.tick(false, &mut on_verdict))?;
                    snapshots.send_replace(Some(Arc::new(snapshot)));
                }
                Some(change) = changes.recv() => self.change(change),
                Some(event) = self.proxy_events.recv() => self.hear(event),
            }
        }
        self.stop_uprobes.cancel();
        self.following.stop();
        let snapshot = tokio::task::block_in_place(|| {
            self.tick(false, &mut on_verdict)?;
            // Once more: the lower rung gives some drops to a listener one sample later.
            self.tick(true, &mut on_verdict)
        })?;
        if let Some(positions) = &self.positions {
            positions.flush();
        }
        snapshots.send_replace(Some(Arc::new(snapshot)));
        Ok(())
    }

    /// Takes on what can be changed while at work. What was counted stays.
    fn change(&mut self, change: Change) {
        self.configuration.is_in_force = match change {
            Change::Refused => false,
            Change::To(config) => {
                let failures = self.following.follow(&config.sources);
                failures.iter().for_each(|failure| warn!("{failure:#}"));
                self.directory = Directory::new(config.haproxy_servers);
                self.listeners_exported = config.listeners_exported;
                failures.is_empty()
            }
        };
        if self.configuration.is_in_force {
            self.configuration.since = UnixMs::now();
        }
    }

    /// What each source has read, by its name.
    fn sources(&self) -> Vec<(String, Arc<SourceStats>)> {
        let uprobes = self.uprobes.iter().map(|it| (uprobe::SOURCE.to_owned(), Arc::clone(it)));
        self.following.stats().chain(uprobes).collect()
    }

    fn hear(&mut self, event: ProxyEvent) {
        let heard = self.as_heard(event);
        self.judge.hear(&heard, &self.stock.inventory);
        if let Some(recorder) = &mut self.recorder {
            recorder.hear(&heard);
        }
    }

    fn as_heard(&mut self, mut event: ProxyEvent) -> Heard {
        self.directory.look_up(&mut event);
        let netns = self.homes.of(&event);
        self.find_the_way(&mut event, netns);
        // The line is for the record, not for verdicts.
        let line = event.line.take();
        let heard = Heard { event, netns, at: UnixMs::now(), line };
        if !self.outlets.is_empty() {
            self.heard.push(heard.clone());
        }
        heard
    }

    /// Where an attempt's connection really went, as long as the kernel still knows.
    fn find_the_way(&mut self, event: &mut ProxyEvent, netns: Option<NetnsId>) {
        let is_about_peer =
            matches!(event.kind, EventKind::AttemptFailed { .. } | EventKind::PeerMarked { .. });
        if let Some(addr) = event.addr().filter(|_| is_about_peer) {
            let Stock { inventory, namespaces, .. } = &self.stock;
            // Of the first process, which is the host's own wherever the agent sees that at all;
            // else the agent's, which shares it on most hosts.
            let host = of_process(1).or_else(|| of_process(std::process::id()));
            event.leads_to =
                self.routes.of(addr, netns, event.local_addr, inventory, namespaces, host);
            let to = if let [only] = event.leads_to[..] { only.ip() } else { addr.ip() };
            let is_asked = event.failure().is_none_or(Failure::may_be_the_paths);
            if let Some(from) = netns.filter(|_| is_asked && !to.is_loopback()) {
                event.path = self.paths.of(to, from, inventory, namespaces, host);
            }
        }
    }

    fn tick(&mut self, is_last: bool, on_verdict: &mut impl FnMut(&Verdict)) -> Result<Snapshot> {
        let started = Instant::now();
        // The tick before it has taken stock a moment ago.
        let forgets = !is_last && self.stock.tick(&mut self.kernel)?;
        let mut sample = self.kernel.sample(&self.stock.namespaces)?;
        sample.listeners.retain(|delta| self.stock.watches(delta.listener.netns));
        let is_known = |listener| self.stock.inventory.get(listener).is_some();
        if sample.listeners.iter().any(|delta| !is_known(&delta.listener)) {
            // A listener younger than the last sweep.
            self.stock.sweep(&mut self.kernel)?;
        }
        let mut events = self.kernel.events(EVENTS_PER_TICK);
        events.retain(|event| self.stock.watches(event.listener.netns));
        let mut arrivals = self.follow_flows()?;
        arrivals.retain(|(listener, _)| self.stock.watches(listener.netns));
        let links = self.links_if_due(is_last);
        let stalls = self.stalls.tick(&sample, &self.stock.inventory);
        let totals = self.totals()?;
        let mut heard = Vec::new();
        while let Ok(event) = self.proxy_events.try_recv() {
            heard.push(self.as_heard(event));
        }
        let clock = AgentClock::own().compare();
        let inputs = Inputs {
            now: UnixMs::now(),
            sample: &sample,
            events: &events,
            heard: &heard,
            hears_proxies: self.uprobes.is_some() || self.following.stats().next().is_some(),
            forgets,
            is_last,
            standings: self.kernel.standings(),
            totals: &totals,
            arrivals: &arrivals,
            links: &links,
            stalls: &stalls,
            clock: &clock,
        };
        let Outcome { verdicts, closed } = self.judge.tick(&inputs, &self.stock.inventory);
        let all_heard = mem::take(&mut self.heard);
        for outlet in &mut self.outlets {
            outlet.tick(&inputs, &all_heard, &verdicts, &self.stock.inventory);
        }
        if let Some(recorder) = &mut self.recorder {
            recorder.tick(Moment {
                inputs: &inputs,
                inventory: &self.stock.inventory,
                peers: self.stock.peers(),
                troubles: self.kernel.health()?.troubles(),
                verdicts: &verdicts,
            })?;
        }
        verdicts.into_iter().for_each(|it| on_verdict(&it.shifted(clock.shift_ms)));
        if forgets {
            self.kernel.forget(&closed)?;
        }
        self.snapshot(started.elapsed(), totals, &clock)
    }

    /// When connections came to the queues since the last tick; follows this host's own clients on
    /// the way.
    fn follow_flows(&mut self) -> Result<Vec<(ListenerId, Vec<Slot>)>> {
        let Some(watch) = self.kernel.watch() else { return Ok(Vec::new()) };
        let (clients, lost) = watch.flow().clients()?;
        let left = Cell::new(NAMES_PER_TICK);
        self.links.heard(&clients, |pid| {
            left.set(left.get().checked_sub(1)?);
            name_of(pid)
        });
        self.links.lost(lost);
        Ok(watch.flow().arrivals()?.into_iter().collect())
    }

    /// What has become of this host's own connections, now and then.
    fn links_if_due(&mut self, is_last: bool) -> Vec<LinkReport> {
        if !is_last && self.links_told.elapsed() < LINKS {
            return Vec::new();
        }
        self.links_told = Instant::now();
        self.links.report(self.since, UnixMs::now())
    }

    fn totals(&self) -> Result<Totals> {
        let (mut services, mut services_moved) = self.kernel.services().clone();
        let (kernel, mut no_port) = (self.kernel.kernel_counts(), self.kernel.no_port()?);
        services.retain(|service| self.stock.watches(service.netns));
        services_moved.retain(|netns, _| self.stock.watches(*netns));
        no_port.retain(|no_port| self.stock.watches(no_port.netns));
        Ok(Totals { kernel, services, services_moved, no_port })
    }

    fn snapshot(&self, tick: Duration, totals: Totals, clock: &ClockSteps) -> Result<Snapshot> {
        let now = UnixMs::now();
        let heard = self.kernel.heard();
        let no_canary = heard.as_ref().err().map(ToString::to_string);
        let proxies = &self.judge.ledger().proxies;
        let (namespaces, namespaces_left_out) = self.lately_seen(now, totals.kernel.clone());
        let mut view = self.stock.view(self.listeners_exported);
        let wall = |times: &BTreeMap<LastVerdict, UnixMs>| {
            times.iter().map(|(kind, at)| (kind.clone(), clock.wall(*at))).collect()
        };
        let since = self.configuration.since;
        view.namespaces.retain(|netns, _| namespaces.contains_key(netns));
        Ok(Snapshot {
            report: self.judge.report(now, self.kernel.standings(), &totals, &self.stock.inventory),
            namespaces,
            namespaces_left_out,
            standings: self.kernel.standings().to_vec(),
            proxy_events: proxies.event_counts().clone(),
            verdicts: proxies.verdict_counts().clone(),
            last_verdicts: wall(proxies.last_verdicts()),
            taken: Instant::now(),
            clock_steps: clock.count,
            health: self.kernel.health()?,
            canary: heard.ok().flatten().cloned().unwrap_or_default(),
            no_canary,
            sources: self.sources(),
            outlets: self.outlets.iter().map(|outlet| outlet.stats()).collect(),
            view,
            listeners_exported: self.listeners_exported,
            configuration: Configuration { since: clock.wall(since), ..self.configuration },
            scraped: self.stock.scraped(),
            tick,
            lateness: self.lateness,
            lookups: self.stock.lookups(),
        })
    }

    /// Those that are there, or were a moment ago: as many as may be exported, those first that lost
    /// something; and how many are left out.
    fn lately_seen(
        &self,
        now: UnixMs,
        mut kernel: BTreeMap<NetnsId, (String, MibCounts)>,
    ) -> (BTreeMap<NetnsId, (String, MibCounts)>, usize) {
        let horizon = Snapshot::horizon(now);
        kernel.retain(|netns, _| self.kernel.has_seen(*netns, horizon));
        // A name that was given again is that of the namespace that has it now.
        let named: BTreeMap<&str, NetnsId> =
            self.stock.namespaces.iter().map(|netns| (netns.name.as_str(), netns.id)).collect();
        kernel.retain(|netns, (name, _)| named.get(name.as_str()).is_none_or(|id| id == netns));
        let left_out = kernel.len().saturating_sub(self.namespaces_exported);
        if left_out > 0 {
            let is_anonymous = |netns: &NetnsId, name: &str| name == netns.name();
            let mut all: Vec<_> = kernel.into_iter().collect();
            all.sort_by_cached_key(|(netns, (name, counts))| {
                (Reverse(counts[Counter::ListenDrops] > 0), is_anonymous(netns, name), *netns)
            });
            all.truncate(self.namespaces_exported);
            kernel = all.into_iter().collect();
        }
        (kernel, left_out)
    }
}

fn name_of(pid: u32) -> Option<String> {
    let name = std::fs::read(format!("/proc/{pid}/comm")).ok()?;
    Some(String::from_utf8_lossy(&name).trim_end().to_owned())
}
