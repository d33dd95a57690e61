//! What the kernel says: programs and maps, MIBs, listening sockets, namespaces.

mod btf;
mod canary;
mod causes;
pub mod class;
pub mod connections;
mod counters;
pub mod estimate;
mod events;
mod hooks;
mod ladder;
mod layout;
mod loaded;
mod lower_rung;
pub mod mib;
pub mod netns;
mod object;
mod remedy;
mod sample;
mod service;
pub mod settings;
mod signal;
pub mod sock_diag;
mod source;
pub mod unix_diag;
pub mod watch;

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
