//! What the agent says of a scenario. The only file that knows the agent.

use std::{collections::BTreeMap, net::SocketAddr};

use anyhow::{Context, Result};
use floodmark::kernel::{
    KernelSource, NetnsId, Rung, Signal, Tally,
    netns::{Netns, discover},
};

use crate::{claim::Claim, namespace::prefix};

/// Lost handshakes that the agent has no hook for yet, so that the counters they are in grow by more
/// than what it attributes.
const UNSEEN: [&str; 2] = ["icmp/request_killed", "syn/not_unicast"];

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
        let drops = [Signal::SynDrops, Signal::AckDrops, Signal::CookieDrops];
        drops.into_iter().all(|signal| self.rung(signal) == Rung::Fentry)
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
        let syns_are_seen = self.rung(Signal::SynDrops) == Rung::Fentry;
        let acks_are_seen = self.rung(Signal::AckDrops) > Rung::Netlink;
        let cookies_are_seen = self.rung(Signal::CookieDrops) == Rung::Fentry;
        let time_wait_is_seen = self.rung(Signal::TimeWait) == Rung::Fentry;
        Ok(match claim.class {
            "ListenOverflows" => Some(tally.overflows()),
            "ListenDrops" => Some(tally.drops()),
            "TCPReqQFullDrop" | "syn/syn_queue_full" => {
                syns_are_seen.then_some(tally.syn_queue_full)
            }
            "TCPSynRetrans" => Some(tally.synack_retransmits),
            "TW" if time_wait_is_seen => {
                Some(self.entered(netns, true)? + self.entered(netns, false)?)
            }
            "time_wait/closed_by_service" => Some(self.entered(netns, true)?),
            "time_wait/closed_by_client" => Some(self.entered(netns, false)?),
            "syn/accept_queue_full" => syns_are_seen.then_some(tally.syn_overflow),
            "ack/accept_queue_full" => acks_are_seen.then_some(tally.ack_overflow),
            "ack/accept_queue_full/reset" => {
                (self.rung(Signal::AckDrops) == Rung::Fentry).then_some(tally.resets)
            }
            "cookie_ack/accept_queue_full" => cookies_are_seen.then_some(tally.cookie_overflow),
            _ => None,
        })
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
