//! The eBPF object in the kernel: loaded, attached rung by rung, detached when dropped.

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
    pub fn attach() -> Self {
        raise_memlock_limit();
        match Loaded::load() {
            Ok(mut loaded) => {
                let standings =
                    LADDER.iter().map(|(signal, ways)| loaded.climb(*signal, ways)).collect();
                let time_wait_at_expiry = loaded.layout.missing(&[TW_AT_ENTRY]).is_some();
                Self { ebpf: Some(loaded.ebpf), standings, time_wait_at_expiry }
            }
            Err(error) => {
                let standings = without_bpf(&format!("{error:#}"));
                Self { ebpf: None, standings, time_wait_at_expiry: false }
            }
        }
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
        let btf = Btf::read(Btf::VMLINUX.as_ref())?;
        let layout = Layout::resolve(&btf);
        let aya_btf = AyaBtf::from_sys_fs().context("reading the kernel's BTF")?;
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

    /// Takes the best of `ways` that works.
    fn climb(&mut self, signal: Signal, ways: &[Way]) -> Standing {
        let mut refused = Vec::new();
        for way in ways {
            match self.attach_all(way.hooks) {
                Ok(()) => {
                    for extra in way.extras {
                        if let Err(reason) = self.attach(extra) {
                            debug!("{}: {reason}", extra.program);
                        }
                    }
                    let blind_spot = way.blind_spot.to_owned();
                    return Standing { signal, rung: way.rung, blind_spot, refused };
                }
                Err(reason) => refused.push(Refusal { rung: way.rung, reason }),
            }
        }
        Standing { signal, rung: Rung::None, blind_spot: "everything".to_owned(), refused }
    }

    /// Attaches all of `hooks`, or none.
    fn attach_all(&mut self, hooks: &[Hook]) -> Result<(), String> {
        for (done, hook) in hooks.iter().enumerate() {
            if let Err(reason) = self.attach(hook) {
                hooks[..=done].iter().for_each(|hook| self.unload(hook.program));
                return Err(reason);
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
            format!("{} on {}: {}", hook.attach.name(), hook.target, first_cause(&error))
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

/// Every signal at its lowest rung, with one reason for all the higher ones.
fn without_bpf(reason: &str) -> Vec<Standing> {
    LADDER
        .iter()
        .filter_map(|(signal, ways)| {
            let (lowest, higher) = ways.split_last()?;
            let refused = higher
                .iter()
                .map(|way| Refusal { rung: way.rung, reason: reason.to_owned() })
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
    let permission = text.contains("os error 1)");
    if permission && !has_bpf_capabilities() {
        text.push_str("; CAP_BPF and CAP_PERFMON (or root) are missing");
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

/// Whether the effective capabilities hold CAP_BPF (39) and CAP_PERFMON (38), or CAP_SYS_ADMIN (21).
fn has_bpf_capabilities() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0);
    let has = |bit: u32| effective >> bit & 1 == 1;
    has(21) || (has(38) && has(39))
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
