//! What the kernel says: programs and maps, MIBs, listening sockets, namespaces.

mod btf;
mod canary;
mod causes;
pub mod class;
pub mod connections;
pub mod conntrack;
mod counters;
pub mod estimate;
mod events;
pub mod flow;
mod hooks;
mod ladder;
mod layout;
mod link;
pub mod listen_again;
mod lives;
mod loaded;
mod lower_rung;
pub mod mib;
mod misses;
pub mod netns;
mod object;
pub mod path;
mod remedy;
mod sample;
pub mod service;
mod service_maps;
pub mod settings;
mod signal;
pub mod sock_diag;
mod source;
pub mod unix_diag;
pub mod watch;

/// Where the running kernel keeps what programs read, by the names of their constants.
///
/// # Errors
///
/// When the kernel has no BTF, or it cannot be read.
pub fn constants() -> anyhow::Result<Vec<(&'static str, u64)>> {
    let btf = btf::Btf::read(btf::Btf::VMLINUX.as_ref())?;
    Ok(layout::Layout::resolve(&btf).values().collect())
}

pub use canary::Heard;
pub use class::Class;
pub use hooks::{Attach, Hook};
pub use ladder::{LADDER, Reach, Refusal, Rung, Signal, Standing, Way};
pub use mib::{Counter, MibCounts};
pub use object::Object;
pub use sample::{
    Attribution, KernelEvent, KernelSample, ListenerDelta, ListenerId, NetnsId, QueueDepth, Tally,
};
pub use service::{NoPortCount, ServiceClass, ServiceCount};
pub use source::{Health, KernelSource};
