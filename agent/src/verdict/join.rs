//! The join: proxy events wait until the kernel's side of their time is complete, then each gets
//! its verdict, once.

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    time::Duration,
};

use super::{
    cause::{Facts, Trail, rule},
    evidence::{Evidence, Losses, Place},
    verdict::{Cause, Confidence, Verdict},
};
use crate::{
    inventory::Inventory,
    kernel::{KernelSample, ListenerId, NetnsId, Tally},
    proxy::{EventKind, Failure, Phase, ProxyEvent, Upstream},
    time::{UnixMs, Window},
};

/// How far back a timed-out attempt may have begun: the longest of the proxies' default connect and
/// read timeouts (nginx: 60 s), its time stamp being that of the end.
pub const LONGEST_ATTEMPT: Duration = Duration::from_secs(60);
/// How far back any other failure looks.
const SHORT_ATTEMPT: Duration = Duration::from_secs(2);
/// How long an event waits for the companion line and for the samples of its last second.
pub const SETTLE: Duration = Duration::from_secs(3);
/// How long a marking goes on explaining "no live upstreams". nginx takes a peer back after
/// `fail_timeout` (default 10 s), but re-marks it at the first failure, so a cycle is longer.
const MARKING_MEMORY: Duration = Duration::from_secs(60);
/// Events that may wait at once; the oldest is decided early when one more comes.
const MOST_PENDING: usize = 20_000;

/// A proxy event waiting for its verdict.
struct Pending {
    event: ProxyEvent,
    /// Namespace of the proxy's own process, where known: its loopback is meant by 127.0.0.1.
    proxy_netns: Option<NetnsId>,
    due: UnixMs,
}

/// An attempt kept for pairing with its marking.
struct Attempt {
    event: ProxyEvent,
    failure: Failure,
    until: UnixMs,
}

/// Joins events with evidence.
pub struct Correlator {
    evidence: Evidence,
    pending: VecDeque<Pending>,
    attempts: VecDeque<Attempt>,
    /// Causes of recent markings, with the source they came from.
    markings: VecDeque<(UnixMs, String, Cause)>,
}

impl Default for Correlator {
    fn default() -> Self {
        Self {
            evidence: Evidence::new(LONGEST_ATTEMPT + 2 * SETTLE),
            pending: VecDeque::new(),
            attempts: VecDeque::new(),
            markings: VecDeque::new(),
        }
    }
}

impl Correlator {
    /// Takes in what the kernel lost.
    pub fn on_sample(&mut self, sample: &KernelSample) {
        self.evidence.add(sample);
    }

    /// Takes in what a proxy said, heard at `now`. `proxy_netns` is the namespace of the proxy's
    /// process where known.
    pub fn on_event(&mut self, event: ProxyEvent, proxy_netns: Option<NetnsId>, now: UnixMs) {
        let due = now.later(SETTLE);
        if let EventKind::AttemptFailed { failure, .. } = event.kind {
            // Kept a while longer than its marking waits.
            let until = due.later(SETTLE);
            self.attempts.push_back(Attempt { event: event.clone(), failure, until });
            keep_newest(&mut self.attempts, MOST_PENDING);
        }
        self.pending.push_back(Pending { event, proxy_netns, due });
    }

    /// The verdicts that have become due.
    pub fn decide(&mut self, now: UnixMs, inventory: &Inventory) -> Vec<Verdict> {
        let mut verdicts = Vec::new();
        while let Some(first) = self.pending.front() {
            if first.due > now && self.pending.len() <= MOST_PENDING {
                break;
            }
            if let Some(pending) = self.pending.pop_front() {
                verdicts.push(self.verdict(pending, inventory));
            }
        }
        while self.attempts.front().is_some_and(|attempt| attempt.until < now) {
            self.attempts.pop_front();
        }
        verdicts
    }

    /// Verdicts for all that still waits, on the evidence there is.
    pub fn decide_all(&mut self, inventory: &Inventory) -> Vec<Verdict> {
        let pending: Vec<Pending> = self.pending.drain(..).collect();
        pending.into_iter().map(|pending| self.verdict(pending, inventory)).collect()
    }

    fn verdict(&mut self, pending: Pending, inventory: &Inventory) -> Verdict {
        let Pending { event, proxy_netns, .. } = pending;
        match event.kind {
            EventKind::NoLivePeers | EventKind::PeerBack => self.no_live_peers(event),
            EventKind::AttemptFailed { phase, failure } => {
                self.attempt(event, phase, Some(failure), proxy_netns, inventory)
            }
            EventKind::PeerMarked { phase, .. } => {
                let failure = self.companion(&event);
                let verdict = self.attempt(event, phase, failure, proxy_netns, inventory);
                let Verdict { event, cause, .. } = &verdict;
                self.markings.push_back((event.at, event.source.clone(), *cause));
                keep_newest(&mut self.markings, MOST_PENDING);
                verdict
            }
        }
    }

    /// How the attempt failed that a marking goes with: nginx writes both lines for the same
    /// worker, connection and upstream, in either order.
    fn companion(&self, marking: &ProxyEvent) -> Option<Failure> {
        let same = |attempt: &&Attempt| {
            let ProxyEvent { source, pid, connection, upstream, .. } = &attempt.event;
            source == &marking.source
                && pid == &marking.pid
                && connection == &marking.connection
                && upstream == &marking.upstream
        };
        self.attempts.iter().rev().find(same).map(|attempt| attempt.failure)
    }

    fn attempt(
        &self,
        event: ProxyEvent,
        phase: Phase,
        failure: Option<Failure>,
        proxy_netns: Option<NetnsId>,
        inventory: &Inventory,
    ) -> Verdict {
        let window = reach(&event, failure);
        let found = match event.upstream {
            Upstream::Inet(addr) => self.search(addr, proxy_netns, &window, inventory),
            _ => Found::default(),
        };
        let Found { trail, listener, losses } = found;
        let ruling = rule(&Facts { phase, failure, losses, trail });
        Verdict {
            event,
            cause: ruling.cause,
            confidence: ruling.confidence,
            listener,
            window,
            evidence: losses.map(|losses| losses.tally).unwrap_or_default(),
            attribution: losses.map(|losses| losses.attribution),
            because: ruling.because,
        }
    }

    /// The listener behind an address, and what it lost. Where several namespaces have the address,
    /// the one that lost most is taken and the trail is ambiguous.
    fn search(
        &self,
        addr: SocketAddr,
        proxy_netns: Option<NetnsId>,
        window: &Window,
        inventory: &Inventory,
    ) -> Found {
        let mut ids: Vec<ListenerId> =
            inventory.candidates(addr, proxy_netns).iter().map(|listener| listener.id).collect();
        if ids.is_empty() {
            // Closed meanwhile: what it lost is still known by its address.
            let of = |(netns, addr): Place| ListenerId { netns, addr, inode: 0 };
            ids = self.evidence.places_at(addr).map(of).collect();
        }
        let trail = match distinct_places(&ids) {
            0 => Trail::Lost,
            1 => Trail::Clear,
            _ => Trail::Ambiguous,
        };
        let looked_up = ids
            .into_iter()
            .map(|id| (id, self.evidence.within(&(id.netns, id.addr), window)))
            .max_by_key(|(_, losses)| losses.map_or(0, |losses| losses.tally.drops()));
        match looked_up {
            Some((id, losses)) => Found { trail, listener: Some(id), losses },
            None => Found { trail, ..Found::default() },
        }
    }

    /// "No live upstreams" has the causes of the markings that led to it.
    fn no_live_peers(&mut self, event: ProxyEvent) -> Verdict {
        let window = Window { from: event.at.earlier(MARKING_MEMORY), to: end_of(&event) };
        while self.markings.front().is_some_and(|(at, ..)| *at < window.from) {
            self.markings.pop_front();
        }
        let mut causes: BTreeMap<Cause, u64> = BTreeMap::new();
        for (_, source, cause) in &self.markings {
            if *source == event.source {
                *causes.entry(*cause).or_default() += 1;
            }
        }
        let worst = causes.iter().max_by_key(|(_, count)| **count).map(|(cause, _)| *cause);
        let listed: Vec<String> =
            causes.iter().map(|(cause, count)| format!("{count} × {}", cause.name())).collect();
        let (cause, confidence, because) = match worst {
            Some(cause) => {
                let confidence =
                    if causes.len() == 1 { Confidence::High } else { Confidence::Medium };
                (cause, confidence, format!("the markings before it: {}", listed.join(", ")))
            }
            None => (
                Cause::NoKernelEvidence,
                Confidence::Low,
                "no marking was seen before it: peers set down or at max_conns, or the proxy's log \
                 level hides warnings"
                    .to_owned(),
            ),
        };
        Verdict {
            event,
            cause,
            confidence,
            listener: None,
            window,
            evidence: Tally::default(),
            attribution: None,
            because,
        }
    }
}

/// What a search for a listener found.
struct Found {
    trail: Trail,
    listener: Option<ListenerId>,
    losses: Option<Losses>,
}

impl Default for Found {
    fn default() -> Self {
        Self { trail: Trail::Lost, listener: None, losses: None }
    }
}

/// The members of a SO_REUSEPORT group share a place.
fn distinct_places(ids: &[ListenerId]) -> usize {
    let mut places: Vec<Place> = ids.iter().map(|id| (id.netns, id.addr)).collect();
    places.sort_unstable();
    places.dedup();
    places.len()
}

/// The stretch of time in which the kernel's part of an attempt may lie.
fn reach(event: &ProxyEvent, failure: Option<Failure>) -> Window {
    const ETIMEDOUT: i32 = 110;
    // After as long, a client whose final ACK was dropped hears a reset: its request has expired.
    const ECONNRESET: i32 = 104;
    let long = match failure {
        Some(Failure::Errno { errno }) => errno == ETIMEDOUT || errno == ECONNRESET,
        Some(_) => false,
        None => true,
    };
    let back = if long { LONGEST_ATTEMPT } else { SHORT_ATTEMPT };
    Window { from: event.at.earlier(back), to: end_of(event) }
}

/// The last instant an event's coarse time stamp may stand for.
fn end_of(event: &ProxyEvent) -> UnixMs {
    event.at.later(Duration::from_millis(u64::from(event.precision_ms)))
}

fn keep_newest<T>(queue: &mut VecDeque<T>, most: usize) {
    if queue.len() > most {
        queue.drain(..queue.len() - most);
    }
}

#[cfg(test)]
mod tests;
