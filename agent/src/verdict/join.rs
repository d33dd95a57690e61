//! The join: proxy events wait until the kernel's side of their time is complete, then each gets
//! its verdict, once.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{
    attempt::{Attempt, LONGEST_ATTEMPT, end_of, reach},
    attempts::Attempts,
    cause::{Facts, rule},
    evidence::{Evidence, Place},
    growth::Growth,
    markings::{MEMORY, Markings},
    paths::ClosedPaths,
    search::{Found, candidates, search, search_onward},
    verdict::{Cause, Confidence, EvidenceHealth, Verdict},
};
use crate::{
    clock::ClockSteps,
    inventory::{HostId, Inventory},
    kernel::{
        KernelEvent, KernelSample, ListenerId, MibCounts, NetnsId, QueueDepth, ServiceCount, Tally,
        path::PeerPath,
    },
    proxy::{EventKind, ProxyEvent, ProxyKind, Trust},
    time::{UnixMs, Window},
};

/// The accept queue is looked at each second. Whoever waited for an answer in vain was in it to the
/// end, however long that took.
const LAST_LOOKS: Duration = Duration::from_millis(2500);
/// How long an event waits for the companion line and for the samples of its last second.
pub const SETTLE: Duration = Duration::from_secs(3);
/// How far back a verdict may ask for evidence.
pub const HORIZON: Duration =
    Duration::from_secs(LONGEST_ATTEMPT.as_secs() + ENVOY_SETTLE.as_secs() + SETTLE.as_secs());
/// Envoy writes its access log every 10 s (`--file-flush-interval-msec`), so the attempts that led
/// to an ejection are heard of later than it.
const ENVOY_SETTLE: Duration = Duration::from_secs(13);
/// nginx's default `fail_timeout`: a peer that failed longer ago has been tried again since, which
/// would have been said. Somewhat more, for the time stamps are whole seconds.
const FAIL_TIMEOUT_MS: u64 = 12_000;
/// Events that may wait at once on one host.
const MOST_PENDING: usize = 20_000;

/// A proxy event waiting for its verdict.
struct Pending {
    event: ProxyEvent,
    /// Namespace of the proxy's own process, where known: its loopback is meant by 127.0.0.1.
    proxy_netns: Option<NetnsId>,
    /// The listeners behind its address when it was heard: they may close before it is decided.
    listeners: Vec<ListenerId>,
}

/// Joins events with evidence.
pub struct Correlator {
    evidence: Evidence,
    most_pending: usize,
    /// By the time at which it is decided, and in order of arrival.
    pending: BTreeMap<(UnixMs, u64), Pending>,
    arrived: u64,
    attempts: Attempts,
    markings: Markings,
    growth: Growth,
    paths: ClosedPaths,
    /// Whose evidence is taken in.
    host: HostId,
    /// The rungs from which dropped SYNs and final ACKs are had, by host.
    rungs: BTreeMap<HostId, (String, String)>,
    /// By how much clocks may differ.
    skew: Duration,
    clock: ClockSteps,
}

impl Default for Correlator {
    fn default() -> Self {
        Self {
            evidence: Evidence::new(HORIZON),
            most_pending: MOST_PENDING,
            pending: BTreeMap::new(),
            arrived: 0,
            attempts: Attempts::default(),
            markings: Markings::default(),
            growth: Growth::default(),
            paths: ClosedPaths::default(),
            host: HostId::default(),
            rungs: BTreeMap::new(),
            skew: Duration::ZERO,
            clock: ClockSteps::default(),
        }
    }
}

impl Correlator {
    /// One that lets so many events wait at once; the oldest is decided early when one more comes.
    pub fn with_room(most_pending: usize) -> Self {
        Self { most_pending, ..Self::default() }
    }

    /// Drops all state of a host that no longer publishes.
    pub fn forget(&mut self, host: HostId) {
        self.rungs.remove(&host);
        self.evidence.forget_host(host);
    }

    /// Whose evidence is taken in next, and until another host is named; this host's at first.
    pub fn of(&mut self, host: HostId) -> &mut Self {
        self.host = host;
        self
    }

    /// Takes in what the kernel lost.
    pub fn on_sample(&mut self, sample: &KernelSample) {
        self.evidence.add(self.host, sample);
    }

    /// Takes in one lost segment in detail.
    pub fn on_kernel_event(&mut self, event: &KernelEvent) {
        self.evidence.add_event(event);
    }

    /// Takes in the accept queues as they were at `now`.
    pub fn on_queues(&mut self, now: UnixMs, inventory: &Inventory) {
        self.on_waiting(now, inventory.waiting());
    }

    /// Takes in the accept queues at `now` of listeners that had any connection waiting.
    pub fn on_waiting(&mut self, now: UnixMs, waiting: impl Iterator<Item = (Place, QueueDepth)>) {
        self.evidence.add_queues(self.host, now, waiting);
    }

    /// Takes in the counts of connections by service.
    pub fn on_services(&mut self, now: UnixMs, services: &[ServiceCount]) {
        let grown = self.growth.syns_repeated(services);
        self.on_syns_repeated(now, grown);
    }

    /// Takes in that SYNs were sent again, from these namespaces to these ports.
    pub fn on_syns_repeated(&mut self, now: UnixMs, grown: Vec<(NetnsId, u16)>) {
        self.evidence.add_syns_repeated(now, grown);
    }

    /// Takes in the kernel's own counters, by namespace.
    pub fn on_counters(&mut self, now: UnixMs, kernel: &BTreeMap<NetnsId, (String, MibCounts)>) {
        let counters = kernel.iter().map(|(netns, (_, counts))| (*netns, counts));
        let grown = self.growth.syn_queues_full(counters);
        self.on_syn_queues_full(now, grown);
    }

    /// Takes in that a SYN queue was full in these namespaces.
    pub fn on_syn_queues_full(&mut self, now: UnixMs, grown: Vec<NetnsId>) {
        self.evidence.add_syn_queues_full(now, grown);
    }

    /// Takes in that nobody watched the host inside `window`.
    pub fn on_gap(&mut self, window: Window) {
        self.evidence.add_gap(self.host, window);
    }

    /// Takes in by how much the clocks of those who saw and heard may differ.
    pub fn on_skew(&mut self, skew: Duration) {
        self.skew = skew;
    }

    /// Takes in the steps of this host's wall clock.
    pub fn on_clock(&mut self, clock: &ClockSteps) {
        if self.clock != *clock {
            self.clock.clone_from(clock);
        }
    }

    /// The steps of this host's wall clock.
    pub fn clock(&self) -> &ClockSteps {
        &self.clock
    }

    /// Takes in what evidence rests on: the rungs from which dropped SYNs and final ACKs are had, and
    /// the namespaces in which `tcp_abort_on_overflow` is set.
    pub fn on_settings(&mut self, syn_rung: &str, ack_rung: &str, aborting: BTreeSet<NetnsId>) {
        self.rungs.insert(self.host, (syn_rung.to_owned(), ack_rung.to_owned()));
        self.evidence.aborting.insert(self.host, aborting);
    }

    /// Takes in what a proxy said, heard at `now`. `proxy_netns` is the namespace of the proxy's
    /// process where known. Gives the number by which [`decide_numbered`](Self::decide_numbered) calls
    /// its verdict; none where there is nothing to explain.
    pub fn on_event(
        &mut self,
        event: ProxyEvent,
        proxy_netns: Option<NetnsId>,
        now: UnixMs,
        inventory: &Inventory,
    ) -> Option<u64> {
        if let Some((netns, addr)) = proxy_netns.zip(event.addr()) {
            self.paths.add(netns, addr.ip(), now, event.path);
        }
        let host = host_of(inventory, proxy_netns);
        if event.kind == EventKind::PeerBack {
            self.markings.back(host, &event);
            return None;
        }
        self.attempts.add(host, &event);
        let is_attempt = matches!(event.kind, EventKind::AttemptFailed { .. });
        let settle =
            if event.proxy == ProxyKind::Envoy && !is_attempt { ENVOY_SETTLE } else { SETTLE };
        self.arrived += 1;
        let listeners = event.addr().map(|addr| candidates(inventory, addr, proxy_netns));
        let listeners = listeners.unwrap_or_default();
        let pending = Pending { event, proxy_netns, listeners };
        self.pending.insert((now.later(settle), self.arrived), pending);
        Some(self.arrived)
    }

    /// Events that wait for their verdict.
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// The verdicts that have become due.
    pub fn decide(&mut self, now: UnixMs, inventory: &Inventory) -> Vec<Verdict> {
        let numbered = self.decide_numbered(now, inventory);
        numbered.into_iter().map(|(_, verdict)| verdict).collect()
    }

    /// The verdicts that have become due, each with its event's number.
    pub fn decide_numbered(&mut self, now: UnixMs, inventory: &Inventory) -> Vec<(u64, Verdict)> {
        let mut verdicts = Vec::new();
        while let Some(first) = self.pending.first_entry() {
            let (due, _) = *first.key();
            if due > now && self.pending.len() <= self.most_pending {
                break;
            }
            if let Some(((_, number), pending)) = self.pending.pop_first() {
                verdicts.push((number, self.verdict(pending, inventory)));
            }
        }
        self.attempts.forget(now);
        self.markings.forget(now);
        self.paths.forget(now);
        verdicts
    }

    /// Verdicts for all that still waits, on the evidence there is.
    pub fn decide_all(&mut self, inventory: &Inventory) -> Vec<Verdict> {
        let pending = std::mem::take(&mut self.pending);
        pending.into_values().map(|pending| self.verdict(pending, inventory)).collect()
    }

    /// The verdict, no surer than it is that the proxy said so.
    fn verdict(&mut self, pending: Pending, inventory: &Inventory) -> Verdict {
        let mut verdict = self.verdict_if_true(pending, inventory);
        let (most, doubt) = match verdict.event.trust {
            Trust::Verified => return verdict,
            Trust::Unverified => {
                (Confidence::Medium, "the agent cannot verify which process wrote the line")
            }
            Trust::Doubtful => (Confidence::Low, "the line may be text of another program"),
        };
        if verdict.confidence > most {
            verdict.confidence = most;
            verdict.because = format!("{}; {doubt}", verdict.because);
        }
        verdict
    }

    /// The verdict on what the proxy said, taken for true.
    fn verdict_if_true(&mut self, pending: Pending, inventory: &Inventory) -> Verdict {
        let Pending { event, proxy_netns, listeners } = pending;
        let host = host_of(inventory, proxy_netns);
        if let Some(decided) = self.attempts.verdict_of(host, &event) {
            let verdict = Verdict { event, proxy_netns, ..decided.clone() };
            self.markings.add(host, &verdict);
            return verdict;
        }
        let attempt = match event.kind {
            EventKind::AttemptFailed { phase, failure } => {
                Attempt { phase, failure: Some(failure), ..Attempt::of(&event) }
            }
            EventKind::PeerMarked { phase, failure } => self
                .attempts
                .of_marking(host, &event)
                .map_or(Attempt { phase, failure, ..Attempt::of(&event) }, |companion| {
                    Attempt::of(companion)
                }),
            EventKind::NoLivePeers | EventKind::PeerBack => {
                return self.no_live_peers(event, proxy_netns, host);
            }
        };
        let verdict = self.attempt(event, &attempt, proxy_netns, &listeners, inventory);
        self.markings.add(host, &verdict);
        self.attempts.decided(host, &verdict);
        verdict
    }

    fn attempt(
        &self,
        event: ProxyEvent,
        attempt: &Attempt,
        proxy_netns: Option<NetnsId>,
        listeners: &[ListenerId],
        inventory: &Inventory,
    ) -> Verdict {
        let window = reach(&event, attempt).widened(self.skew);
        let addr = event.addr().or(attempt.peer);
        let found = addr.map(|addr| {
            let mut ids = candidates(inventory, addr, proxy_netns);
            if ids.is_empty() {
                ids = listeners.to_vec();
            }
            let first = search(&self.evidence, inventory, addr, ids, &window);
            let onward = attempt.leads_to.iter();
            let onward = onward.map(|addr| (*addr, candidates(inventory, *addr, proxy_netns)));
            search_onward(&self.evidence, inventory, first, onward.collect(), &window)
        });
        let Found { trail, listener, losses, is_beyond } = found.unwrap_or_default();
        let place = listener.map(|id| (id.netns, id.addr));
        let connection = attempt.local.zip(addr).and_then(|(local, peer)| {
            let port = listener.map_or(peer.port(), |id| id.addr.port());
            let its_host = listener.map(|id| inventory.host(id.netns));
            let may_be = |netns| its_host.is_none_or(|host| host == inventory.host(netns));
            self.evidence.of_connection(local, port, &window, may_be)
        });
        let netns = listener.map(|id| id.netns).or(proxy_netns);
        let host = host_of(inventory, netns);
        let health = self.health(host, &window);
        let ruling = rule(&Facts {
            phase: attempt.phase,
            failure: attempt.failure,
            ended: event.at,
            losses,
            connection,
            trail,
            is_beyond,
            queue: place.and_then(|place| {
                let window = Window { from: event.at.earlier(LAST_LOOKS), to: window.to };
                self.evidence.queue(host, &place, &window)
            }),
            syn_queue_full: place
                .is_some_and(|(netns, _)| self.evidence.syn_queue_full(netns, &window)),
            syn_repeated: addr
                .is_some_and(|addr| self.evidence.syn_repeated(proxy_netns, addr.port(), &window)),
            aborting: place.is_some_and(|(netns, _)| self.evidence.aborts(host, netns)),
            unseen: health.unseen_ms > 0,
            path: attempt
                .path
                .filter(PeerPath::is_closed)
                .or_else(|| self.paths.since(proxy_netns?, addr?.ip(), event.at).or(attempt.path)),
        });
        let dropped = losses.and_then(|losses| losses.dropped);
        Verdict {
            cause: ruling.cause,
            confidence: ruling.confidence,
            listener,
            proxy_netns,
            window,
            evidence: losses.map(|losses| losses.tally).unwrap_or_default(),
            attribution: losses.map(|losses| losses.attribution),
            lead_ms: dropped.map(|dropped| end_of(&event).0.saturating_sub(dropped.from.0)),
            is_exact: connection.is_some(),
            health,
            because: ruling.because,
            event,
        }
    }

    fn health(&self, host: HostId, window: &Window) -> EvidenceHealth {
        let (syn_rung, ack_rung) = self.rungs.get(&host).cloned().unwrap_or_default();
        EvidenceHealth {
            events_lost: self.evidence.events_lost(host, window),
            unseen_ms: self.evidence.unseen(host, window).as_millis() as u64,
            skew_ms: self.skew.as_millis() as u64,
            clock_set_ms: self.clock.inside(window).map(|step| step.by_ms.unsigned_abs()).sum(),
            syn_rung,
            ack_rung,
        }
    }

    /// "No live upstreams" has the causes of what led to it.
    fn no_live_peers(
        &mut self,
        event: ProxyEvent,
        proxy_netns: Option<NetnsId>,
        host: HostId,
    ) -> Verdict {
        let mut window = Window { from: event.at.earlier(MEMORY), to: end_of(&event) };
        let mut led = self.markings.led_to(host, &event, Duration::ZERO);
        // `fail_timeout` goes by the wall clock (`ngx_time` in ngx_http_upstream_round_robin.c).
        let delayed = self.clock.delays(event.at, MEMORY);
        if led.cause().is_none() && !delayed.is_zero() {
            window.from = window.from.earlier(delayed);
            led = self.markings.led_to(host, &event, delayed);
        }
        let health = self.health(host, &window);
        let listed: Vec<String> =
            led.causes.iter().map(|(cause, count)| format!("{count} × {}", cause.name())).collect();
        let listed = listed.join(", ");
        let (cause, confidence, because) = match led.cause() {
            Some(_) if !led.is_own && led.causes.len() > 1 => (
                Cause::NoKernelEvidence,
                Confidence::Low,
                format!(
                    "peers were marked before it, but their group is unknown: {listed}"
                ),
            ),
            Some(cause) => {
                let sure = led.confidence.unwrap_or(Confidence::Low);
                let alone = led.causes.len() == 1 && led.by_markings;
                let sure = if alone { sure } else { sure.min(Confidence::Medium) };
                let sure = if led.is_own { sure } else { sure.min(Confidence::Low) };
                let what = if led.by_markings { "markings" } else { "failed attempts" };
                (cause, sure, format!("the {what} before it, the last one of each peer: {listed}"))
            }
            None if window.length().as_millis() as u64 <= health.unseen_ms + FAIL_TIMEOUT_MS => (
                Cause::NoKernelEvidence,
                Confidence::Low,
                "no marking was seen before it, but the agent has not run for long".to_owned(),
            ),
            None if !delayed.is_zero() => (
                Cause::NoKernelEvidence,
                Confidence::Low,
                "no marking was seen before it, but the wall clock was set back: peers may be down \
                 since before that"
                    .to_owned(),
            ),
            None => (
                Cause::ProxyLimit,
                by_time_seen(&health),
                "no peer failed before it: all are disabled, or at max_conns".to_owned(),
            ),
        };
        Verdict {
            event,
            cause,
            confidence,
            listener: None,
            proxy_netns,
            window,
            evidence: Tally::default(),
            attribution: None,
            lead_ms: None,
            is_exact: false,
            health,
            because,
        }
    }
}

/// Whose namespace it is; this host's, where it is not known which it is.
fn host_of(inventory: &Inventory, netns: Option<NetnsId>) -> HostId {
    netns.map(|netns| inventory.host(netns)).unwrap_or_default()
}

/// How sure it is that nothing was said before: `fail_timeout` may be set longer than its default.
fn by_time_seen(health: &EvidenceHealth) -> Confidence {
    if health.unseen_ms > 0 { Confidence::Low } else { Confidence::Medium }
}

#[cfg(test)]
mod tests;
