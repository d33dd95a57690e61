//! The eBPF object in the kernel: loaded, attached rung by rung, detached when dropped.

#![allow(unsafe_code, reason = "system calls that no library offers")]

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use aya::{
    Ebpf,
    maps::{HashMap, Map, MapData, PerCpuArray, RingBuf},
};
use aya_log::EbpfLogger;
use floodmark_common::{
    ListenerKey, ListenerTally, NoPortKey, NoPortTally, RecentServices, ServiceKey, ServiceTally,
    Totals,
};
use log::{Log, debug, warn};

use super::{
    hooks::{CAUSES, CAUSES_KPROBE, NAMESPACES},
    ladder::{LADDER, Reach, Refusal, Rung, Signal, Standing, Way},
    layout::TW_AT_ENTRY,
    lives::{self, HAS_COOKIES},
    loaded::{Loaded, kernel_types},
    misses::{Kprobes, recursion_misses},
    remedy::missing_capabilities,
    watch::WatchMaps,
};

/// The programs in the kernel, and how each signal is had.
pub struct Object {
    /// Keeps the programs attached. `None` where the kernel takes no BPF at all.
    ebpf: Option<Ebpf>,
    /// How each signal is had.
    pub standings: Vec<Standing>,
    /// Whether the kernel counts TW and TWKilled at expiry.
    pub time_wait_at_expiry: bool,
    /// Those of the programs that are attached by kprobe.
    kprobes: Kprobes,
    /// Which of a signal's ways was taken, by its place on the ladder.
    taken: BTreeMap<Signal, usize>,
    /// Whether ways may be taken that make every system call take longer.
    reach: Reach,
}

/// The maps the agent reads.
pub struct Maps {
    /// Where the programs count.
    pub counting: CountingMaps,
    /// What the programs know of queues, listeners and connections.
    pub watch: WatchMaps,
    /// Detail events.
    pub events: RingBuf<MapData>,
    /// What the programs have to say in words.
    pub messages: EbpfLogger<&'static dyn Log>,
}

/// The maps in which the programs count.
pub struct CountingMaps {
    /// Losses by listener.
    pub listeners: HashMap<MapData, ListenerKey, ListenerTally>,
    /// What became of connections, by service.
    pub services: HashMap<MapData, ServiceKey, ServiceTally>,
    /// Those met most of late, on each CPU.
    pub recent_services: PerCpuArray<MapData, RecentServices>,
    /// Connects that found no local port.
    pub no_port: HashMap<MapData, NoPortKey, NoPortTally>,
    pub totals: PerCpuArray<MapData, Totals>,
}

impl Object {
    /// Loads the object and attaches, for each signal, the best way that this kernel allows. Never
    /// fails: what cannot be had by BPF is had by netlink, and the standing says why.
    pub fn attach(reach: impl Into<Reach>) -> Self {
        let reach = reach.into();
        raise_memlock_limit();
        match Loaded::load(reach) {
            Ok(mut loaded) => {
                let time_wait_at_expiry = loaded.layout.missing(&[TW_AT_ENTRY]).is_some();
                // First, so that no other program meets a namespace without its number of lives.
                if !*HAS_COOKIES
                    && reach.highest == Rung::Fentry
                    && let Err(reason) = loaded.attach(&NAMESPACES)
                {
                    warn!("network namespaces are identified by inode number only: {reason}");
                }
                let (mut standings, mut taken) = (Vec::new(), BTreeMap::new());
                for (signal, ways) in LADDER {
                    let (standing, way) =
                        loaded.climb(*signal, ways, first_at_most(ways, reach.highest));
                    standings.push(standing);
                    taken.extend(way.map(|way| (*signal, way)));
                }
                let ebpf = without_types(loaded);
                Self {
                    kprobes: Kprobes::of(ebpf.programs()),
                    ebpf: Some(ebpf),
                    standings,
                    time_wait_at_expiry,
                    taken,
                    reach,
                }
            }
            Err(error) => {
                let remedy = missing_capabilities().map(|what| format!("; {what}"));
                let standings = without_bpf(&format!("{error:#}{}", remedy.unwrap_or_default()));
                Self {
                    ebpf: None,
                    standings,
                    time_wait_at_expiry: false,
                    kprobes: Kprobes::default(),
                    taken: BTreeMap::new(),
                    reach,
                }
            }
        }
    }

    /// Gives up the way that was taken to a signal, for the reason given, and takes the next best.
    ///
    /// # Errors
    ///
    /// When the kernel's BTF can no longer be read.
    pub fn demote(&mut self, signal: Signal, reason: &str) -> Result<()> {
        let ways = LADDER.iter().find(|(other, _)| *other == signal).map(|(_, ways)| *ways);
        let Some(ways) = ways else { return Ok(()) };
        let Some(way) = self.taken.remove(&signal) else { return Ok(()) };
        let climbed = self.with_types(|loaded| {
            let hooks = ways[way].hooks.iter().chain(ways[way].extras);
            hooks.for_each(|hook| loaded.unload(hook.program));
            loaded.climb(signal, ways, way + 1)
        })?;
        let Some((mut lower, next)) = climbed else { return Ok(()) };
        let Some(standing) = self.standings.iter_mut().find(|standing| standing.signal == signal)
        else {
            return Ok(());
        };
        let failed = Refusal { rung: standing.rung, place: None, reason: reason.to_owned() };
        lower.refused.splice(0..0, standing.refused.drain(..).chain([failed]));
        *standing = lower;
        self.taken.extend(next.map(|way| (signal, way)));
        Ok(())
    }

    /// Attaches the hooks that tell the rarer causes of a drop apart, or takes them off again. One
    /// that this kernel refuses leaves its cause among the others.
    ///
    /// # Errors
    ///
    /// When the kernel's BTF can no longer be read.
    pub fn watch_causes(&mut self, on: bool) -> Result<()> {
        // They note what they see in the brackets.
        let best = self.rung(Signal::SynDrops).max(self.rung(Signal::AckDrops));
        let hooks = match best {
            Rung::Fentry => CAUSES,
            Rung::Kprobe => CAUSES_KPROBE,
            _ => return Ok(()),
        };
        self.with_types(|loaded| {
            for hook in hooks {
                if !on {
                    loaded.unload(hook.program);
                } else if let Err(reason) = loaded.attach(hook) {
                    debug!("{}: {reason}", hook.program);
                }
            }
        })?;
        Ok(())
    }

    /// Lends the object out together with the kernel's types; `None` where there is no object.
    fn with_types<T>(&mut self, job: impl FnOnce(&mut Loaded) -> T) -> Result<Option<T>> {
        // First, since what fails must not take the programs with it.
        let (btf, layout, aya_btf) = kernel_types()?;
        let Some(ebpf) = self.ebpf.take() else { return Ok(None) };
        let reach = self.reach;
        let mut loaded = Loaded { ebpf, btf, layout, aya_btf, reach };
        let outcome = job(&mut loaded);
        let ebpf = without_types(loaded);
        self.kprobes = Kprobes::of(ebpf.programs());
        self.ebpf = Some(ebpf);
        Ok(Some(outcome))
    }

    /// Takes the maps out; `None` where the kernel takes no BPF.
    pub fn take_maps(&mut self) -> Result<Option<Maps>> {
        let Some(ebpf) = &mut self.ebpf else { return Ok(None) };
        let messages = EbpfLogger::init(ebpf).context("reading the programs' log messages")?;
        let mut take = |name: &str| -> Result<Map> {
            ebpf.take_map(name).with_context(|| format!("the object has no map {name}"))
        };
        let counting = CountingMaps {
            listeners: take("LISTENERS")?.try_into()?,
            services: take("SERVICES")?.try_into()?,
            recent_services: take("RECENT_SERVICES")?.try_into()?,
            no_port: take("NO_PORT")?.try_into()?,
            totals: take("TOTALS")?.try_into()?,
        };
        lives::adopt(|| Ok(take("NETNS_LIVES")?.try_into()?))?;
        let watch = WatchMaps::take(&mut take)?;
        Ok(Some(Maps { counting, watch, events: take("EVENTS")?.try_into()?, messages }))
    }

    /// How often the kernel skipped each program because it, or another, was running on the same CPU
    /// already (`recursion_misses`, Linux 5.12 and later). For trampolines and `tp_btf` that takes
    /// the same program interrupting itself, for kprobes any other does; and a probe may be missed
    /// before its program is asked.
    pub fn misses(&self) -> Vec<(String, u64)> {
        let programs = self.ebpf.iter().flat_map(Ebpf::programs);
        let misses = programs.filter_map(|(name, program)| {
            let misses = recursion_misses(program)? + self.kprobes.missed(name);
            Some((name.to_owned(), misses))
        });
        misses.collect()
    }

    /// The rung taken for a signal.
    pub fn rung(&self, signal: Signal) -> Rung {
        self.standings.iter().find(|s| s.signal == signal).map_or(Rung::None, |s| s.rung)
    }
}

/// The first of `ways` that is no higher than `highest`.
fn first_at_most(ways: &[Way], highest: Rung) -> usize {
    ways.iter().position(|way| way.rung <= highest).unwrap_or(ways.len())
}

/// Every signal at its lowest rung, with one reason for all the higher ones.
fn without_bpf(reason: &str) -> Vec<Standing> {
    LADDER
        .iter()
        .filter_map(|(signal, ways)| {
            let (lowest, higher) = ways.split_last()?;
            let refused = higher
                .iter()
                .map(|way| Refusal { rung: way.rung, place: None, reason: reason.to_owned() })
                .collect();
            let blind_spot = lowest.blind_spot.to_owned();
            Some(Standing { signal: *signal, rung: lowest.rung, blind_spot, refused })
        })
        .collect()
}

/// The object alone. The kernel's types take tens of megabytes, and glibc keeps what was freed of
/// them unless told otherwise.
fn without_types(loaded: Loaded) -> Ebpf {
    let Loaded { ebpf, btf, layout, aya_btf, .. } = loaded;
    drop((btf, layout, aya_btf));
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim(3) only gives free memory back.
    unsafe {
        libc::malloc_trim(0);
    }
    ebpf
}

/// Before 5.11 maps and programs are charged to RLIMIT_MEMLOCK. Where raising it is refused, a
/// newer kernel does not need it and an older one says so when a map is made.
fn raise_memlock_limit() {
    let limit = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: setrlimit reads the struct it is given.
    let result = unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &limit) };
    if result != 0 {
        debug!("cannot raise RLIMIT_MEMLOCK: {}", std::io::Error::last_os_error());
    }
}
