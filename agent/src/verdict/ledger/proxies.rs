//! What the proxies said and what became of it, in bounded memory.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use crate::{
    proxy::{EventKind, ProxyEvent, ProxyKind, Upstream},
    time::UnixMs,
    verdict::{
        cycle::Cycles,
        report::ProxyReport,
        verdict::{Cause, Confidence, Verdict},
    },
};

/// Verdicts kept word for word; older ones live on in the counts.
pub const VERDICTS_KEPT: usize = 1000;
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
    /// The cause in its verdicts.
    pub cause: Cause,
    /// The confidence in its verdicts.
    pub confidence: Confidence,
}

impl VerdictKind {
    /// What this one is counted by, as long as there are not too many kinds.
    pub fn of(verdict: &Verdict) -> Self {
        let event = &verdict.event;
        let is_group = matches!(event.upstream, Upstream::Group(_));
        Self {
            proxy: event.proxy,
            upstream: event.group_name().unwrap_or_default().to_owned(),
            peer: if is_group { String::new() } else { event.upstream.to_string() },
            event: event.kind.name(),
            cause: verdict.cause,
            confidence: verdict.confidence,
        }
    }
}

/// What the time of a verdict is kept by: proxy, group, name of the event, and cause.
pub type LastVerdict = (ProxyKind, String, &'static str, Cause);

/// The proxies' side of the ledger.
pub struct ProxyAccounts {
    events: BTreeMap<(ProxyKind, &'static str), u64>,
    verdict_counts: BTreeMap<VerdictKind, u64>,
    last_verdicts: BTreeMap<LastVerdict, UnixMs>,
    totals: ProxyReport,
    cycles: Cycles,
    verdicts: VecDeque<Arc<Verdict>>,
}

impl Default for ProxyAccounts {
    fn default() -> Self {
        // What appears with its first event already counted has no increase to be seen.
        let of = |proxy| EventKind::NAMES.map(|name| ((proxy, name), 0));
        Self {
            events: ProxyKind::ALL.into_iter().flat_map(of).collect(),
            verdict_counts: BTreeMap::new(),
            last_verdicts: BTreeMap::new(),
            totals: ProxyReport::default(),
            cycles: Cycles::default(),
            verdicts: VecDeque::new(),
        }
    }
}

impl ProxyAccounts {
    /// Books what a proxy said.
    pub fn book_event(&mut self, event: &ProxyEvent) {
        *self.events.entry((event.proxy, event.kind.name())).or_default() += 1;
        self.cycles.add(event);
        match event.kind {
            EventKind::AttemptFailed { .. } => self.totals.failed_attempts += 1,
            EventKind::PeerMarked { .. } => self.totals.markings += 1,
            EventKind::PeerBack => self.totals.peers_back += 1,
            EventKind::NoLivePeers => self.totals.no_live_peers += 1,
        }
    }

    /// Counts a verdict by its kind and keeps it; at the limit, a request without peers goes first.
    pub fn book_verdict(&mut self, verdict: Verdict) {
        if let EventKind::PeerMarked { .. } = verdict.event.kind {
            self.totals.markings_joined += u64::from(verdict.is_joined());
            *self.totals.causes.entry(verdict.cause.name().to_owned()).or_default() += 1;
        }
        let mut kind = VerdictKind::of(&verdict);
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

    /// The last verdicts, oldest first.
    pub fn verdicts(&self) -> impl Iterator<Item = &Arc<Verdict>> {
        self.verdicts.iter()
    }

    /// Verdicts since the agent started, by kind.
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

    /// Everything since start, with the last verdicts word for word.
    pub fn report(&self) -> ProxyReport {
        ProxyReport {
            verdicts: self.verdicts.iter().cloned().collect(),
            cycles: self.cycles.report(),
            ..self.totals.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use super::*;
    use crate::{
        inventory::Inventory,
        proxy::{Carrier, Failure, Phase},
        verdict::Correlator,
    };

    /// A proxy whose configuration is made anew each minute, with other names each time.
    #[test]
    fn kinds_of_verdicts_are_bounded_and_their_counts_are_not() {
        let (mut accounts, inventory) = (ProxyAccounts::default(), Inventory::default());
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
        correlator.decide_all(&inventory).into_iter().for_each(|it| accounts.book_verdict(it));
        let counts = accounts.verdict_counts();
        assert_eq!(counts.len(), VERDICT_KINDS + 1);
        assert_eq!(counts.values().sum::<u64>(), VERDICT_KINDS as u64 + 500);
        let other = counts.iter().find(|(kind, _)| kind.peer == "other").unwrap();
        assert_eq!((other.0.upstream.as_str(), *other.1), ("other", 500));
    }
}
