//! The kernel side in one piece: attached once, sampled at every tick.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
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
    lives,
    lower_rung::LowerRung,
    mib::{self, MibCounts},
    netns::{Netns, discover, visit},
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
/// How often a namespace's baseline is taken anew while it is counting.
const BASELINES: u32 = 10;
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
    /// The counters, as they stood at the baseline, of namespaces that nobody has asked about yet.
    unasked: BTreeMap<NetnsId, MibCounts>,
    /// What was counted since the baseline and before the first sample.
    early: Vec<Growth>,
    /// As of the last sample.
    services: Services,
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
    raw: MibCounts,
    since_start: MibCounts,
    seen: UnixMs,
    /// What of services its counters stood for when they were last read.
    services: MibCounts,
    /// What has been counted of it since they were last read: the end of a namespace that has gone.
    unread: MibCounts,
}

impl Mib {
    fn new(name: String, raw: MibCounts, seen: UnixMs) -> Self {
        let [since_start, services, unread] = [MibCounts::default(); 3];
        Self { name, raw, since_start, seen, services, unread }
    }
}

/// What became of connections, by service, and the growth of each namespace's counters that it stands
/// for.
type Services = (Vec<ServiceCount>, BTreeMap<NetnsId, MibCounts>);

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
            unasked: BTreeMap::new(),
            early: Vec::new(),
            services: Services::default(),
            lower_rung: LowerRung::default(),
            sampled: UnixMs::now(),
            ring_full: 0,
            canary: Canary::None("it was not requested".to_owned()),
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
            Canary::None(why) => Err(anyhow!("the self-test did not run: {why}")),
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
        let mut counted: Vec<Growth> = mem::take(&mut self.early);
        counted.extend(self.growth()?);
        let mut mibs = self.mib_growth(namespaces)?;
        // A count that moved between the two readings of the maps may or may not be in the MIBs.
        let mut is_whole = false;
        for _ in 1..SANDWICHES {
            let late = self.growth()?;
            is_whole = late.is_empty();
            if is_whole {
                break;
            }
            let moved = namespaces_of(&late);
            counted.extend(late);
            let moved: Vec<Netns> =
                namespaces.iter().filter(|netns| moved.contains(&netns.id)).cloned().collect();
            for (netns, grown) in self.mib_growth(&moved)? {
                *mibs.entry(netns).or_default() += grown;
            }
        }
        if estimates {
            // After the MIBs, lest what a program will count is shared out first.
            counted.extend(self.growth()?);
        }
        self.sampled = UnixMs::now();
        self.services = self.read_services()?;
        self.book_ends(&mibs, &counted);
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
        let counts = |mib: &Mib| {
            let mut counts = mib.since_start;
            counts += mib.unread;
            (mib.name.clone(), counts)
        };
        pairs.map(|(netns, mib)| (*netns, counts(mib))).collect()
    }

    /// Whether a namespace was there at `since` or later.
    pub fn has_seen(&self, netns: NetnsId, since: UnixMs) -> bool {
        self.mibs.get(&netns).is_some_and(|mib| mib.seen >= since)
    }

    /// What became of connections from start to the last sample, by service, busiest first; and for
    /// each namespace the growth of its counters that this stands for.
    pub fn services(&self) -> &(Vec<ServiceCount>, BTreeMap<NetnsId, MibCounts>) {
        &self.services
    }

    fn read_services(&self) -> Result<Services> {
        let (mut services, mut sums) = (Vec::new(), BTreeMap::new());
        for (key, counts) in self.service_counts()? {
            // A canary's, or gone before it was ever looked into.
            let known = lives::known(key.netns).filter(|netns| self.mibs.contains_key(netns));
            let Some(netns) = known else { continue };
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

    /// Notes what was counted of namespaces beyond the last reading of their counters, which nobody can
    /// read any more: what a program saw a counter grow by, the counter grew by.
    fn book_ends(&mut self, read: &BTreeMap<NetnsId, MibCounts>, counted: &[Growth]) {
        for (netns, mib) in &mut self.mibs {
            let services = self.services.1.get(netns).copied().unwrap_or_default();
            if read.contains_key(netns) {
                (mib.services, mib.unread) = (services, MibCounts::default());
                continue;
            }
            mib.unread += services.since(&mib.services);
            mib.services = services;
            let own = counted.iter().filter(|growth| growth.listener.netns == *netns);
            own.for_each(|growth| mib.unread += growth.tally.moved());
        }
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
        let is_own = |key: &ServiceKey| lives::known(key.netns) == Some(netns);
        for (_, counts) in services.iter().filter(|(key, _)| is_own(key)) {
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
            debug!("self-test {} saw only a part of the drops: {heard:?}", nests.len());
            self.canary = Canary::release(nests);
            return Ok(());
        }
        for (signal, heard) in heard.iter().filter(|(_, heard)| !heard.is_exact()) {
            let reason =
                format!("self-test failed: saw {} of {} drops", heard.heard, heard.happened);
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
        if self.is_testing() {
            return Ok(());
        }
        let now = UnixMs::now();
        self.mibs.retain(|_, mib| mib.seen.later(RETENTION) >= now);
        let mibs = &self.mibs;
        self.lower_rung.forget(|netns| mibs.contains_key(&netns));
        lives::forget();
        match &mut self.counters {
            Some(counters) => counters.forget(closed, |netns| mibs.contains_key(&netns)),
            None => Ok(()),
        }
    }

    /// Forgets queues whose listener is not `alive`, and peers without a new connection since the last
    /// call.
    ///
    /// # Errors
    ///
    /// When a map refuses.
    pub fn forget_queues(&mut self, alive: impl Fn(&ListenerId) -> bool) -> Result<()> {
        if self.is_testing() {
            return Ok(());
        }
        self.watch.as_mut().map_or(Ok(()), |watch| watch.forget(alive))
    }

    /// Whether the self-test is under way: nobody knows its namespace, so what the programs counted
    /// there would be forgotten before it is compared.
    fn is_testing(&self) -> bool {
        matches!(self.canary, Canary::Singing(..))
    }

    /// Takes MIBs and maps as they stand for a beginning, in every namespace at a time at which nothing
    /// is counted there. Also in those that nobody has asked about: they may have been made while the
    /// programs were being attached, and count for all they are worth once somebody does.
    fn take_baseline(&mut self, namespaces: &[Netns]) -> Result<()> {
        let mut pending = discover()?;
        let mut services = HashMap::new();
        for attempt in 1..=BASELINES {
            let before = self.all_services()?;
            let mut grown = self.growth()?;
            let raws = visit(&pending, read)?;
            let late = self.growth()?;
            let (after, busy) = (self.all_services()?, namespaces_of(&late));
            let is_still = |netns| {
                let own = |key: &ServiceKey| lives::known(key.netns) == Some(netns);
                let stands = |(key, counts): (&ServiceKey, _)| before.get(key) == Some(counts);
                !busy.contains(&netns) && after.iter().filter(|(key, _)| own(key)).all(stands)
            };
            // Of the namespaces that have their baseline already.
            grown.extend(late);
            grown.retain(|growth| pending.iter().all(|netns| netns.id != growth.listener.netns));
            self.early.extend(grown);
            for (netns, raw) in raws {
                if attempt < BASELINES && !is_still(netns.id) {
                    continue;
                }
                pending.retain(|other| other.id != netns.id);
                let own = after.iter().filter(|(key, _)| lives::known(key.netns) == Some(netns.id));
                services.extend(own.map(|(key, counts)| (*key, *counts)));
                self.begin(netns, raw?, namespaces);
            }
            if pending.is_empty() {
                break;
            }
        }
        if let Some(counters) = &mut self.counters {
            counters.services.set_baseline(services);
        }
        if !self.counts_everything() {
            self.lower_rung.take_baseline(namespaces)?;
        }
        Ok(())
    }

    fn begin(&mut self, netns: Netns, raw: MibCounts, asked: &[Netns]) {
        if asked.iter().any(|other| other.id == netns.id) {
            self.mibs.insert(netns.id, Mib::new(netns.name, raw, self.sampled));
        } else {
            self.unasked.insert(netns.id, raw);
        }
    }

    fn all_services(&self) -> Result<HashMap<ServiceKey, ServiceCounts>> {
        self.counters.as_ref().map_or(Ok(HashMap::new()), |counters| counters.services.all())
    }

    /// Growth of every namespace's counters since the last call. A namespace not seen before is
    /// younger than the baseline, so all it has counted is growth.
    fn mib_growth(&mut self, namespaces: &[Netns]) -> Result<BTreeMap<NetnsId, MibCounts>> {
        let mut growth = BTreeMap::new();
        let now = UnixMs::now();
        for (netns, raw) in visit(namespaces, read)? {
            let raw = match raw {
                Ok(raw) => raw,
                Err(error) => {
                    warn!("cannot read the counters of network namespace {}: {error}", netns.name);
                    continue;
                }
            };
            let unasked = &mut self.unasked;
            let mib = self.mibs.entry(netns.id).or_insert_with(|| {
                Mib::new(String::new(), unasked.remove(&netns.id).unwrap_or_default(), now)
            });
            // It may have been given a name since.
            mib.name = netns.name;
            if raw.went_back(&mib.raw) {
                // Another namespace that nothing tells from the one before (see `lives.rs`).
                mib.raw = MibCounts::default();
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
fn read(netns: &Netns) -> (Netns, io::Result<MibCounts>) {
    (netns.clone(), mib::read_reconciled_here())
}

fn namespaces_of(growth: &[Growth]) -> BTreeSet<NetnsId> {
    growth.iter().map(|growth| growth.listener.netns).collect()
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
