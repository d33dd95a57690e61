//! Faults made by eBPF programs, where no socket and no segment brings them about.

use anyhow::{Context, Result};
use aya::{Btf, Ebpf, EbpfLoader, programs::Lsm};
use floodmark::kernel::constants;

use crate::scenario::Skip;

/// Left by the build of the agent, on which this package depends.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../target/bpf/bpfel-unknown-none/release/floodmark-faults"
));

/// A security module that refuses whoever comes to a port, until dropped.
pub struct Refusal {
    _ebpf: Ebpf,
}

impl Refusal {
    /// Has SYNs to `port` refused.
    pub fn of_port(port: u16) -> Result<Self> {
        let btf = Btf::from_sys_fs().context("reading the kernel's BTF")?;
        let constants = constants()?;
        let mut loader = EbpfLoader::new();
        loader.btf(Some(&btf)).override_global("REFUSED_PORT", &port, true);
        for (name, value) in constants.iter().filter(|(name, _)| *name == "OFF_SK_NUM") {
            loader.override_global(name, value, true);
        }
        let mut ebpf = loader.load(OBJECT).context("loading the faults")?;
        let program =
            ebpf.program_mut("request_refused").context("the object has no such fault")?;
        let program: &mut Lsm = program.try_into()?;
        program
            .load("inet_conn_request", &btf)
            .and_then(|()| program.attach())
            .map_err(|error| Skip(format!("no security module by eBPF here: {error}")))?;
        Ok(Self { _ebpf: ebpf })
    }
}
