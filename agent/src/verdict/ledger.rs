//! Everything counted since start, in bounded memory: the source of reports and metrics.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use super::{
    cycle::Cycles,
    flow::{Flow, Flows},
    keepalive::LinkReport,
    peers::Peers,
    report::{BlindSpot, ListenerReport, NetnsReport, ProxyReport, Report},
    verdict::{Cause, Confidence, Verdict},
};
use crate::{
    inventory::{Inventory, Listener, Namespace},
    kernel::{
        Attribution, Counter, KernelEvent, KernelSample, ListenerId, MibCounts, NetnsId,
        NoPortCount, QueueDepth, ServiceCount, Tally, flow::Slot,
    },
    proxy::{EventKind, ProxyEvent, ProxyKind, Upstream},
    time::{UnixMs, Window},
};

/// Verdicts kept word for word; older ones live on in the counts.
pub const VERDICTS_KEPT: usize = 1000;
/// Listeners with an account of their own; what more lose is booked on their namespace.
const ACCOUNTS: usize = 8192;
/// How long the account of a listener is kept after it has closed and lost nothing more.
const RETENTION: Duration = Duration::from_secs(600);
/// Client addresses shown of them.
const PEERS_SHOWN: usize = 5;
/// Listeners reported with what came to them, worst first.
const FLOWS_REPORTED: usize = 10;
/// Label combinations of verdicts counted apart.
const VERDICT_KINDS: usize = 2000;

/// What a verdict is counted by.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VerdictKind {
    /// The proxy program.
    pub proxy: ProxyKind,
    /// The group; empty where the proxy does not tell it, `other` once too many have been seen.
    pub upstream: String,
    /// The peer; empty for an event of a group, `other` once too many have been seen.
    pub peer: String,
    /// Name of the event.
    pub event: &'static str,
    /// The cause.
    pub cause: Cause,
    /// How sure.
    pub confidence: Confidence,
}

/// What the time of a verdict is kept by: proxy, group, name of the event, and cause.
pub type LastVerdict = (ProxyKind, String, &'static str, Cause);

/// The counts.
pub struct Ledger {
    since: UnixMs,
    listeners: BTreeMap<ListenerId, Account>,
    /// What listeners without an account lost: those forgotten, and those beyond [`ACCOUNTS`].
    others: BTreeMap<NetnsId, Tally>,
    events: BTreeMap<(ProxyKind, &'static str), u64>,
    verdict_counts: BTreeMap<VerdictKind, u64>,
    last_verdicts: BTreeMap<LastVerdict, UnixMs>,
    proxy: ProxyReport,
    cycles: Cycles,
    verdicts: VecDeque<Arc<Verdict>>,
    events_lost: u64,
    flows: Flows,
    links: Vec<LinkReport>,
}

/// One listener's account.
struct Account {
    tally: Tally,
    attribution: Attribution,
    queue: QueueDepth,
    peers: Peers,
    /// When it was last known to exist or to lose something.
    alive: UnixMs,
    /// As last seen in the inventory: an owner that has died is still named.
    listener: Option<Listener>,
    /// From the first interval with a drop to the last.
    dropped: Option<Window>,
    worst_per_second: f64,
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
}

impl Account {
    fn new(alive: UnixMs) -> Self {
        Self {
            tally: Tally::default(),
            attribution: Attribution::Exact,
            queue: QueueDepth::default(),
            peers: Peers::default(),
            alive,
            listener: None,
            dropped: None,
            worst_per_second: 0.0,
        }
    }

    /// When it dropped, and how much at worst.
    fn time_drops(&mut self, drops: u64, window: Window) {
        if drops == 0 {
            return;
        }
        let from = self.dropped.map_or(window.from, |dropped| dropped.from);
        self.dropped = Some(Window { from, to: window.to });
        let seconds = window.length().as_secs_f64().max(1.0);
        self.worst_per_second = self.worst_per_second.max(drops as f64 / seconds);
    }
}

/// Every event of every proxy, at 0.
fn none_yet() -> BTreeMap<(ProxyKind, &'static str), u64> {
    let of = |proxy| EventKind::NAMES.map(|name| ((proxy, name), 0));
    ProxyKind::ALL.into_iter().flat_map(of).collect()
}

impl Ledger {
    /// An empty ledger, opened at `since`.
    pub fn new(since: UnixMs) -> Self {
        Self {
            since,
            listeners: BTreeMap::new(),
            others: BTreeMap::new(),
            // What appears with its first event already counted has no increase to be seen.
            events: none_yet(),
            verdict_counts: BTreeMap::new(),
            last_verdicts: BTreeMap::new(),
            proxy: ProxyReport::default(),
            cycles: Cycles::default(),
            verdicts: VecDeque::new(),
            events_lost: 0,
            flows: Flows::default(),
            links: Vec::new(),
        }
    }

    /// Books a sample.
    pub fn book_sample(&mut self, sample: &KernelSample, inventory: &Inventory) {
        self.events_lost += sample.events_lost;
        let now = sample.window.to;
        for delta in &sample.listeners {
            let known = self.listeners.contains_key(&delta.listener);
            if !known && self.listeners.len() >= ACCOUNTS {
                *self.others.entry(delta.listener.netns).or_default() += delta.tally;
                continue;
            }
            let account = self.listeners.entry(delta.listener).or_insert_with(|| Account::new(now));
            account.alive = now;
            account.tally += delta.tally;
            account.time_drops(delta.tally.drops(), sample.window);
            account.attribution = account.attribution.min(delta.attribution);
            if let Some(queue) = delta.queue {
                account.queue.len = account.queue.len.max(queue.len);
                account.queue.limit = queue.limit;
            }
        }
        self.book_flows(sample, inventory);
        for (id, account) in &mut self.listeners {
            if let Some(listener) = inventory.get(id) {
                account.alive = now;
                account.listener = Some(listener.clone());
            }
        }
    }

    /// Books when connections came to the queues; to be told before the sample of the same time.
    pub fn book_arrivals(&mut self, arrivals: &[(ListenerId, Vec<Slot>)], inventory: &Inventory) {
        for (id, slots) in arrivals {
            self.flows.arrived(inventory.bound_for(*id), slots);
        }
    }

    /// Books the connections of this host's own processes since start; none: as before.
    pub fn book_links(&mut self, links: &[LinkReport]) {
        if !links.is_empty() {
            self.links = links.to_vec();
        }
    }

    /// What a full queue lost belongs beside what came to it.
    fn book_flows(&mut self, sample: &KernelSample, inventory: &Inventory) {
        let mut drops = BTreeMap::new();
        for delta in &sample.listeners {
            let key = inventory.get(&delta.listener).and_then(|known| self.flows.key(known));
            if let Some(key) = key {
                drops.insert(key, (delta.tally.overflows(), delta.tally.connections));
            }
        }
        self.flows.dropped(sample.window, &drops);
        for listener in inventory.listeners() {
            if let Some(key) = self.flows.key(listener) {
                self.flows.looked(&key, sample.window.to, listener.queue.len);
            }
        }
    }

    /// Closes the accounts of listeners that are gone for longer than is of interest, and tells
    /// which those are. What they lost stays booked on their namespace, as long as that is `known`.
    pub fn forget_closed(
        &mut self,
        now: UnixMs,
        known: impl Fn(NetnsId) -> bool,
    ) -> BTreeSet<ListenerId> {
        let over = |account: &Account| account.alive.later(RETENTION) < now;
        let gone = self.listeners.extract_if(.., |_, account| over(account));
        let mut closed = BTreeSet::new();
        for (id, account) in gone {
            *self.others.entry(id.netns).or_default() += account.tally;
            closed.insert(id);
        }
        self.others.retain(|netns, _| known(*netns));
        self.flows.retain(|id| known(id.netns));
        closed
    }

    /// Books a detail event: only the address of a client that lost something, the counts come with
    /// the samples.
    pub fn book_event(&mut self, event: &KernelEvent) {
        let Some(account) = self.listeners.get_mut(&event.listener) else { return };
        if event.class.is_loss() {
            account.peers.count(event.peer.ip());
        }
    }

    /// Books what a proxy said.
    pub fn book_proxy_event(&mut self, event: &ProxyEvent) {
        *self.events.entry((event.proxy, event.kind.name())).or_default() += 1;
        self.cycles.add(event);
        match event.kind {
            EventKind::AttemptFailed { .. } => self.proxy.failed_attempts += 1,
            EventKind::PeerMarked { .. } => self.proxy.markings += 1,
            EventKind::PeerBack => self.proxy.peers_back += 1,
            EventKind::NoLivePeers => self.proxy.no_live_peers += 1,
        }
    }

    /// Books a verdict.
    pub fn book_verdict(&mut self, verdict: Verdict) {
        if let EventKind::PeerMarked { .. } = verdict.event.kind {
            self.proxy.markings_joined += u64::from(verdict.is_joined());
            *self.proxy.causes.entry(verdict.cause.name().to_owned()).or_default() += 1;
        }
        let is_group = matches!(verdict.event.upstream, Upstream::Group(_));
        let mut kind = VerdictKind {
            proxy: verdict.event.proxy,
            upstream: verdict.event.group_name().unwrap_or_default().to_owned(),
            peer: if is_group { String::new() } else { verdict.event.upstream.to_string() },
            event: verdict.event.kind.name(),
            cause: verdict.cause,
            confidence: verdict.confidence,
        };
        if self.verdict_counts.len() >= VERDICT_KINDS && !self.verdict_counts.contains_key(&kind) {
            kind.upstream = "other".to_owned();
            kind.peer = "other".to_owned();
        }
        let last = (kind.proxy, kind.upstream.clone(), kind.event, kind.cause);
        let last = self.last_verdicts.entry(last).or_default();
        *last = (*last).max(verdict.event.at);
        *self.verdict_counts.entry(kind).or_default() += 1;
        self.verdicts.push_back(Arc::new(verdict));
        if self.verdicts.len() > VERDICTS_KEPT {
            // A refused request says nothing that the marking before it has not said, and in an
            // outage there are thousands.
            let refused = |verdict: &Arc<Verdict>| verdict.event.kind == EventKind::NoLivePeers;
            let first = self.verdicts.iter().position(refused).unwrap_or(0);
            self.verdicts.remove(first);
        }
    }

    /// Verdicts by kind.
    pub fn verdict_counts(&self) -> &BTreeMap<VerdictKind, u64> {
        &self.verdict_counts
    }

    /// When the newest event of each kind was, by the proxy's clock.
    pub fn last_verdicts(&self) -> &BTreeMap<LastVerdict, UnixMs> {
        &self.last_verdicts
    }

    /// Proxy events by proxy and name.
    pub fn event_counts(&self) -> &BTreeMap<(ProxyKind, &'static str), u64> {
        &self.events
    }

    /// What was attributed to the listeners of each namespace: overflows and drops.
    pub fn attributed(&self) -> BTreeMap<NetnsId, Tally> {
        let mut sums = self.others.clone();
        for (id, account) in &self.listeners {
            *sums.entry(id.netns).or_default() += account.tally;
        }
        sums
    }

    /// The report on everything since start.
    pub fn report(&self, now: UnixMs, kernel: KernelSide<'_>) -> Report {
        let KernelSide { rungs, kernel, services, services_moved, no_port, settings, blind_spots } =
            kernel;
        let attributed = self.attributed();
        let namespaces = kernel
            .iter()
            .filter(|(_, (_, counts))| Counter::reconciled().any(|c| counts[c] > 0))
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
            .collect();
        let listeners = self.listener_reports(kernel);
        Report {
            window: Window { from: self.since, to: now },
            rungs,
            settings: self.settings_told(&listeners, &no_port, settings),
            blind_spots,
            links: self.links.clone(),
            listeners,
            namespaces,
            proxy: ProxyReport {
                verdicts: self.verdicts.iter().cloned().collect(),
                cycles: self.cycles.report(),
                ..self.proxy.clone()
            },
            events_lost: self.events_lost,
            services,
            no_port,
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
        let judged = self.verdicts.iter().flat_map(|verdict| {
            verdict.listener.map(|id| id.netns).into_iter().chain(verdict.proxy_netns)
        });
        let told: BTreeSet<NetnsId> =
            lost.chain(judged).chain(no_port.iter().map(|count| count.netns)).collect();
        let known = |netns: NetnsId| Some((netns, settings.get(&netns)?.clone()));
        told.into_iter().filter_map(known).collect()
    }

    fn flow_of(&self, listener: &Listener) -> Option<Arc<Flow>> {
        let flow = self.flows.of(&self.flows.key(listener)?)?;
        Some(Arc::new(flow.clone()))
    }

    fn listener_reports(
        &self,
        kernel: &BTreeMap<NetnsId, (String, MibCounts)>,
    ) -> Vec<ListenerReport> {
        let mut reports: Vec<ListenerReport> = self
            .listeners
            .iter()
            .map(|(id, account)| {
                let peers = account.peers.top(PEERS_SHOWN);
                let shown: u64 = peers.iter().map(|(_, count)| count).sum();
                let netns_name = kernel.get(&id.netns).map(|(name, _)| name.clone());
                ListenerReport {
                    listener: account
                        .listener
                        .clone()
                        .unwrap_or_else(|| Listener::unknown(*id, account.queue, netns_name)),
                    tally: account.tally,
                    attribution: account.attribution,
                    queue_high: account.queue.len,
                    peers,
                    peers_other: account.tally.losses().saturating_sub(shown),
                    dropped: account.dropped,
                    flow: account.listener.as_ref().and_then(|listener| self.flow_of(listener)),
                    worst_per_second: account.worst_per_second,
                }
            })
            .collect();
        reports.sort_by_key(|report| std::cmp::Reverse(report.tally.drops()));
        reports.iter_mut().skip(FLOWS_REPORTED).for_each(|report| report.flow = None);
        reports
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use super::*;
    use crate::{
        kernel::{Class, ListenerDelta},
        proxy::{Carrier, Failure, Phase},
        verdict::Correlator,
    };

    fn sample(second: u64, ports: impl Iterator<Item = u32>) -> KernelSample {
        let delta = |port: u32| ListenerDelta {
            listener: ListenerId {
                netns: NetnsId(1),
                addr: ([10, 0, 0, 1], 80).into(),
                inode: port,
            },
            tally: Tally::of(&[(Class::SynAcceptQueueFull, 1)]),
            attribution: Attribution::Exact,
            queue: None,
        };
        let (from, to) = (UnixMs(1000 * second), UnixMs(1000 * (second + 1)));
        let listeners = ports.map(delta).collect();
        KernelSample { window: Window { from, to }, listeners, events_lost: 0 }
    }

    fn attributed(ledger: &Ledger) -> u64 {
        ledger.attributed().get(&NetnsId(1)).map_or(0, Tally::overflows)
    }

    #[test]
    fn what_a_forgotten_listener_lost_stays_with_its_namespace() {
        let mut ledger = Ledger::new(UnixMs(0));
        let inventory = Inventory::default();
        ledger.book_sample(&sample(0, 1..=3), &inventory);
        ledger.book_sample(&sample(600, 3..=3), &inventory);
        assert!(ledger.forget_closed(UnixMs(601_000), |_| true).is_empty());
        let closed = ledger.forget_closed(UnixMs(602_000), |_| true);
        assert_eq!(closed.iter().map(|id| id.inode).collect::<Vec<_>>(), [1, 2]);
        assert_eq!((attributed(&ledger), ledger.listeners.len()), (4, 1));
        ledger.forget_closed(UnixMs(3_000_000), |_| false);
        assert_eq!((attributed(&ledger), ledger.listeners.len()), (0, 0));
    }

    #[test]
    fn accounts_are_bounded_and_counts_are_not() {
        let mut ledger = Ledger::new(UnixMs(0));
        let many = ACCOUNTS as u32 + 100;
        ledger.book_sample(&sample(0, 1..=many), &Inventory::default());
        assert_eq!(ledger.listeners.len(), ACCOUNTS);
        assert_eq!(attributed(&ledger), u64::from(many));
    }

    /// A proxy whose configuration is made anew each minute, with other names each time.
    #[test]
    fn kinds_of_verdicts_are_bounded_and_their_counts_are_not() {
        let (mut ledger, inventory) = (Ledger::new(UnixMs(0)), Inventory::default());
        let mut correlator = Correlator::default();
        let carrier = Carrier::plain("error.log", UnixMs(0));
        let phase = Phase::Connect;
        let kind = EventKind::AttemptFailed { phase, failure: Failure::TIMEOUT };
        for number in 0..VERDICT_KINDS as u32 + 500 {
            let peer = SocketAddr::from((Ipv4Addr::from(number), 80));
            let at = (UnixMs(0), 1000);
            let proxy = ProxyKind::Nginx;
            let event = ProxyEvent::new(proxy, &carrier, at, kind, Upstream::Inet(peer));
            correlator.on_event(event, None, UnixMs(0), &inventory);
        }
        correlator.decide_all(&inventory).into_iter().for_each(|it| ledger.book_verdict(it));
        let counts = ledger.verdict_counts();
        assert_eq!(counts.len(), VERDICT_KINDS + 1);
        assert_eq!(counts.values().sum::<u64>(), VERDICT_KINDS as u64 + 500);
        let other = counts.iter().find(|(kind, _)| kind.peer == "other").unwrap();
        assert_eq!((other.0.upstream.as_str(), *other.1), ("other", 500));
    }
}
