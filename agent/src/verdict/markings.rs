//! Why peers were taken out, kept for the "no live upstreams" that follows from it.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use super::verdict::{Cause, Confidence, Verdict};
use crate::{
    proxy::{EventKind, ProxyEvent, ProxyKind, Upstream},
    time::UnixMs,
};

/// How long a marking explains that no peer is left. nginx takes a peer back after `fail_timeout`
/// (default 10 s), but re-marks it at the first failure, so a cycle is longer.
pub const MEMORY: Duration = Duration::from_secs(60);
/// nginx tries one peer after the other for a request, and says so with the same connection's number.
const SAME_REQUEST: Duration = Duration::from_secs(1);
/// Markings and attempts kept; the oldest go first.
const MOST: usize = 20_000;
/// Groups whose peers are remembered.
const MOST_GROUPS: usize = 1000;

/// A marking, or a failed attempt where the log hides markings.
struct Record {
    at: UnixMs,
    proxy: ProxyKind,
    source: String,
    request: Option<(Option<u32>, u64)>,
    upstream: Upstream,
    group: Option<String>,
    is_marking: bool,
    cause: Cause,
    confidence: Confidence,
}

/// The recent markings.
#[derive(Default)]
pub struct Markings {
    records: VecDeque<Record>,
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
    /// Keeps a verdict on a marking or an attempt.
    pub fn add(&mut self, verdict: &Verdict) {
        let event = &verdict.event;
        self.records.push_back(Record {
            at: event.at,
            proxy: event.proxy,
            source: event.source.clone(),
            request: event.connection.map(|connection| (event.pid, connection)),
            upstream: event.upstream.clone(),
            group: event.group_name().map(str::to_owned),
            is_marking: matches!(event.kind, EventKind::PeerMarked { .. }),
            cause: verdict.cause,
            confidence: verdict.confidence,
        });
        if self.records.len() > MOST {
            self.records.pop_front();
        }
    }

    /// The peer is back: what took it out before explains nothing any more.
    pub fn back(&mut self, event: &ProxyEvent) {
        self.records.retain(|record| {
            record.proxy != event.proxy || record.upstream != event.upstream || record.at > event.at
        });
    }

    /// What led to an event of a group without peers: the last of each peer.
    pub fn led_to(&mut self, event: &ProxyEvent) -> Led {
        self.learn(event);
        let from = event.at.earlier(MEMORY);
        let key = (event.source.clone(), event.group_name().unwrap_or_default().to_owned());
        let known = self.peers.get(&key);
        let is_others = |upstream: &Upstream| {
            let mut groups = self.peers.iter().filter(|((source, _), _)| *source == event.source);
            groups.any(|(_, peers)| peers.contains(upstream))
        };
        let concerns = |record: &&Record| {
            let in_time = from <= record.at && record.at <= event.at.later(SAME_REQUEST);
            let same = match (&record.group, event.group_name(), known) {
                (_, _, Some(peers)) => {
                    record.source == event.source && peers.contains(&record.upstream)
                }
                (Some(one), Some(other), None) => record.proxy == event.proxy && one == other,
                _ => record.source == event.source && !is_others(&record.upstream),
            };
            in_time && same
        };
        let mut last: BTreeMap<&Upstream, &Record> = BTreeMap::new();
        for record in self.records.iter().filter(concerns) {
            let before = last.get(&record.upstream);
            if before.is_none_or(|before| record.is_marking >= before.is_marking) {
                last.insert(&record.upstream, record);
            }
        }
        let by_markings = last.values().any(|record| record.is_marking);
        last.retain(|_, record| record.is_marking == by_markings);
        let is_own = known.is_some() || last.values().all(|record| record.group.is_some());
        let mut led = Led { by_markings, is_own, ..Led::default() };
        for record in last.values() {
            *led.causes.entry(record.cause).or_default() += 1;
        }
        let cause = led.cause();
        let own = last.values().filter(|record| Some(record.cause) == cause);
        led.confidence = own.map(|record| record.confidence).min();
        led
    }

    /// The peers that were tried for the same request just before belong to the group.
    fn learn(&mut self, event: &ProxyEvent) {
        let (Some(group), Some(connection)) = (event.group_name(), event.connection) else {
            return;
        };
        let request = Some((event.pid, connection));
        let same = |record: &&Record| {
            record.source == event.source
                && record.request == request
                && record.at.later(SAME_REQUEST) >= event.at
        };
        let tried: Vec<Upstream> =
            self.records.iter().rev().take(1000).filter(same).map(|r| r.upstream.clone()).collect();
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
        let before = now.earlier(2 * MEMORY);
        while self.records.front().is_some_and(|record| record.at < before) {
            self.records.pop_front();
        }
    }
}
