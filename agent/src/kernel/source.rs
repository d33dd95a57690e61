//! The kernel side in one piece: attached once, sampled at every tick.

use std::{
    collections::{BTreeMap, BTreeSet},
    io, mem,
    time::Duration,
};

use anyhow::{Result, anyhow};
use floodmark_common::{ServiceKey, Totals};
use log::{debug, warn};

use super::{
    canary::{self, Echo, Heard, compare},
    causes::{CauseWatch, are_unattributed},
    counters::{Counters, Growth},
    events::Events,
    ladder::{Reach, Rung, Signal, Standing},
    lower_rung::LowerRung,
    mib::{self, MibCounts},
    netns::{Netns, cookie_here, visit},
    object::Object,
    sample::{KernelEvent, KernelSample, ListenerDelta, ListenerId, NetnsId, Tally},
    service::{NoPortCount, ServiceClass, ServiceCount, moved, word},
    service_maps::ServiceCounts,
    watch::Watch,
};
use crate::time::{UnixMs, Window};

/// Readings of maps, MIBs, maps are repeated this often while the two map readings differ.
const SANDWICHES: u32 = 3;
/// How many canaries sing after one another while a signal hears only part of a song.
const CANARIES: usize = 3;
/// How long the counts of a namespace are kept after it was last seen.
const RETENTION: Duration = Duration::from_secs(600);

/// Where samples and events come from.
pub struct KernelSource {
    object: Object,
    counters: Option<Counters>,
    watch: Option<Watch>,
    events: Option<Events>,
    /// Each namespace's name and its counters' growth since the agent's baseline.
    mibs: BTreeMap<NetnsId, Mib>,
    /// Shares out what no program counts, where there is such.
    lower_rung: LowerRung,
    sampled: UnixMs,
    ring_full: u64,
    canary: Canary,
    causes: CauseWatch,
}

/// The canary and what was heard of it.
enum Canary {
    /// Nobody let one go, or it could not: why.
    None(String),
    /// It sings, and so much was heard of it so far. The nests are those of canaries before it, which
    /// were heard in part: lest it has the number of one, and its counts.
    Singing(canary::Canary, Box<Tally>, Vec<canary::Nest>),
    /// It has sung.
    Heard(BTreeMap<Signal, Heard>),
}

impl Canary {
    fn release(nests: Vec<canary::Nest>) -> Self {
        match canary::Canary::release() {
            Ok(canary) => Self::Singing(canary, Box::default(), nests),
            Err(error) => Self::None(format!("{error:#}")),
        }
    }
}

struct Mib {
    name: String,
    /// Which of the namespaces that have had this id, one after the other.
    cookie: Option<u64>,
    raw: MibCounts,
    since_start: MibCounts,
    seen: UnixMs,
}

/// The agent's own troubles since start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// The programs' totals, with their losses.
    pub totals: Totals,
    /// Ring buffer records the agent could not decode.
    pub undecodable: u64,
    /// How often the kernel skipped each program.
    pub misses: Vec<(String, u64)>,
}

impl Health {
    /// By name; only what is not 0.
    pub fn troubles(&self) -> BTreeMap<String, u64> {
        let Totals { ring_full, map_full, nested, orphan_exits, .. } = self.totals;
        let counts = [
            ("events_lost", ring_full),
            ("events_undecodable", self.undecodable),
            ("map_full", map_full.iter().sum()),
            ("nested", nested),
            ("orphan_exits", orphan_exits),
            ("program_misses", self.misses.iter().map(|(_, misses)| misses).sum()),
        ];
        let troubles = counts.into_iter().filter(|(_, count)| *count > 0);
        troubles.map(|(name, count)| (name.to_owned(), count)).collect()
    }
}

impl KernelSource {
    /// Attaches what this kernel allows, and takes the baseline of every namespace's counters.
    ///
    /// # Errors
    ///
    /// When the namespaces cannot be looked into, or the object lacks one of its maps.
    pub fn attach(namespaces: &[Netns]) -> Result<Self> {
        Self::attach_at_most(namespaces, Reach::default())
    }

    /// As [`attach`](Self::attach), but reaching no further than told; a [`Rung`] alone will do.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn attach_at_most(namespaces: &[Netns], reach: impl Into<Reach>) -> Result<Self> {
        let mut object = Object::attach(reach);
        let (mut counters, mut watch, mut events) = (None, None, None);
        if let Some(maps) = object.take_maps()? {
            counters = Some(Counters::new(maps.counting));
            watch = Some(Watch::new(maps.watch));
            events = Some(Events::new(maps.events, maps.messages));
        }
        let mut source = Self {
            object,
            counters,
            watch,
            events,
            mibs: BTreeMap::new(),
            lower_rung: LowerRung::default(),
            sampled: UnixMs::now(),
            ring_full: 0,
            canary: Canary::None("none was let go".to_owned()),
            causes: CauseWatch::default(),
        };
        source.take_baseline(namespaces)?;
        Ok(source)
    }

    /// Attaches the hooks that tell the rarer causes of a drop apart, for good. Otherwise they are
    /// attached after a drop that nothing explains, and taken off when there are no more of them.
    ///
    /// # Errors
    ///
    /// When the kernel's BTF can no longer be read.
    pub fn watch_causes(&mut self) -> Result<()> {
        self.causes = CauseWatch::Always;
        self.object.watch_causes(true)
    }

    /// Lets a canary go, which takes some seconds and is heard meanwhile by [`sample`](Self::sample).
    /// Where part of it is not heard, others follow.
    pub fn release_canary(&mut self) {
        self.canary = Canary::release(Vec::new());
    }

    /// What was heard of the canary, signal by signal; `None` while it sings.
    ///
    /// # Errors
    ///
    /// When there is none, and why.
    pub fn heard(&self) -> Result<Option<&BTreeMap<Signal, Heard>>> {
        match &self.canary {
            Canary::None(why) => Err(anyhow!("no canary: {why}")),
            Canary::Singing(..) => Ok(None),
            Canary::Heard(heard) => Ok(Some(heard)),
        }
    }

    /// How each signal is had.
    pub fn standings(&self) -> &[Standing] {
        &self.object.standings
    }

    /// What the programs know of queues, listeners and connections; `None` where the kernel takes
    /// no BPF.
    pub fn watch(&mut self) -> Option<&mut Watch> {
        self.watch.as_mut()
    }

    /// Waiting detail events, at most `most`.
    pub fn events(&mut self, most: usize) -> Vec<KernelEvent> {
        let mut events = self.events.as_mut().map(|events| events.drain(most)).unwrap_or_default();
        events.retain(|event| !is_canarys(&event.listener));
        events
    }

    /// What was lost since the last sample.
    ///
    /// # Errors
    ///
    /// When a map cannot be read or the namespaces cannot be visited.
    pub fn sample(&mut self, namespaces: &[Netns]) -> Result<KernelSample> {
        let from = self.sampled;
        // Asked before the maps are read, so that they then hold all of its song.
        let sung = matches!(&self.canary, Canary::Singing(canary, ..) if canary.is_done());
        let estimates = !self.counts_everything();
        let around = if estimates { self.lower_rung.look_around(namespaces)? } else { Vec::new() };
        let mut counted: Vec<Growth> = self.growth()?;
        let mut mibs = self.mib_growth(namespaces)?;
        // A count that moved between the two readings of the maps may or may not be in the MIBs.
        let mut is_whole = false;
        for _ in 1..SANDWICHES {
            let late = self.growth()?;
            is_whole = late.is_empty();
            if is_whole {
                break;
            }
            counted.extend(late);
            for (netns, grown) in self.mib_growth(namespaces)? {
                *mibs.entry(netns).or_default() += grown;
            }
        }
        if estimates {
            // After the MIBs, lest what a program will count is shared out first.
            counted.extend(self.growth()?);
        }
        self.sampled = UnixMs::now();
        if sung {
            self.hear_canary()?;
        }
        let classes =
            counted.iter().flat_map(|growth| growth.tally.counts()).map(|(class, _)| class);
        let is_unattributed = is_whole && !estimates && are_unattributed(&mibs, &counted);
        if let Some(on) = self.causes.update(classes, is_unattributed, self.sampled) {
            self.object.watch_causes(on)?;
        }
        let mut listeners: Vec<ListenerDelta> = counted.iter().map(exact).collect();
        if estimates {
            listeners.extend(self.lower_rung.settle(namespaces, &around, &mibs, &counted)?);
        }
        let ring_full = self.totals()?.ring_full;
        let events_lost = ring_full - mem::replace(&mut self.ring_full, ring_full);
        Ok(KernelSample { window: Window { from, to: self.sampled }, listeners, events_lost })
    }

    /// Name and growth since the baseline of every namespace seen.
    pub fn kernel_counts(&self) -> BTreeMap<NetnsId, (String, MibCounts)> {
        let pairs = self.mibs.iter();
        pairs.map(|(netns, mib)| (*netns, (mib.name.clone(), mib.since_start))).collect()
    }

    /// Whether a namespace was there at `since` or later.
    pub fn has_seen(&self, netns: NetnsId, since: UnixMs) -> bool {
        self.mibs.get(&netns).is_some_and(|mib| mib.seen >= since)
    }

    /// What became of connections since start, by service, busiest first; and for each namespace the
    /// growth of its counters that this stands for.
    ///
    /// # Errors
    ///
    /// When the map cannot be read.
    pub fn services(&self) -> Result<(Vec<ServiceCount>, BTreeMap<NetnsId, MibCounts>)> {
        let (mut services, mut sums) = (Vec::new(), BTreeMap::new());
        for (key, counts) in self.service_counts()? {
            let netns = NetnsId(key.netns);
            // A canary's, or gone before it was ever looked into.
            if !self.mibs.contains_key(&netns) {
                continue;
            }
            let moved = moved(&counts, self.object.time_wait_at_expiry);
            *sums.entry(netns).or_insert_with(MibCounts::default) += moved;
            let by_word = ServiceClass::ALL.into_iter().zip(counts);
            let by_word = by_word.filter(|(_, count)| *count > 0);
            let counts = by_word.map(|(class, count)| (word(class).to_owned(), count)).collect();
            let is_local = key.is_local != 0;
            services.push(ServiceCount { netns, port: key.port, is_local, counts });
        }
        services.sort_by_key(|service| std::cmp::Reverse(service.counts.values().sum::<u64>()));
        Ok((services, sums))
    }

    /// Connects that found no local port, since start.
    ///
    /// # Errors
    ///
    /// When the map cannot be read.
    pub fn no_port(&self) -> Result<Vec<NoPortCount>> {
        let mut refused = self.all_no_port()?;
        // Not a canary's.
        refused.retain(|refused| self.mibs.contains_key(&refused.netns));
        Ok(refused)
    }

    fn all_no_port(&self) -> Result<Vec<NoPortCount>> {
        self.counters.as_ref().map_or(Ok(Vec::new()), Counters::no_port)
    }

    fn service_counts(&self) -> Result<Vec<(ServiceKey, ServiceCounts)>> {
        self.counters.as_ref().map_or(Ok(Vec::new()), |counters| counters.services.counts())
    }

    /// The agent's own troubles.
    ///
    /// # Errors
    ///
    /// When the map cannot be read.
    pub fn health(&self) -> Result<Health> {
        let totals = self.totals()?;
        let undecodable = self.events.as_ref().map_or(0, |events| events.undecodable);
        Ok(Health { totals, undecodable, misses: self.object.misses() })
    }

    fn totals(&self) -> Result<Totals> {
        self.counters.as_ref().map_or(Ok(Totals::default()), Counters::totals)
    }

    /// Whether every overflow is counted in the kernel, so that nothing is left to estimate.
    fn counts_everything(&self) -> bool {
        [Signal::SynDrops, Signal::AckDrops, Signal::CookieDrops, Signal::IcmpDrops]
            .iter()
            .all(|signal| self.object.rung(*signal) >= Rung::Kprobe)
    }

    /// What the maps grew by. The canary's part is nobody's loss.
    fn growth(&mut self) -> Result<Vec<Growth>> {
        let mut growth = self.counters.as_mut().map_or(Ok(Vec::new()), Counters::growth)?;
        for canarys in growth.extract_if(.., |growth| is_canarys(&growth.listener)) {
            if let Canary::Singing(canary, tally, _) = &mut self.canary
                && canarys.listener.netns == canary.netns()
            {
                **tally += canarys.tally;
            }
        }
        Ok(growth)
    }

    /// Takes the canary's song in. A signal that heard nothing of it goes down a rung.
    fn hear_canary(&mut self) -> Result<()> {
        let idle = Canary::None(String::new());
        let Canary::Singing(canary, tally, mut nests) = mem::replace(&mut self.canary, idle) else {
            return Ok(());
        };
        let mut echo = Echo { tally: *tally, ..Echo::default() };
        let netns = canary.netns();
        let services = self.service_counts()?;
        for (_, counts) in services.iter().filter(|(key, _)| key.netns == netns.0) {
            echo.services.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
        }
        let no_port = self.all_no_port()?;
        let own = no_port.iter().filter(|refused| refused.netns == netns);
        echo.no_port = own.map(|refused| refused.failures).sum();
        if let Some(watch) = &self.watch {
            echo.watched = watch.of_namespace(netns, canary::BACKLOG)?;
        }
        let (song, nest) = match canary.finish() {
            Ok(sung) => sung,
            Err(error) => {
                self.canary = Canary::None(format!("{error:#}"));
                return Ok(());
            }
        };
        let heard = compare(self.standings(), &song, &echo);
        nests.push(nest);
        if heard.values().any(Heard::is_in_part) && nests.len() < CANARIES {
            debug!("canary number {} was heard in part: {heard:?}", nests.len());
            self.canary = Canary::release(nests);
            return Ok(());
        }
        for (signal, heard) in heard.iter().filter(|(_, heard)| !heard.is_exact()) {
            let reason =
                format!("the canary's test failed: {} heard of {}", heard.heard, heard.happened);
            warn!("{}: {reason}", signal.name());
            if heard.is_deaf() {
                self.object.demote(*signal, &reason)?;
            }
        }
        self.canary = Canary::Heard(heard);
        Ok(())
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
        self.lower_rung.forget(|netns| mibs.contains_key(&netns));
        match &mut self.counters {
            Some(counters) => counters.forget(closed, |netns| mibs.contains_key(&netns)),
            None => Ok(()),
        }
    }

    fn take_baseline(&mut self, namespaces: &[Netns]) -> Result<()> {
        self.growth()?;
        // What was counted between attaching and the baseline of the MIBs is not in these.
        if let Some(counters) = &mut self.counters {
            counters.services.take_baseline()?;
        }
        for (netns, cookie, raw) in visit(namespaces, read)? {
            let (since_start, seen) = (MibCounts::default(), self.sampled);
            let mib = Mib { name: netns.name, cookie, raw: raw?, since_start, seen };
            self.mibs.insert(netns.id, mib);
        }
        if !self.counts_everything() {
            self.lower_rung.take_baseline(namespaces)?;
        }
        Ok(())
    }

    /// Growth of every namespace's counters since the last call. A namespace not seen before is
    /// younger than the baseline, so all it has counted is growth.
    fn mib_growth(&mut self, namespaces: &[Netns]) -> Result<BTreeMap<NetnsId, MibCounts>> {
        let mut growth = BTreeMap::new();
        let now = UnixMs::now();
        for (netns, cookie, raw) in visit(namespaces, read)? {
            let raw = match raw {
                Ok(raw) => raw,
                Err(error) => {
                    warn!("counters of network namespace {} not read: {error}", netns.name);
                    continue;
                }
            };
            let mib = self.mibs.entry(netns.id).or_insert_with(|| Mib {
                name: String::new(),
                cookie,
                raw: MibCounts::default(),
                since_start: MibCounts::default(),
                seen: now,
            });
            // It may have been given a name since, or be another that has come by the id.
            mib.name = netns.name;
            if cookie != mib.cookie || raw.went_back(&mib.raw) {
                // Another namespace has come by the id: all it has counted is growth.
                mib.raw = MibCounts::default();
                mib.cookie = cookie;
                self.lower_rung.forget(|other| other != netns.id);
            }
            let grown = raw.since(&mib.raw);
            mib.seen = now;
            mib.raw = raw;
            mib.since_start += grown;
            growth.insert(netns.id, grown);
        }
        Ok(growth)
    }
}

/// What there is to read of the namespace of the calling thread.
fn read(netns: &Netns) -> (Netns, Option<u64>, io::Result<MibCounts>) {
    (netns.clone(), cookie_here(), mib::read_here())
}

/// Whether a listener is this agent's canary's, or another's on this host.
fn is_canarys(listener: &ListenerId) -> bool {
    canary::sings_at(listener.addr.ip())
}

fn exact(growth: &Growth) -> ListenerDelta {
    ListenerDelta {
        listener: growth.listener,
        tally: growth.tally,
        attribution: super::sample::Attribution::Exact,
        queue: Some(growth.queue),
    }
}
