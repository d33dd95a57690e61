//! The kernel side in one piece: attached once, sampled at every tick.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use anyhow::Result;
use floodmark_common::{TimeWaitKey, Totals};
use log::warn;

use super::{
    counters::{Counters, Growth},
    estimate::{Remainder, Suspect, share},
    events::Events,
    ladder::{Rung, Signal, Standing},
    mib::{self, Counter, MibCounts},
    netns::{Netns, visit},
    object::Object,
    sample::{KernelEvent, KernelSample, ListenerDelta, ListenerId, NetnsId, QueueDepth},
    sock_diag::listeners_here,
};
use crate::time::{UnixMs, Window};

/// Readings of maps, MIBs, maps are repeated this often while the two map readings differ.
const SANDWICHES: u32 = 3;
/// Where shares are estimated, the drop counters of quiet namespaces are read at every so many
/// samples, since they also grow by what is no ListenDrop.
const REFRESH_DROPS: u32 = 5;
/// How long the counts of a namespace are kept after it was last seen.
const RETENTION: Duration = Duration::from_secs(600);

/// Where samples and events come from.
pub struct KernelSource {
    object: Object,
    counters: Option<Counters>,
    events: Option<Events>,
    /// Each namespace's name and its counters' growth since the agent's baseline.
    mibs: BTreeMap<NetnsId, Mib>,
    /// `SK_MEMINFO_DROPS` of every listener as last seen; kept only where shares are estimated.
    drops: BTreeMap<NetnsId, HashMap<ListenerId, u32>>,
    samples: u32,
    sampled: UnixMs,
    ring_full: u64,
}

struct Mib {
    name: String,
    raw: MibCounts,
    since_start: MibCounts,
    seen: UnixMs,
}

/// The agent's own troubles since start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// The programs' totals, with their losses.
    pub totals: Totals,
    /// Ring buffer records the agent could not decode.
    pub undecodable: u64,
}

impl KernelSource {
    /// Attaches what this kernel allows, and takes the baseline of every namespace's counters.
    ///
    /// # Errors
    ///
    /// When the namespaces cannot be looked into, or the object lacks one of its maps.
    pub fn attach(namespaces: &[Netns]) -> Result<Self> {
        let mut object = Object::attach();
        let (mut counters, mut events) = (None, None);
        if let Some(maps) = object.take_maps()? {
            counters = Some(Counters::new(maps.listeners, maps.time_wait, maps.totals));
            events = Some(Events::new(maps.events, maps.messages));
        }
        let mut source = Self {
            object,
            counters,
            events,
            mibs: BTreeMap::new(),
            drops: BTreeMap::new(),
            samples: 0,
            sampled: UnixMs::now(),
            ring_full: 0,
        };
        source.take_baseline(namespaces)?;
        Ok(source)
    }

    /// How each signal is had.
    pub fn standings(&self) -> &[Standing] {
        &self.object.standings
    }

    /// Waiting detail events, at most `most`.
    pub fn events(&mut self, most: usize) -> Vec<KernelEvent> {
        self.events.as_mut().map(|events| events.drain(most)).unwrap_or_default()
    }

    /// What was lost since the last sample.
    ///
    /// # Errors
    ///
    /// When a map cannot be read or the namespaces cannot be visited.
    pub fn sample(&mut self, namespaces: &[Netns]) -> Result<KernelSample> {
        let from = self.sampled;
        let estimates = !self.counts_everything();
        // Read before the MIBs: where those stand still, this holds nothing that is yet to be shared.
        let quiet = if estimates && self.samples.is_multiple_of(REFRESH_DROPS) {
            visit(namespaces, drop_counters)?
        } else {
            Vec::new()
        };
        self.samples = self.samples.wrapping_add(1);
        let mut counted: Vec<Growth> = self.growth()?;
        let mut mibs = self.mib_growth(namespaces)?;
        // A count that moved between the two readings of the maps may or may not be in the MIBs.
        for _ in 1..SANDWICHES {
            let late = self.growth()?;
            if late.is_empty() {
                break;
            }
            counted.extend(late);
            for (netns, grown) in self.mib_growth(namespaces)? {
                *mibs.entry(netns).or_default() += grown;
            }
        }
        self.sampled = UnixMs::now();
        let mut listeners: Vec<ListenerDelta> = counted.iter().map(exact).collect();
        if estimates {
            for found in quiet {
                if mibs.get(&found.0).is_some_and(|grown| grown[Counter::ListenDrops] == 0) {
                    self.remember_drops(&found);
                }
            }
            listeners.extend(self.estimate(namespaces, &mibs, &counted)?);
        }
        let ring_full = self.health()?.totals.ring_full;
        let events_lost = ring_full - std::mem::replace(&mut self.ring_full, ring_full);
        Ok(KernelSample { window: Window { from, to: self.sampled }, listeners, events_lost })
    }

    /// Name and growth since the baseline of every namespace seen.
    pub fn kernel_counts(&self) -> BTreeMap<NetnsId, (String, MibCounts)> {
        let pairs = self.mibs.iter();
        pairs.map(|(netns, mib)| (*netns, (mib.name.clone(), mib.since_start))).collect()
    }

    /// TIME_WAIT entries since start, by service.
    ///
    /// # Errors
    ///
    /// When the map cannot be read.
    pub fn time_wait(&self) -> Result<Vec<(TimeWaitKey, u64)>> {
        self.counters.as_ref().map_or(Ok(Vec::new()), Counters::time_wait)
    }

    /// The agent's own troubles.
    ///
    /// # Errors
    ///
    /// When the map cannot be read.
    pub fn health(&self) -> Result<Health> {
        let totals = self.counters.as_ref().map_or(Ok(Totals::default()), Counters::totals)?;
        let undecodable = self.events.as_ref().map_or(0, |events| events.undecodable);
        Ok(Health { totals, undecodable })
    }

    /// Whether every overflow is counted in the kernel, so that nothing is left to estimate.
    fn counts_everything(&self) -> bool {
        [Signal::SynDrops, Signal::AckDrops, Signal::CookieDrops, Signal::IcmpDrops]
            .iter()
            .all(|signal| self.object.rung(*signal) >= Rung::Kprobe)
    }

    fn growth(&mut self) -> Result<Vec<Growth>> {
        self.counters.as_mut().map_or(Ok(Vec::new()), Counters::growth)
    }

    /// Forgets the counts of listeners that have closed for good, so that the maps keep room for
    /// others, and with them whatever concerns namespaces not seen for long.
    ///
    /// # Errors
    ///
    /// When a map refuses.
    pub fn forget(&mut self, closed: &BTreeSet<ListenerId>) -> Result<()> {
        let now = UnixMs::now();
        self.mibs.retain(|_, mib| mib.seen.later(RETENTION) >= now);
        let mibs = &self.mibs;
        self.drops.retain(|netns, _| mibs.contains_key(netns));
        match &mut self.counters {
            Some(counters) => counters.forget(closed, |netns| mibs.contains_key(&netns)),
            None => Ok(()),
        }
    }

    fn take_baseline(&mut self, namespaces: &[Netns]) -> Result<()> {
        self.growth()?;
        for (netns, raw) in visit(namespaces, |netns| (netns.clone(), mib::read_here()))? {
            let (since_start, seen) = (MibCounts::default(), self.sampled);
            self.mibs.insert(netns.id, Mib { name: netns.name, raw: raw?, since_start, seen });
        }
        if !self.counts_everything() {
            for found in visit(namespaces, drop_counters)? {
                self.remember_drops(&found);
            }
        }
        Ok(())
    }

    /// Also forgets the listeners of that namespace that are there no longer.
    fn remember_drops(&mut self, (netns, queues): &DropCounters) {
        let drops = queues.iter().map(|(listener, _, drops)| (*listener, *drops)).collect();
        self.drops.insert(*netns, drops);
    }

    /// Growth of every namespace's counters since the last call. A namespace not seen before is
    /// younger than the baseline, so all it has counted is growth.
    fn mib_growth(&mut self, namespaces: &[Netns]) -> Result<BTreeMap<NetnsId, MibCounts>> {
        let mut growth = BTreeMap::new();
        let now = UnixMs::now();
        for (netns, raw) in visit(namespaces, |netns| (netns.clone(), mib::read_here()))? {
            let raw = match raw {
                Ok(raw) => raw,
                Err(error) => {
                    warn!("counters of network namespace {} not read: {error}", netns.name);
                    continue;
                }
            };
            let mib = self.mibs.entry(netns.id).or_insert_with(|| Mib {
                name: netns.name,
                raw: MibCounts::default(),
                since_start: MibCounts::default(),
                seen: now,
            });
            let grown = raw.since(&mib.raw);
            mib.seen = now;
            mib.raw = raw;
            mib.since_start += grown;
            growth.insert(netns.id, grown);
        }
        Ok(growth)
    }

    /// Shares out what the MIBs counted and the programs did not see.
    fn estimate(
        &mut self,
        namespaces: &[Netns],
        mibs: &BTreeMap<NetnsId, MibCounts>,
        counted: &[Growth],
    ) -> Result<Vec<ListenerDelta>> {
        let in_trouble: Vec<Netns> = namespaces
            .iter()
            .filter(|netns| {
                mibs.get(&netns.id).is_some_and(|grown| grown[Counter::ListenDrops] > 0)
            })
            .cloned()
            .collect();
        let mut deltas = Vec::new();
        for (netns, queues) in visit(&in_trouble, drop_counters)? {
            let grown = mibs.get(&netns).copied().unwrap_or_default();
            let known = |wanted: &dyn Fn(&ListenerId) -> bool| -> (u64, u64) {
                let of = counted.iter().filter(|growth| wanted(&growth.listener));
                of.fold((0, 0), |(overflows, drops), growth| {
                    (overflows + growth.tally.overflows(), drops + growth.tally.drops())
                })
            };
            let (overflows, drops) = known(&|listener| listener.netns == netns);
            let overflows = grown[Counter::ListenOverflows].saturating_sub(overflows);
            let drops = grown[Counter::ListenDrops].saturating_sub(drops);
            let before = self.drops.remove(&netns).unwrap_or_default();
            self.remember_drops(&(netns, queues.clone()));
            let mut depths = HashMap::new();
            let mut suspects = Vec::new();
            for (listener, queue, now) in queues {
                let before = before.get(&listener).copied().unwrap_or(0);
                let (known, _) = known(&|counted| *counted == listener);
                suspects.push(Suspect { listener, drops: now.wrapping_sub(before), known });
                depths.insert(listener, queue);
            }
            let shares = share(&Remainder { overflows, drops }, &suspects);
            deltas.extend(shares.into_iter().map(|share| ListenerDelta {
                listener: share.listener,
                tally: share.tally,
                attribution: share.attribution,
                queue: depths.get(&share.listener).copied(),
            }));
        }
        Ok(deltas)
    }
}

fn exact(growth: &Growth) -> ListenerDelta {
    ListenerDelta {
        listener: growth.listener,
        tally: growth.tally,
        attribution: super::sample::Attribution::Exact,
        queue: Some(growth.queue),
    }
}

type DropCounters = (NetnsId, Vec<(ListenerId, QueueDepth, u32)>);

/// Listeners of the calling thread's namespace with their queues and drop counters; none where
/// sock_diag is not to be had, which the inventory has said already.
fn drop_counters(netns: &Netns) -> DropCounters {
    let sockets = listeners_here().unwrap_or_default().into_iter();
    let counters = sockets.map(|socket| {
        let id = ListenerId { netns: netns.id, addr: socket.addr, inode: socket.inode };
        (id, socket.queue, socket.drops)
    });
    (netns.id, counters.collect())
}
