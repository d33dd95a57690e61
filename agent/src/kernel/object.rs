//! The eBPF object in the kernel: loaded, attached rung by rung, detached when dropped.

use std::{
    collections::BTreeMap,
    fs,
    os::fd::{AsFd, AsRawFd},
};

use anyhow::{Context, Result, anyhow};
use aya::{
    Btf as AyaBtf, Ebpf, EbpfLoader,
    maps::{Map, MapData, PerCpuArray, PerCpuHashMap, RingBuf},
    programs::{Program, ProgramError},
};
use aya_log::EbpfLogger;
use floodmark_common::{
    ListenerKey, ListenerTally, NoPortKey, NoPortTally, ServiceKey, ServiceTally, Totals,
};
use log::{Log, debug};

use super::{
    btf::Btf,
    hooks::Hook,
    ladder::{LADDER, Refusal, Rung, Signal, Standing, Way},
    layout::{Layout, TW_AT_ENTRY},
    remedy::{missing_capabilities, remedy},
};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/floodmark-ebpf"));

/// The programs in the kernel, and how each signal is had.
pub struct Object {
    /// Keeps the programs attached. `None` where the kernel takes no BPF at all.
    ebpf: Option<Ebpf>,
    /// How each signal is had.
    pub standings: Vec<Standing>,
    /// Whether the kernel counts TW and TWKilled at expiry.
    pub time_wait_at_expiry: bool,
    /// Which of a signal's ways was taken, by its place on the ladder.
    taken: BTreeMap<Signal, usize>,
}

/// The maps the agent reads.
pub struct Maps {
    /// Where the programs count.
    pub counting: CountingMaps,
    /// Detail events.
    pub events: RingBuf<MapData>,
    /// What the programs have to say in words.
    pub messages: EbpfLogger<&'static dyn Log>,
}

/// The maps in which the programs count.
pub struct CountingMaps {
    /// Losses by listener.
    pub listeners: PerCpuHashMap<MapData, ListenerKey, ListenerTally>,
    /// What became of connections, by service.
    pub services: PerCpuHashMap<MapData, ServiceKey, ServiceTally>,
    /// Connects that found no local port.
    pub no_port: PerCpuHashMap<MapData, NoPortKey, NoPortTally>,
    /// Totals.
    pub totals: PerCpuArray<MapData, Totals>,
}

impl Object {
    /// Loads the object and attaches, for each signal, the best way that this kernel allows. Never
    /// fails: what cannot be had by BPF is had by netlink, and the standing says why.
    pub fn attach(highest: Rung) -> Self {
        raise_memlock_limit();
        match Loaded::load() {
            Ok(mut loaded) => {
                let time_wait_at_expiry = loaded.layout.missing(&[TW_AT_ENTRY]).is_some();
                let (mut standings, mut taken) = (Vec::new(), BTreeMap::new());
                for (signal, ways) in LADDER {
                    let (standing, way) = loaded.climb(*signal, ways, first_at_most(ways, highest));
                    standings.push(standing);
                    taken.extend(way.map(|way| (*signal, way)));
                }
                Self { ebpf: Some(loaded.ebpf), standings, time_wait_at_expiry, taken }
            }
            Err(error) => {
                let remedy = missing_capabilities().map(|what| format!("; {what}"));
                let standings = without_bpf(&format!("{error:#}{}", remedy.unwrap_or_default()));
                let taken = BTreeMap::new();
                Self { ebpf: None, standings, time_wait_at_expiry: false, taken }
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
        let standing = self.standings.iter_mut().find(|standing| standing.signal == signal);
        let (Some(ways), Some(standing)) = (ways, standing) else { return Ok(()) };
        let Some(way) = self.taken.remove(&signal) else { return Ok(()) };
        // First, since what fails must not take the other programs with it.
        let (btf, layout, aya_btf) = kernel_types()?;
        let Some(ebpf) = self.ebpf.take() else { return Ok(()) };
        let mut loaded = Loaded { ebpf, btf, layout, aya_btf };
        ways[way].hooks.iter().chain(ways[way].extras).for_each(|hook| loaded.unload(hook.program));
        let (mut lower, next) = loaded.climb(signal, ways, way + 1);
        let failed = Refusal { rung: standing.rung, place: None, reason: reason.to_owned() };
        lower.refused.splice(0..0, standing.refused.drain(..).chain([failed]));
        *standing = lower;
        self.taken.extend(next.map(|way| (signal, way)));
        self.ebpf = Some(loaded.ebpf);
        Ok(())
    }

    /// Takes the maps out; `None` where the kernel takes no BPF.
    pub fn take_maps(&mut self) -> Result<Option<Maps>> {
        let Some(ebpf) = &mut self.ebpf else { return Ok(None) };
        let messages = EbpfLogger::init(ebpf).context("the programs' messages")?;
        let mut take = |name: &str| -> Result<Map> {
            ebpf.take_map(name).with_context(|| format!("the object has no map {name}"))
        };
        let counting = CountingMaps {
            listeners: take("LISTENERS")?.try_into()?,
            services: take("SERVICES")?.try_into()?,
            no_port: take("NO_PORT")?.try_into()?,
            totals: take("TOTALS")?.try_into()?,
        };
        Ok(Some(Maps { counting, events: take("EVENTS")?.try_into()?, messages }))
    }

    /// How often the kernel skipped each program because it, or another, was running on the same CPU
    /// already (`recursion_misses`, Linux 5.12 and later). For trampolines and `tp_btf` that takes
    /// the same program interrupting itself, for kprobes any other does.
    pub fn misses(&self) -> Vec<(String, u64)> {
        let programs = self.ebpf.iter().flat_map(Ebpf::programs);
        programs.filter_map(|(name, program)| Some((name.to_owned(), misses(program)?))).collect()
    }

    /// The rung taken for a signal.
    pub fn rung(&self, signal: Signal) -> Rung {
        self.standings.iter().find(|s| s.signal == signal).map_or(Rung::None, |s| s.rung)
    }
}

/// The object loaded, with what is needed to attach it. The BTFs are large and dropped afterwards.
struct Loaded {
    ebpf: Ebpf,
    btf: Btf,
    layout: Layout,
    aya_btf: AyaBtf,
}

impl Loaded {
    fn load() -> Result<Self> {
        let (btf, layout, aya_btf) = kernel_types()?;
        let mut loader = EbpfLoader::new();
        loader.btf(Some(&aya_btf));
        let values: Vec<(&str, u64)> = layout.values().collect();
        for (name, value) in &values {
            // Not `must_exist`: the linker drops a constant that no program reads.
            loader.override_global(name, value, false);
        }
        let ebpf = loader.load(OBJECT).map_err(|error| anyhow!(first_cause(&error)))?;
        drop(loader);
        Ok(Self { ebpf, btf, layout, aya_btf })
    }

    /// Takes the best of `ways` that works, from number `first` on, and tells which.
    fn climb(&mut self, signal: Signal, ways: &[Way], first: usize) -> (Standing, Option<usize>) {
        let mut refused = Vec::new();
        for (number, way) in ways.iter().enumerate().skip(first) {
            match self.attach_all(way.hooks) {
                Ok(()) => {
                    for extra in way.extras {
                        if let Err(reason) = self.attach(extra) {
                            debug!("{}: {reason}", extra.program);
                        }
                    }
                    let blind_spot = way.blind_spot.to_owned();
                    let standing = Standing { signal, rung: way.rung, blind_spot, refused };
                    return (standing, Some(number));
                }
                Err((place, reason)) => {
                    refused.push(Refusal { rung: way.rung, place: Some(place), reason });
                }
            }
        }
        let blind_spot = "everything".to_owned();
        (Standing { signal, rung: Rung::None, blind_spot, refused }, None)
    }

    /// Attaches all of `hooks`, or none.
    fn attach_all(&mut self, hooks: &[Hook]) -> Result<(), (String, String)> {
        for (done, hook) in hooks.iter().enumerate() {
            if let Err(reason) = self.attach(hook) {
                hooks[..=done].iter().for_each(|hook| self.unload(hook.program));
                return Err((format!("{} on {}", hook.attach.name(), hook.target), reason));
            }
        }
        Ok(())
    }

    fn attach(&mut self, hook: &Hook) -> Result<(), String> {
        if let Some(objection) = hook.objection(&self.btf, &self.layout) {
            return Err(objection);
        }
        let program = self
            .ebpf
            .program_mut(hook.program)
            .ok_or_else(|| format!("the object has no program {}", hook.program))?;
        load_and_attach(program, hook, &self.aya_btf).map_err(|error| {
            debug!("{}: {error:?}", hook.program);
            let cause = first_cause(&error);
            match remedy(hook.attach) {
                Some(remedy) => format!("{cause}; {remedy}"),
                None => cause,
            }
        })
    }

    /// Also detaches.
    fn unload(&mut self, name: &str) {
        // Fails for one that was never loaded, which is what is wanted.
        let _ = match self.ebpf.program_mut(name) {
            Some(Program::FEntry(program)) => program.unload(),
            Some(Program::FExit(program)) => program.unload(),
            Some(Program::BtfTracePoint(program)) => program.unload(),
            Some(Program::KProbe(program)) => program.unload(),
            _ => Ok(()),
        };
    }
}

/// What the running kernel says of its types, as the agent reads it and as aya does.
fn kernel_types() -> Result<(Btf, Layout, AyaBtf)> {
    let btf = Btf::read(Btf::VMLINUX.as_ref())?;
    let layout = Layout::resolve(&btf);
    let aya_btf = AyaBtf::from_sys_fs().context("reading the kernel's BTF")?;
    Ok((btf, layout, aya_btf))
}

/// The first of `ways` that is no higher than `highest`.
fn first_at_most(ways: &[Way], highest: Rung) -> usize {
    ways.iter().position(|way| way.rung <= highest).unwrap_or(ways.len())
}

fn load_and_attach(program: &mut Program, hook: &Hook, btf: &AyaBtf) -> Result<(), ProgramError> {
    match program {
        Program::FEntry(program) => {
            program.load(hook.target, btf)?;
            program.attach().map(drop)
        }
        Program::FExit(program) => {
            program.load(hook.target, btf)?;
            program.attach().map(drop)
        }
        Program::BtfTracePoint(program) => {
            program.load(hook.target, btf)?;
            program.attach().map(drop)
        }
        Program::KProbe(program) => {
            // One program may serve several functions.
            match program.load() {
                Ok(()) | Err(ProgramError::AlreadyLoaded) => {}
                Err(error) => return Err(error),
            }
            program.attach(hook.target, 0).map(drop)
        }
        _ => Err(ProgramError::UnexpectedProgramType),
    }
}

/// kernel: `bpf_prog_show_fdinfo`; aya does not hand this number on. `None` for one not loaded.
fn misses(program: &Program) -> Option<u64> {
    let fd = program.fd().ok()?.as_fd().as_raw_fd();
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).ok()?;
    info.lines().find_map(|line| line.strip_prefix("recursion_misses:"))?.trim().parse().ok()
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

/// The innermost error, in one line: "Operation not permitted (os error 1)" tells more than the
/// names of the layers above it. A verifier's refusal keeps its last words.
fn first_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    let mut text = cause.to_string();
    if let Some(log) = verifier_log(error) {
        let last = log.lines().rev().find(|line| !is_statistics(line));
        text = format!("{text}; verifier: {}", last.unwrap_or_default().trim());
    }
    text.lines().next().unwrap_or_default().to_owned()
}

fn verifier_log(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    let error = error.downcast_ref::<ProgramError>()?;
    match error {
        ProgramError::LoadError { verifier_log, .. } => {
            let text = verifier_log.to_string();
            (!text.trim().is_empty()).then_some(text)
        }
        _ => None,
    }
}

/// The verifier ends its log with what it processed.
fn is_statistics(line: &str) -> bool {
    line.trim().is_empty()
        || ["processed ", "verification time", "stack depth"]
            .iter()
            .any(|start| line.starts_with(start))
}

/// Before 5.11 maps and programs are charged to RLIMIT_MEMLOCK. Where raising it is refused, a
/// newer kernel does not need it and an older one says so when a map is made.
fn raise_memlock_limit() {
    let limit = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: setrlimit reads the struct it is given.
    let result = unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &limit) };
    if result != 0 {
        debug!("RLIMIT_MEMLOCK stays as it is: {}", std::io::Error::last_os_error());
    }
}
