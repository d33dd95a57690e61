//! Faults made by eBPF programs, where no socket and no segment brings them about.

use anyhow::{Context, Result};
use aya::{Btf, Ebpf, EbpfLoader, programs::Lsm};
use floodmark::kernel::constants;

use crate::{counters::Counters, scenario::Skip};

/// Left by the build of the agent, on which this package depends.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../target/bpf/bpfel-unknown-none/release/floodmark-faults"
));

/// A security module that makes something fail, until dropped.
pub struct Fault {
    _ebpf: Ebpf,
}

impl Fault {
    /// Has SYNs to `port` refused.
    pub fn refuse_port(port: u16) -> Result<Self> {
        Self::begin("request_refused", "inet_conn_request", port)
    }

    /// Lets no listener make a child, of whichever port: the child is asked about before it has one.
    pub fn refuse_children() -> Result<Self> {
        Self::begin("child_refused", "sk_alloc_security", 0)
    }

    fn begin(program: &str, hook: &str, port: u16) -> Result<Self> {
        let btf = Btf::from_sys_fs().context("reading the kernel's BTF")?;
        let constants = constants()?;
        let mut loader = EbpfLoader::new();
        loader.btf(Some(&btf)).override_global("REFUSED_PORT", &port, true);
        for (name, value) in constants.iter().filter(|(name, _)| *name == "OFF_SK_NUM") {
            loader.override_global(name, value, true);
        }
        let mut ebpf = loader.load(OBJECT).context("loading the faults")?;
        let program: &mut Lsm =
            ebpf.program_mut(program).context("the object has no such fault")?.try_into()?;
        program
            .load(hook, &btf)
            .and_then(|()| program.attach())
            .map_err(|error| Skip(format!("no security module by eBPF here: {error}")))?;
        Ok(Self { _ebpf: ebpf })
    }
}

/// Skips the scenario if the fault made nothing be dropped: the kernel asks no security module of eBPF.
pub fn skip_without_effect() -> Result<()> {
    if Counters::when_still()?.get("ListenDrops") == Some(0) {
        let reason = "this kernel was not booted with bpf among its security modules (lsm=)";
        return Err(Skip(reason.to_owned()).into());
    }
    Ok(())
}
