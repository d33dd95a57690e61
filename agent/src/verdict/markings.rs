//! Why peers were taken out, kept for the "no live upstreams" that follows from it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::verdict::{Cause, Confidence, Verdict};
use crate::{
    inventory::HostId,
    proxy::{EventKind, ProxyEvent, ProxyKind, Upstream},
    time::UnixMs,
};

/// How long a marking explains that no peer is left. nginx takes a peer back after `fail_timeout`
/// (default 10 s), but re-marks it at the first failure, so a cycle is longer.
pub const MEMORY: Duration = Duration::from_secs(60);
/// As long where the peer is known to be the group's. After `fail_timeout` nginx lets one request
/// try a peer that failed, and all others go without until that has succeeded: where nobody asks, the
/// last marking is an old one.
const LONG_MEMORY: Duration = Duration::from_secs(600);
/// nginx tries one peer after the other for a request, and says so with the same connection's number.
const SAME_REQUEST: Duration = Duration::from_secs(1);
/// Peers remembered; of more, some are not.
const MOST: usize = 10_000;
/// Groups whose peers are remembered.
const MOST_GROUPS: usize = 1000;

/// Whose, by which proxy, and whether it is a marking, or a failed attempt where the log hides those.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    host: HostId,
    proxy: ProxyKind,
    source: String,
    upstream: Upstream,
    is_marking: bool,
}

/// The last of its kind.
struct Record {
    at: UnixMs,
    request: Option<(Option<u32>, u64)>,
    group: Option<String>,
    cause: Cause,
    confidence: Confidence,
}

/// The recent markings.
#[derive(Default)]
pub struct Markings {
    records: BTreeMap<Key, Record>,
    /// Which peers a group of nginx's has, learnt from requests that ran out of them.
    peers: BTreeMap<(String, String), BTreeSet<Upstream>>,
}

/// The causes of what led to an event.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Led {
    /// How many peers each cause took out, or failed attempts at.
    pub causes: BTreeMap<Cause, u64>,
    /// The least sure of the most frequent cause's verdicts.
    pub confidence: Option<Confidence>,
    /// Whether markings were seen, or attempts only.
    pub by_markings: bool,
    /// Whether they were the group's own for certain.
    pub is_own: bool,
}

impl Led {
    /// The most frequent cause.
    pub fn cause(&self) -> Option<Cause> {
        self.causes.iter().max_by_key(|(_, count)| **count).map(|(cause, _)| *cause)
    }
}

impl Markings {
    /// Keeps a verdict on a marking or an attempt of a proxy on `host`.
    pub fn add(&mut self, host: HostId, verdict: &Verdict) {
        let event = &verdict.event;
        let key = Key {
            host,
            proxy: event.proxy,
            source: event.source.clone(),
            upstream: event.upstream.clone(),
            is_marking: matches!(event.kind, EventKind::PeerMarked { .. }),
        };
        if self.records.len() >= MOST && !self.records.contains_key(&key) {
            self.records.pop_first();
        }
        let record = Record {
            at: event.at,
            request: event.connection.map(|connection| (event.pid, connection)),
            group: event.group_name().map(str::to_owned),
            cause: verdict.cause,
            confidence: verdict.confidence,
        };
        self.records.insert(key, record);
    }

    /// The peer is back: what took it out before explains nothing any more.
    pub fn back(&mut self, host: HostId, event: &ProxyEvent) {
        self.records.retain(|key, record| {
            (key.host, key.proxy) != (host, event.proxy)
                || key.upstream != event.upstream
                || record.at > event.at
        });
    }

    /// What led to an event of a group without peers: the last of each peer. `delayed`: by how much longer
    /// the proxy's timers ran, since its clock was set back.
    pub fn led_to(&mut self, host: HostId, event: &ProxyEvent, delayed: Duration) -> Led {
        self.learn(event);
        let (from, from_of_own) = (MEMORY + delayed, LONG_MEMORY + delayed);
        let (from, from_of_own) = (event.at.earlier(from), event.at.earlier(from_of_own));
        let key = (event.source.clone(), event.group_name().unwrap_or_default().to_owned());
        let known = self.peers.get(&key);
        let is_others = |upstream: &Upstream| {
            let mut groups = self.peers.iter().filter(|((source, _), _)| *source == event.source);
            groups.any(|(_, peers)| peers.contains(upstream))
        };
        let concerns = |key: &Key, record: &Record| {
            let from = if known.is_some() { from_of_own } else { from };
            let in_time = from <= record.at && record.at <= event.at.later(SAME_REQUEST);
            let same = match (&record.group, event.group_name(), known) {
                (_, _, Some(peers)) => key.source == event.source && peers.contains(&key.upstream),
                (Some(one), Some(other), None) => {
                    (key.host, key.proxy) == (host, event.proxy) && one == other
                }
                _ => key.source == event.source && !is_others(&key.upstream),
            };
            in_time && same
        };
        let own: Vec<(&Key, &Record)> =
            self.records.iter().filter(|(key, record)| concerns(key, record)).collect();
        let by_markings = own.iter().any(|(key, _)| key.is_marking);
        let last: Vec<&Record> = own
            .into_iter()
            .filter(|(key, _)| key.is_marking == by_markings)
            .map(|(_, record)| record)
            .collect();
        let is_own = known.is_some() || last.iter().all(|record| record.group.is_some());
        let mut led = Led { by_markings, is_own, ..Led::default() };
        for record in &last {
            *led.causes.entry(record.cause).or_default() += 1;
        }
        let cause = led.cause();
        let own = last.iter().filter(|record| Some(record.cause) == cause);
        led.confidence = own.map(|record| record.confidence).min();
        led
    }

    /// The peers that were tried for the same request just before belong to the group.
    fn learn(&mut self, event: &ProxyEvent) {
        let (Some(group), Some(connection)) = (event.group_name(), event.connection) else {
            return;
        };
        let request = Some((event.pid, connection));
        let same = |key: &Key, record: &Record| {
            key.source == event.source
                && record.request == request
                && record.at.later(SAME_REQUEST) >= event.at
        };
        let tried = self.records.iter().filter(|(key, record)| same(key, record));
        let tried: Vec<Upstream> = tried.map(|(key, _)| key.upstream.clone()).collect();
        if tried.is_empty() {
            return;
        }
        let key = (event.source.clone(), group.to_owned());
        if self.peers.len() < MOST_GROUPS || self.peers.contains_key(&key) {
            self.peers.entry(key).or_default().extend(tried);
        }
    }

    /// Forgets what is too old at `now`.
    pub fn forget(&mut self, now: UnixMs) {
        // An event waits for its verdict a while.
        let before = now.earlier(LONG_MEMORY + MEMORY);
        self.records.retain(|_, record| record.at >= before);
    }
}
