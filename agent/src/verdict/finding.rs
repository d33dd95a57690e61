//! What a report comes to: each trouble once, with its cause, where it is, how many it harmed and how
//! sure that is; worst first. Losses that the kernel counted and what a proxy made of them are one.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    impediment::ImpedimentReport,
    report::{ListenerReport, Report},
    verdict::{Cause, Confidence, Verdict},
    words::{final_acks, in_words},
};
use crate::{
    kernel::{Attribution, Class, Counter, ListenerId, NetnsId, NoPortCount},
    proxy::{EventKind, ProxyKind},
    time::{UnixMs, Window},
};

/// One trouble.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// The cause that its verdicts or its losses have in common.
    pub cause: Cause,
    /// From the listener's attribution, or its surest verdict.
    pub confidence: Confidence,
    /// The listener, where it is one's of this host.
    pub listener: Option<ListenerId>,
    /// The peer or group as the proxy names it, or where a connect went that found no port.
    pub upstream: Option<String>,
    /// The namespace in which something is to be changed, where it is not the listener's: that of a
    /// proxy.
    pub proxy_netns: Option<NetnsId>,
    /// Handshakes that the kernel dropped, or connects that failed in it.
    pub drops: u64,
    /// What proxies made of it.
    pub harm: Harm,
    /// First and last sign of it.
    pub seen: Option<Window>,
    /// The evidence, in words.
    pub because: String,
    /// Why the listener's queue was not emptied, the most telling first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub impediments: Vec<ImpedimentReport>,
}

/// What proxies made of a trouble.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Harm {
    /// The proxy programs.
    pub proxies: Vec<ProxyKind>,
    /// Failed attempts whose verdict has this cause.
    pub failed_attempts: u64,
    /// Markings of a peer as down.
    pub markings: u64,
    /// Requests refused for want of a live peer.
    pub no_live_peers: u64,
    /// The longest that a failed attempt took, in milliseconds, where the proxy tells.
    pub longest_ms: Option<u64>,
}

impl Harm {
    fn total(&self) -> u64 {
        self.failed_attempts + self.markings + self.no_live_peers
    }

    fn add(&mut self, verdict: &Verdict) {
        match verdict.event.kind {
            EventKind::AttemptFailed { .. } => self.failed_attempts += 1,
            EventKind::PeerMarked { .. } => self.markings += 1,
            EventKind::NoLivePeers => self.no_live_peers += 1,
            EventKind::PeerBack => {}
        }
        if !self.proxies.contains(&verdict.event.proxy) {
            self.proxies.push(verdict.event.proxy);
        }
        self.longest_ms = self.longest_ms.max(verdict.event.took_ms);
    }
}

impl Finding {
    /// By what the worst is told from the rest.
    fn weight(&self) -> (bool, bool, u64) {
        let told = self.cause != Cause::NoKernelEvidence;
        (told, self.confidence > Confidence::Low, self.drops.max(self.harm.total()))
    }

    fn saw(&mut self, window: Window) {
        let seen = self.seen.get_or_insert(window);
        seen.from = seen.from.min(window.from);
        seen.to = seen.to.max(window.to);
    }
}

/// All that is wrong, worst first.
pub fn findings(report: &Report) -> Vec<Finding> {
    let dropping = report.listeners.iter().filter(|listener| listener.tally.drops() > 0);
    let mut found: Vec<Finding> = dropping.map(|listener| of_listener(report, listener)).collect();
    found.extend(of_ports(&report.no_port));
    let (groups, peers): (Vec<&Verdict>, Vec<&Verdict>) = report
        .proxy
        .verdicts
        .iter()
        .map(AsRef::as_ref)
        .partition(|verdict| verdict.event.kind == EventKind::NoLivePeers);
    join(&mut found, &peers);
    for verdict in groups {
        let same = found.iter_mut().find(|finding| is_alike(finding.cause, verdict.cause));
        match same {
            Some(finding) => finding.harm.add(verdict),
            None => found.push(of_verdicts(&[verdict])),
        }
    }
    count_untold(&mut found, report.proxy.no_live_peers);
    for finding in found.iter_mut().filter(|finding| is_stall(finding.cause)) {
        let stall = finding.listener.and_then(|id| report.stall(id));
        finding.impediments = stall.map(|stall| stall.impediments.clone()).unwrap_or_default();
    }
    found.sort_by_key(|finding| std::cmp::Reverse(finding.weight()));
    found
}

/// Whether connections wait for somebody to accept them.
fn is_stall(cause: Cause) -> bool {
    cause.is_overflow() || cause == Cause::NotAccepting
}

/// Not every refused request has its verdict kept: the rest is put down to what refused most.
fn count_untold(found: &mut [Finding], no_live_peers: u64) {
    let told: u64 = found.iter().map(|finding| finding.harm.no_live_peers).sum();
    if let Some(most) = found.iter_mut().max_by_key(|finding| finding.harm.no_live_peers)
        && most.harm.no_live_peers > 0
    {
        most.harm.no_live_peers += no_live_peers.saturating_sub(told);
    }
}

/// What the kernel alone tells of a listener.
fn of_listener(report: &Report, listener: &ListenerReport) -> Finding {
    let confidence = match listener.attribution {
        Attribution::Proportional => Confidence::Medium,
        Attribution::Exclusive | Attribution::Exact => Confidence::High,
    };
    let words = in_words(&listener.tally);
    Finding {
        cause: cause_of(report, listener),
        confidence,
        listener: Some(listener.listener.id),
        upstream: None,
        proxy_netns: None,
        drops: listener.tally.drops(),
        harm: Harm::default(),
        seen: listener.dropped,
        because: words.trim_start_matches("the listener ").to_owned(),
        impediments: Vec::new(),
    }
}

fn cause_of(report: &Report, listener: &ListenerReport) -> Cause {
    let (tally, netns) = (&listener.tally, listener.listener.id.netns);
    let aborts = report.settings.get(&netns).and_then(|known| known.settings.abort_on_overflow);
    let of_namespace = report.namespaces.iter().find(|known| known.netns == netns);
    let refused_syns = of_namespace.map_or(0, |known| known.kernel[Counter::ReqQFullDrop]);
    let acks = final_acks(tally) + tally[Class::CookieAcceptQueueFull];
    let overflows = tally.overflows();
    let syn_queue = tally[Class::SynQueueFull].max(refused_syns.min(tally[Class::UnstagedOther]));
    if syn_queue > overflows {
        Cause::SynQueueFull
    } else if tally[Class::AckAcceptQueueFullReset] > 0
        || (overflows > 0 && aborts.is_some_and(|on| on != 0))
    {
        Cause::AbortOnOverflow
    } else if acks * 2 > overflows {
        Cause::HalfOpen
    } else if overflows > 0 {
        Cause::AcceptQueueOverflow
    } else {
        Cause::HandshakeDropped
    }
}

/// Connects of this host that found no port, by namespace and destination.
fn of_ports(counts: &[NoPortCount]) -> Vec<Finding> {
    let mut by_place: BTreeMap<_, Vec<&NoPortCount>> = BTreeMap::new();
    for count in counts {
        by_place.entry((count.netns, count.destination)).or_default().push(count);
    }
    let finding = |((netns, destination), counts): ((NetnsId, _), Vec<&NoPortCount>)| Finding {
        cause: Cause::ProxyPortsExhausted,
        confidence: Confidence::High,
        listener: None,
        upstream: Some(format!("{destination}")),
        proxy_netns: Some(netns),
        drops: counts.iter().map(|count| count.failures).sum(),
        harm: Harm::default(),
        seen: None,
        because: format!(
            "connects of {} failed because no local port was free (EADDRNOTAVAIL)",
            counts[0].command
        ),
        impediments: Vec::new(),
    };
    by_place.into_iter().map(finding).collect()
}

/// Where a verdict belongs: to a listener of this host, or to what the proxy calls the peer.
fn place_of(verdict: &Verdict) -> (Option<ListenerId>, Option<String>) {
    match verdict.listener {
        // A restarted application is the same place with another socket.
        Some(id) => (Some(ListenerId { inode: 0, ..id }), None),
        None => (None, Some(verdict.event.upstream.to_string())),
    }
}

/// Causes of one kind: a full accept queue, however it shows.
fn is_alike(one: Cause, other: Cause) -> bool {
    one == other || (one.is_overflow() && other.is_overflow())
}

/// Joins what proxies said with what is found already, and adds what is not.
fn join(found: &mut Vec<Finding>, verdicts: &[&Verdict]) {
    let mut by_place: BTreeMap<_, Vec<&Verdict>> = BTreeMap::new();
    for verdict in verdicts {
        let kind =
            if verdict.cause.is_overflow() { Cause::AcceptQueueOverflow } else { verdict.cause };
        by_place.entry((place_of(verdict), kind)).or_default().push(verdict);
    }
    for group in by_place.values() {
        let mut new = of_verdicts(group);
        let same = found.iter_mut().find(|known| is_same(known, &new));
        let Some(known) = same else {
            found.push(new);
            continue;
        };
        // Which way a full queue showed, the proxy's connections tell best.
        known.cause = new.cause;
        known.confidence = known.confidence.max(new.confidence);
        known.harm = std::mem::take(&mut new.harm);
        known.proxy_netns = known.proxy_netns.or(new.proxy_netns);
        if let Some(window) = new.seen {
            known.saw(window);
        }
    }
}

fn is_same(known: &Finding, new: &Finding) -> bool {
    let place = |id: Option<ListenerId>| id.map(|id| (id.netns, id.addr));
    let of_ports = known.cause == Cause::ProxyPortsExhausted && known.upstream == new.upstream;
    let at_place = known.listener.is_some() && place(known.listener) == place(new.listener);
    is_alike(known.cause, new.cause) && (at_place || of_ports)
}

/// Verdicts of one kind and place.
fn of_verdicts(verdicts: &[&Verdict]) -> Finding {
    let mut causes: BTreeMap<Cause, u64> = BTreeMap::new();
    verdicts.iter().for_each(|verdict| *causes.entry(verdict.cause).or_default() += 1);
    let cause = causes.iter().max_by_key(|(_, count)| **count).map(|(cause, _)| *cause);
    let cause = cause.unwrap_or(Cause::NoKernelEvidence);
    let own = verdicts.iter().filter(|verdict| verdict.cause == cause);
    let surest = own.max_by_key(|verdict| verdict.confidence);
    let mut finding = Finding {
        cause,
        confidence: surest.map_or(Confidence::Low, |verdict| verdict.confidence),
        listener: verdicts.iter().find_map(|verdict| verdict.listener),
        upstream: verdicts.first().map(|verdict| verdict.event.upstream.to_string()),
        proxy_netns: verdicts.iter().find_map(|verdict| verdict.proxy_netns),
        drops: 0,
        harm: Harm::default(),
        seen: None,
        because: surest.map(|verdict| verdict.because.clone()).unwrap_or_default(),
        impediments: Vec::new(),
    };
    for verdict in verdicts {
        finding.harm.add(verdict);
        let at: UnixMs = verdict.event.at;
        finding.saw(Window { from: at, to: at });
    }
    finding
}
