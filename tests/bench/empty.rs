//! Programs that do nothing, attached where the agent's programs go.

use anyhow::{Context, Result, bail};
use aya::{
    Btf, Ebpf, EbpfLoader,
    programs::{Program, ProgramError},
};
use floodmark::kernel::Hook;

/// One attached program; detached when dropped.
pub struct Empty {
    /// Where it is attached.
    pub hook: &'static Hook,
    /// Its id in the kernel.
    pub id: u32,
    _ebpf: Ebpf,
}

/// Attaches an empty program from `object` to each of `hooks`.
pub fn attach(object: &[u8], hooks: &[&'static Hook]) -> Result<Vec<Empty>> {
    let btf = Btf::from_sys_fs().context("reading the kernel's BTF")?;
    hooks.iter().map(|hook| attach_one(object, hook, &btf)).collect()
}

fn attach_one(object: &[u8], hook: &'static Hook, btf: &Btf) -> Result<Empty> {
    // A program of an object goes to one place, so each place takes an object of its own.
    let mut ebpf = EbpfLoader::new().btf(Some(btf)).load(object)?;
    let name = format!("empty_{}", hook.attach.name());
    let Some(program) = ebpf.program_mut(&name) else { bail!("the object has no {name}") };
    let id = load(program, hook, btf).with_context(|| format!("{name} at {}", hook.target))?;
    Ok(Empty { hook, id, _ebpf: ebpf })
}

fn load(program: &mut Program, hook: &Hook, btf: &Btf) -> Result<u32, ProgramError> {
    let info = match program {
        Program::FEntry(program) => {
            program.load(hook.target, btf)?;
            program.attach()?;
            program.info()?
        }
        Program::FExit(program) => {
            program.load(hook.target, btf)?;
            program.attach()?;
            program.info()?
        }
        Program::BtfTracePoint(program) => {
            program.load(hook.target, btf)?;
            program.attach()?;
            program.info()?
        }
        Program::KProbe(program) => {
            program.load()?;
            program.attach(hook.target, 0)?;
            program.info()?
        }
        _ => return Err(ProgramError::UnexpectedProgramType),
    };
    Ok(info.id())
}
