//! What the agent says of a scenario. The only file that knows the agent.

use std::{collections::BTreeMap, net::SocketAddr};

use anyhow::{Context, Result};
use floodmark::kernel::{
    Class, Counter, KernelSource, NetnsId, Rung, Signal, Standing, Tally,
    class::{meaning_of, word},
    netns::{Netns, discover},
};

use crate::{claim::Claim, namespace::prefix};

/// Lost handshakes that the agent has no hook for, so that the counters they are in grow by more than
/// what it attributes.
const UNSEEN: [&str; 1] = ["syn/not_unicast"];

/// Losses that the drop-reason tracepoint takes for overflows, which is its known blind spot.
const MISTAKEN: [&str; 1] = ["ack/child_failed"];

/// The agent's kernel side, attached for all scenarios.
pub struct Measure {
    source: KernelSource,
    /// What each listener lost since the scenario began.
    tallies: BTreeMap<(NetnsId, SocketAddr), Tally>,
    time_wait_before: BTreeMap<TimeWait, u64>,
}

/// Namespace, and whether the service closed first.
type TimeWait = (NetnsId, bool);

impl Measure {
    /// Attaches what this kernel allows.
    pub fn attach() -> Result<Self> {
        let source = KernelSource::attach(&discover()?)?;
        Ok(Self { source, tallies: BTreeMap::new(), time_wait_before: BTreeMap::new() })
    }

    /// How each signal is had here, by name.
    pub fn rungs(&self) -> BTreeMap<String, String> {
        let standings = self.source.standings().iter();
        standings.map(|s| (s.signal.name().to_owned(), s.rung.name().to_owned())).collect()
    }

    /// Why better rungs were refused, a line each.
    pub fn refusals(&self) -> Vec<String> {
        let refused = |standing: &Standing| -> Vec<String> {
            let signal = standing.signal.name();
            let reasons = standing.refused.iter();
            reasons.map(|one| format!("{signal} not by {}: {}", one.rung, one.reason)).collect()
        };
        self.source.standings().iter().flat_map(refused).collect()
    }

    /// What would make its counts wrong, so far: all of it should be 0.
    pub fn troubles(&self) -> Result<BTreeMap<String, u64>> {
        let totals = self.source.health()?.totals;
        let troubles = [
            ("map_full", totals.map_full),
            ("nested", totals.nested),
            ("orphan_exits", totals.orphan_exits),
        ];
        Ok(troubles.into_iter().map(|(name, count)| (name.to_owned(), count)).collect())
    }

    /// Whether every loss is counted where it happens, so that nothing is estimated.
    pub fn is_exact(&self) -> bool {
        let drops = [Signal::SynDrops, Signal::AckDrops, Signal::CookieDrops, Signal::IcmpDrops];
        drops.into_iter().all(|signal| self.rung(signal) >= Rung::Kprobe)
    }

    /// Begins a scenario whose namespaces have just been made; returns their ids by name.
    pub fn begin(&mut self) -> Result<BTreeMap<String, NetnsId>> {
        self.look()?;
        self.tallies.clear();
        self.time_wait_before = self.time_wait()?;
        Ok(own_namespaces()?.into_iter().map(|netns| (netns.name, netns.id)).collect())
    }

    /// Looks, as the agent does each second.
    pub fn look(&mut self) -> Result<()> {
        let sample = self.source.sample(&own_namespaces()?)?;
        for delta in sample.listeners {
            let listener = (delta.listener.netns, delta.listener.addr);
            *self.tallies.entry(listener).or_default() += delta.tally;
        }
        Ok(())
    }

    /// What the agent attributed in a namespace to a claim's class; `None` where it cannot tell yet,
    /// or not on this rung.
    pub fn attributed(&self, netns: NetnsId, claim: &Claim) -> Result<Option<u64>> {
        let mut tally = Tally::default();
        for ((_, addr), lost) in self.tallies.iter().filter(|((of, _), _)| *of == netns) {
            if claim.listener.is_none_or(|listener| listener == *addr) {
                tally += *lost;
            }
        }
        let named = |class: &Class| word(*class) == claim.class;
        if let Some(class) = Class::ALL.into_iter().find(named) {
            return Ok(self.tells(class).then_some(tally[class]));
        }
        Ok(match claim.class {
            "TW" if self.rung(Signal::TimeWait) >= Rung::Kprobe => {
                Some(self.entered(netns, true)? + self.entered(netns, false)?)
            }
            "time_wait/closed_by_service" => Some(self.entered(netns, true)?),
            "time_wait/closed_by_client" => Some(self.entered(netns, false)?),
            name => {
                let counter = Counter::ALL.into_iter().find(|counter| counter.name() == name);
                counter.filter(|one| self.accounts_for(*one)).map(|one| tally.sum_of(one))
            }
        })
    }

    /// Whether the rungs in use tell a class from others.
    fn tells(&self, class: Class) -> bool {
        let by_bracket = |signal| self.rung(signal) >= Rung::Kprobe;
        match (class, meaning_of(class).stage) {
            (Class::SynLastQuarter, _) => self.rung(Signal::SynDrops) == Rung::Fentry,
            (Class::AckAcceptQueueFull, _) => self.rung(Signal::AckDrops) >= Rung::Tracepoint,
            (_, "syn" | "fast_open") => by_bracket(Signal::SynDrops),
            (_, "ack") => by_bracket(Signal::AckDrops),
            (_, "cookie_ack") => by_bracket(Signal::CookieDrops),
            (_, "icmp") => by_bracket(Signal::IcmpDrops),
            // Why it was sent again is known from the ACKs and SYNs that came before.
            (_, "synack_retransmit") => by_bracket(Signal::AckDrops),
            (_, "expired") => by_bracket(Signal::ExpiredRequests),
            _ => true,
        }
    }

    /// Whether all growth of a counter of the kernel's is to be attributed.
    fn accounts_for(&self, counter: Counter) -> bool {
        let mut moving =
            Class::ALL.into_iter().filter(|class| meaning_of(*class).counters.contains(&counter));
        match counter {
            Counter::ListenOverflows | Counter::ListenDrops => true,
            Counter::SynRetrans => self.rung(Signal::SynackRetransmits) >= Rung::Tracepoint,
            _ => Counter::RECONCILED.contains(&counter) && moving.all(|class| self.tells(class)),
        }
    }

    /// By how much the count of a claim's class may be off, given all claims on the scenario.
    pub fn tolerance(&self, claim: &Claim, claims: &[Claim]) -> u64 {
        let of = |classes: &[&str]| -> u64 {
            let known = claims.iter().filter(|claim| classes.contains(&claim.class));
            known.map(|claim| claim.expected.least()).sum()
        };
        match claim.class {
            "ListenDrops" if self.is_exact() => of(&UNSEEN),
            "ListenOverflows" if self.rung(Signal::AckDrops) == Rung::Tracepoint => of(&MISTAKEN),
            _ => 0,
        }
    }

    fn rung(&self, signal: Signal) -> Rung {
        let standing = self.source.standings().iter().find(|standing| standing.signal == signal);
        standing.map_or(Rung::None, |standing| standing.rung)
    }

    fn entered(&self, netns: NetnsId, by_service: bool) -> Result<u64> {
        let key = (netns, by_service);
        let now = self.time_wait()?.get(&key).copied().unwrap_or(0);
        Ok(now - self.time_wait_before.get(&key).copied().unwrap_or(0))
    }

    fn time_wait(&self) -> Result<BTreeMap<TimeWait, u64>> {
        let mut sums = BTreeMap::new();
        for (key, count) in self.source.time_wait().context("TIME_WAIT entries")? {
            *sums.entry((NetnsId(key.netns), key.by_service == 1)).or_default() += count;
        }
        Ok(sums)
    }
}

fn own_namespaces() -> Result<Vec<Netns>> {
    let prefix = prefix();
    Ok(discover()?.into_iter().filter(|netns| netns.name.starts_with(&prefix)).collect())
}
