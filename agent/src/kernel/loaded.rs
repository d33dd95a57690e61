//! The loaded object together with the kernel's types, as it takes to attach a program.

use std::{cmp::Reverse, collections::BTreeSet};

use anyhow::{Context, Result, anyhow};
use aya::{
    Btf as AyaBtf, Ebpf, EbpfLoader,
    programs::{Program, ProgramError},
};
use log::debug;

use super::{
    btf::Btf,
    hooks::Hook,
    ladder::{Reach, Refusal, Rung, Signal, Standing, Way},
    layout::Layout,
    link,
    remedy::remedy,
};

pub(super) static OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/floodmark-ebpf"));

/// The object loaded, with what is needed to attach it. The BTFs are large and dropped afterwards.
pub struct Loaded {
    /// The object.
    pub ebpf: Ebpf,
    /// The kernel's types, as the agent reads them.
    pub btf: Btf,
    /// Where the kernel keeps what the programs read.
    pub layout: Layout,
    /// The kernel's types, as aya reads them.
    pub aya_btf: AyaBtf,
    /// Whether ways may be taken that make every system call take longer.
    pub reach: Reach,
}

impl Loaded {
    /// Loads the object with the constants of this kernel.
    ///
    /// # Errors
    ///
    /// When the kernel's BTF cannot be read, or a map cannot be made.
    pub fn load(reach: Reach) -> Result<Self> {
        let (btf, layout, aya_btf);
        // Before the types are read: see there.
        let loader = loader();
        (btf, layout, aya_btf) = kernel_types()?;
        let ebpf = match link::cast(&btf) {
            Some(cast) => load_with_casts(loader, cast, &btf, &layout, &aya_btf)?,
            None => load_object(loader, &layout, None, &aya_btf)?,
        };
        Ok(Self { ebpf, btf, layout, aya_btf, reach })
    }

    /// Takes the best of `ways` that works, from number `first` on, and tells which.
    pub fn climb(
        &mut self,
        signal: Signal,
        ways: &[Way],
        first: usize,
    ) -> (Standing, Option<usize>) {
        let mut refused = Vec::new();
        let mut unfit = Vec::new();
        for (number, way) in ways.iter().enumerate().skip(first) {
            if let Some((place, reason)) = self.misfit(way) {
                unfit.push(Refusal { rung: way.rung, place: Some(place), reason });
                continue;
            }
            match self.take_way(way) {
                Ok(()) => {
                    for extra in way.extras {
                        if let Err(reason) = self.attach(extra) {
                            debug!("{}: {reason}", extra.program);
                        }
                    }
                    let refused = with_unfit_rungs(refused, unfit);
                    let blind_spot = way.blind_spot.to_owned();
                    let standing = Standing { signal, rung: way.rung, blind_spot, refused };
                    return (standing, Some(number));
                }
                Err((place, reason)) => {
                    refused.push(Refusal { rung: way.rung, place: Some(place), reason });
                }
            }
        }
        let refused = with_unfit_rungs(refused, unfit);
        let blind_spot = "everything".to_owned();
        (Standing { signal, rung: Rung::None, blind_spot, refused }, None)
    }

    /// Which hook of `way` was written for another kernel than this, and why.
    fn misfit(&self, way: &Way) -> Option<(String, String)> {
        way.hooks
            .iter()
            .find_map(|hook| Some((hook.place(), hook.objection(&self.btf, &self.layout)?)))
    }

    fn take_way(&mut self, way: &Way) -> Result<(), (String, String)> {
        match (way.hooks.first(), way.beyond(self.reach)) {
            (Some(hook), Some(reason)) => Err((hook.place(), reason.to_owned())),
            _ => self.attach_all(way.hooks),
        }
    }

    /// Attaches all of `hooks`, or none.
    fn attach_all(&mut self, hooks: &[Hook]) -> Result<(), (String, String)> {
        for (done, hook) in hooks.iter().enumerate() {
            if let Err(reason) = self.attach(hook) {
                hooks[..=done].iter().for_each(|hook| self.unload(hook.program));
                return Err((hook.place(), reason));
            }
        }
        Ok(())
    }

    /// Attaches one program.
    ///
    /// # Errors
    ///
    /// Why it cannot be, and what would help, in one line.
    pub fn attach(&mut self, hook: &Hook) -> Result<(), String> {
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

    /// Takes one program out of the kernel, which detaches it.
    pub fn unload(&mut self, name: &str) {
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

/// All refusals, best rung first. A way written for another kernel is worth a word only where no way
/// of its rung fits this one.
fn with_unfit_rungs(mut refused: Vec<Refusal>, unfit: Vec<Refusal>) -> Vec<Refusal> {
    let fits: BTreeSet<Rung> = refused.iter().map(|refusal| refusal.rung).collect();
    refused.extend(unfit.into_iter().filter(|refusal| !fits.contains(&refusal.rung)));
    refused.sort_by_key(|refusal| Reverse(refusal.rung));
    refused
}

/// The object with typed reads of plain addresses, or without where the kernel refuses one that tries it.
fn load_with_casts(
    first: EbpfLoader<'_>,
    cast: u32,
    btf: &Btf,
    layout: &Layout,
    aya_btf: &AyaBtf,
) -> Result<Ebpf> {
    let typed = layout.clone().with_types(btf);
    let mut ebpf = load_object(first, &typed, Some(cast), aya_btf)?;
    match try_cast(&mut ebpf, aya_btf) {
        Ok(()) => Ok(ebpf),
        Err(error) => {
            debug!("bpf_rdonly_cast: {}", first_cause(&error));
            load_object(loader(), layout, None, aya_btf)
        }
    }
}

fn try_cast(ebpf: &mut Ebpf, btf: &AyaBtf) -> Result<(), ProgramError> {
    match ebpf.program_mut("cast_tried") {
        Some(Program::BtfTracePoint(program)) => {
            program.load("tcp_retransmit_synack", btf)?;
            program.unload()
        }
        _ => Err(ProgramError::UnexpectedProgramType),
    }
}

/// One that keeps no types. It has read all of the kernel's for itself as it was made, which take as much
/// memory as the whole agent does later: once is enough.
fn loader<'a>() -> EbpfLoader<'a> {
    let mut loader = EbpfLoader::new();
    loader.btf(None);
    loader
}

fn load_object(
    loader: EbpfLoader<'_>,
    layout: &Layout,
    cast: Option<u32>,
    btf: &AyaBtf,
) -> Result<Ebpf> {
    let mut loader: EbpfLoader<'_> = loader;
    loader.btf(Some(btf));
    let object = link::link(OBJECT, layout, cast)?;
    loader.load(&object).map_err(|error| anyhow!(first_cause(&error)))
}

/// What the running kernel says of its types, as the agent reads it and as aya does.
///
/// # Errors
///
/// When the BTF cannot be read.
pub fn kernel_types() -> Result<(Btf, Layout, AyaBtf)> {
    let btf = Btf::read(Btf::VMLINUX.as_ref())?;
    let layout = Layout::resolve(&btf);
    let aya_btf = AyaBtf::from_sys_fs().context("reading the kernel's BTF")?;
    Ok((btf, layout, aya_btf))
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

/// The innermost error, in one line: "Operation not permitted (os error 1)" tells more than the
/// names of the layers above it. A verifier's refusal keeps its last words.
pub fn first_cause(error: &(dyn std::error::Error + 'static)) -> String {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_way_of_another_kernel_is_told_where_no_other_fits() {
        let refusal = |rung, reason: &str| Refusal { rung, place: None, reason: reason.to_owned() };
        let refused = vec![refusal(Rung::Fentry, "refused")];
        let unfit = vec![refusal(Rung::Fentry, "other arguments"), refusal(Rung::Kprobe, "none")];
        let told = with_unfit_rungs(refused, unfit);
        let reasons: Vec<&str> = told.iter().map(|refusal| refusal.reason.as_str()).collect();
        assert_eq!(reasons, ["refused", "none"]);
    }

    /// A program that calls another function has no exception table on Linux 5.10, where a typed load
    /// that faults then brings the machine down (agent-ebpf/src/program.rs). The bit pattern is
    /// `BPF_JMP | BPF_CALL` with `BPF_PSEUDO_CALL` as source register.
    #[test]
    fn no_program_calls_a_function() {
        const CALL: u8 = 0x85;
        const PSEUDO_CALL: u8 = 1;
        let object = aya_obj::Object::parse(OBJECT).unwrap();
        assert!(object.functions.len() > 50, "{}", object.functions.len());
        for program in object.functions.values() {
            let calls = program.instructions.iter();
            let calls = calls.filter(|it| it.code == CALL && it.src_reg() == PSEUDO_CALL).count();
            assert_eq!(calls, 0, "{}", program.name);
        }
    }
}
