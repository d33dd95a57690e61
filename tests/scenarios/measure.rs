//! What the agent says of a scenario. The only file that knows the agent.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use floodmark::{
    kernel::{
        Class, Counter, KernelSource, MibCounts, NetnsId, Rung, Signal, Standing, Tally,
        class::{meaning_of, word},
        netns::{Netns, discover},
    },
    time::UnixMs,
};
use floodmark_common::CountingMap;

use crate::{claim::Claim, namespace::prefix};

/// Losses that the drop-reason tracepoint takes for overflows, which is its known blind spot.
const MISTAKEN: [&str; 1] = ["ack/child_failed"];

/// The agent's kernel side, attached for all scenarios.
pub struct Measure {
    source: KernelSource,
    /// What each listener lost since the scenario began.
    tallies: BTreeMap<(NetnsId, SocketAddr), Tally>,
    /// Every namespace met since the scenario began, by name.
    met: BTreeMap<String, NetnsId>,
    before: Connections,
    misses_before: BTreeMap<String, u64>,
}

/// What became of connections, by namespace.
#[derive(Default)]
struct Connections {
    /// By class, and whether the service's side was counted.
    counts: BTreeMap<(NetnsId, bool, String), u64>,
    /// The kernel's counters that this accounts for.
    moved: BTreeMap<NetnsId, MibCounts>,
    /// Connects without a local port.
    no_port: BTreeMap<NetnsId, u64>,
}

impl Connections {
    fn counted(&self, netns: NetnsId, is_local: bool, word: &str) -> u64 {
        self.counts.get(&(netns, is_local, word.to_owned())).copied().unwrap_or(0)
    }

    fn accounted(&self, netns: NetnsId, counter: Counter) -> u64 {
        self.moved.get(&netns).map_or(0, |moved| moved[counter])
    }
}

impl Measure {
    /// Attaches what this kernel allows.
    pub fn attach(highest: Rung) -> Result<Self> {
        let mut source = KernelSource::attach_at_most(&discover()?, highest)?;
        source.watch_causes()?;
        Ok(Self {
            source,
            tallies: BTreeMap::new(),
            met: BTreeMap::new(),
            before: Connections::default(),
            misses_before: BTreeMap::new(),
        })
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
        let no_room = CountingMap::ALL
            .map(|(map, name)| (format!("no room in {name}"), totals.map_full[map as usize]));
        let brackets = [("nested", totals.nested), ("orphan_exits", totals.orphan_exits)];
        let brackets = brackets.map(|(name, count)| (name.to_owned(), count));
        Ok(no_room.into_iter().chain(brackets).collect())
    }

    /// Whether every loss is counted where it happens, so that nothing is estimated.
    pub fn is_exact(&self) -> bool {
        let drops = [Signal::SynDrops, Signal::AckDrops, Signal::CookieDrops, Signal::IcmpDrops];
        drops.into_iter().all(|signal| self.rung(signal) >= Rung::Kprobe)
    }

    /// Begins a scenario whose namespaces have just been made.
    pub fn begin(&mut self) -> Result<()> {
        self.look()?;
        self.tallies.clear();
        self.met.clear();
        self.before = self.connections()?;
        self.misses_before = self.all_misses()?;
        self.look()
    }

    /// The namespace of that name, if it was met since the scenario began.
    pub fn met(&self, name: &str) -> Option<NetnsId> {
        self.met.get(name).copied()
    }

    /// Has the agent test itself while the scenario is under way.
    pub fn begin_self_test(&mut self) {
        self.source.release_canary();
    }

    /// Waits for that test's end.
    pub fn end_self_test(&mut self) -> Result<()> {
        while self.source.heard()?.is_none() {
            self.look()?;
            thread::sleep(Duration::from_millis(250));
        }
        Ok(())
    }

    /// How often, since the scenario began, the kernel says that it skipped a program: so many counts
    /// may be missing, of whatever class.
    pub fn misses(&self) -> Result<u64> {
        // A program that was loaded again since counts from zero.
        let growth = self.all_misses()?.into_iter().map(|(program, now)| {
            let before = self.misses_before.get(&program).copied().unwrap_or(0);
            now.checked_sub(before).unwrap_or(now)
        });
        Ok(growth.sum())
    }

    fn all_misses(&self) -> Result<BTreeMap<String, u64>> {
        Ok(self.source.health()?.misses.into_iter().collect())
    }

    /// Looks, as the agent does each second, and forgets, as it does each minute.
    pub fn look(&mut self) -> Result<()> {
        let namespaces = own_namespaces()?;
        let sample = self.source.sample(&namespaces)?;
        self.source.forget(&BTreeSet::new())?;
        self.source.forget_queues(|_| true)?;
        // One that went before its counters were read has nothing to be compared with.
        let read = |netns: &Netns| self.source.has_seen(netns.id, UnixMs::default());
        let met = namespaces.into_iter().filter(read);
        self.met.extend(met.map(|netns| (netns.name, netns.id)));
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
        let now = self.connections()?;
        let entered = |is_local| {
            let of = |word| {
                now.counted(netns, is_local, word) - self.before.counted(netns, is_local, word)
            };
            of("time_wait") + of("fin_wait2") + of("fin_wait2_short")
        };
        let exactly = self.rung(Signal::TimeWait) >= Rung::Kprobe;
        Ok(match claim.class {
            "time_wait/closed_by_service" => Some(entered(true)),
            "time_wait/closed_by_client" => Some(entered(false)),
            "time_wait/reopened" => {
                let reopened = |all: &Connections| {
                    all.counted(netns, true, "reopened") + all.counted(netns, false, "reopened")
                };
                exactly.then(|| reopened(&now) - reopened(&self.before))
            }
            "connect/ports_exhausted" => {
                let of = |all: &Connections| all.no_port.get(&netns).copied().unwrap_or(0);
                let tells = self.rung(Signal::PortExhaustion) != Rung::None;
                tells.then(|| of(&now) - of(&self.before))
            }
            name => {
                let counter = Counter::ALL.into_iter().find(|counter| counter.name() == name);
                counter.filter(|one| self.accounts_for(*one)).map(|one| {
                    let of_services = now.accounted(netns, one) - self.before.accounted(netns, one);
                    tally.moved()[one] + of_services
                })
            }
        })
    }

    /// Whether the rungs in use tell a class from others.
    fn tells(&self, class: Class) -> bool {
        let by_bracket = |signal| self.rung(signal) >= Rung::Kprobe;
        match (class, meaning_of(class).stage) {
            (Class::SynLastQuarter | Class::SynNoRoute | Class::SynPolicy, _) => {
                self.rung(Signal::SynDrops) == Rung::Fentry
            }
            // The lower rung tells it by TCPReqQFullDrop.
            (Class::SynQueueFull, _) => true,
            (Class::AckAcceptQueueFull, _) => self.rung(Signal::AckDrops) >= Rung::Tracepoint,
            (_, "syn" | "fast_open") => by_bracket(Signal::SynDrops),
            (_, "ack") => by_bracket(Signal::AckDrops),
            (_, "cookie_ack") => by_bracket(Signal::CookieDrops),
            (_, "icmp") => by_bracket(Signal::IcmpDrops),
            // Why it was sent again is known from the ACKs and SYNs that came before.
            (_, "synack_retransmit") => by_bracket(Signal::AckDrops),
            (_, "accept") => by_bracket(Signal::UnacceptedResets),
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
            Counter::SynRetrans => [Signal::SynackRetransmits, Signal::SynRetransmits]
                .into_iter()
                .all(|signal| self.rung(signal) >= Rung::Tracepoint),
            Counter::TimeWait
            | Counter::TimeWaitShort
            | Counter::TimeWaitOverflow
            | Counter::TimeWaitRecycled => self.rung(Signal::TimeWait) >= Rung::Kprobe,
            _ => {
                Counter::reconciled().any(|one| one == counter)
                    && moving.all(|class| self.tells(class))
            }
        }
    }

    /// By how much the count of a claim's class may be off, given all claims on the scenario.
    pub fn tolerance(&self, claim: &Claim, claims: &[Claim]) -> u64 {
        let of = |classes: &[&str]| -> u64 {
            let known = claims.iter().filter(|claim| classes.contains(&claim.class));
            known.map(|claim| claim.expected.least()).sum()
        };
        match claim.class {
            "ListenOverflows" if self.rung(Signal::AckDrops) == Rung::Tracepoint => of(&MISTAKEN),
            _ => 0,
        }
    }

    fn rung(&self, signal: Signal) -> Rung {
        let standing = self.source.standings().iter().find(|standing| standing.signal == signal);
        standing.map_or(Rung::None, |standing| standing.rung)
    }

    fn connections(&self) -> Result<Connections> {
        let (services, moved) = self.source.services().clone();
        let mut counts = BTreeMap::new();
        for service in services {
            for (word, count) in service.counts {
                *counts.entry((service.netns, service.is_local, word)).or_default() += count;
            }
        }
        let mut no_port = BTreeMap::new();
        for refused in self.source.no_port().context("connects without a port")? {
            *no_port.entry(refused.netns).or_default() += refused.failures;
        }
        Ok(Connections { counts, moved, no_port })
    }
}

fn own_namespaces() -> Result<Vec<Netns>> {
    let prefix = prefix();
    Ok(discover()?.into_iter().filter(|netns| netns.name.starts_with(&prefix)).collect())
}
