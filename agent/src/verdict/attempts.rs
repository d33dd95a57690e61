//! Failed attempts, kept for the marking that each may go with.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use super::verdict::Verdict;
use crate::{
    inventory::HostId,
    proxy::{EventKind, ProxyEvent, ProxyKind, Upstream},
    time::UnixMs,
};

/// How long an attempt can be what a marking goes with.
const MEMORY: Duration = Duration::from_secs(60);
/// How long before a marking the attempt was that it goes with, where no request links them.
const RECENT: Duration = Duration::from_secs(30);
/// How much later than its marking an attempt may be stamped: Envoy stamps a request's end, and the
/// ejection comes a little before it.
const LATER: Duration = Duration::from_secs(2);
/// Attempts kept; the oldest go first.
const MOST: usize = 20_000;

/// Of them for one peer, where no request tells them apart: a marking goes with one of the last.
const MOST_OF_ONE: usize = 64;

/// What links an attempt with its marking.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Link {
    /// nginx writes both lines for the same worker, connection and upstream, in either order.
    Request(String, Option<u32>, u64, Upstream),
    /// Others tell no more than the peer. Envoy's two logs are two sources, on one host.
    Peer(HostId, ProxyKind, Upstream),
}

impl Link {
    fn of(host: HostId, event: &ProxyEvent) -> Self {
        let upstream = event.upstream.clone();
        match event.connection {
            Some(connection) => {
                Self::Request(event.source.clone(), event.pid, connection, upstream)
            }
            None => Self::Peer(host, event.proxy, upstream),
        }
    }
}

struct Attempt {
    event: ProxyEvent,
    /// Once it is decided.
    verdict: Option<Verdict>,
}

/// The recent attempts.
#[derive(Default)]
pub struct Attempts {
    by_link: HashMap<Link, VecDeque<Attempt>>,
    order: VecDeque<(UnixMs, Link)>,
}

impl Attempts {
    /// Keeps an attempt of a proxy on `host`.
    pub fn add(&mut self, host: HostId, event: &ProxyEvent) {
        if !matches!(event.kind, EventKind::AttemptFailed { .. }) {
            return;
        }
        let link = Link::of(host, event);
        self.order.push_back((event.at, link.clone()));
        let attempt = Attempt { event: event.clone(), verdict: None };
        let attempts = self.by_link.entry(link).or_default();
        attempts.push_back(attempt);
        if attempts.len() > MOST_OF_ONE {
            attempts.pop_front();
        }
        if self.order.len() > MOST {
            self.forget_one();
        }
    }

    /// Forgets what is too old at `now`.
    pub fn forget(&mut self, now: UnixMs) {
        while self.order.front().is_some_and(|(at, _)| at.later(MEMORY) < now) {
            self.forget_one();
        }
    }

    /// Keeps the verdict on an attempt, for its marking.
    pub fn decided(&mut self, host: HostId, verdict: &Verdict) {
        if let Some(attempts) = self.by_link.get_mut(&Link::of(host, &verdict.event))
            && let Some(attempt) = attempts.iter_mut().find(|one| one.event == verdict.event)
        {
            attempt.verdict = Some(verdict.clone());
        }
    }

    /// The attempt that `marking` goes with.
    pub fn of_marking(&self, host: HostId, marking: &ProxyEvent) -> Option<&ProxyEvent> {
        Some(&self.nearest(host, marking)?.event)
    }

    /// The verdict on the attempt that `event` goes with, if it is a marking and that is decided.
    pub fn verdict_of(&self, host: HostId, event: &ProxyEvent) -> Option<&Verdict> {
        let is_marking = matches!(event.kind, EventKind::PeerMarked { .. });
        is_marking.then(|| self.nearest(host, event))??.verdict.as_ref()
    }

    /// The nearest in time.
    fn nearest(&self, host: HostId, marking: &ProxyEvent) -> Option<&Attempt> {
        let attempts = self.by_link.get(&Link::of(host, marking))?.iter();
        let reach = |attempt: &&Attempt| {
            let at = attempt.event.at;
            marking.connection.is_some()
                || (at.later(RECENT) >= marking.at && at <= marking.at.later(LATER))
        };
        attempts.filter(reach).min_by_key(|one| one.event.at.0.abs_diff(marking.at.0))
    }

    fn forget_one(&mut self) {
        let Some((at, link)) = self.order.pop_front() else { return };
        if let Some(attempts) = self.by_link.get_mut(&link) {
            // It may be gone already.
            if attempts.front().is_some_and(|attempt| attempt.event.at <= at) {
                attempts.pop_front();
            }
            if attempts.is_empty() {
                self.by_link.remove(&link);
            }
        }
    }
}
