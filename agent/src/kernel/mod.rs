//! What the kernel says.

mod btf;
mod hooks;
mod ladder;
mod layout;
mod object;
mod sample;

pub use ladder::{Refusal, Rung, Signal, Standing};
pub use object::{Maps, Object};
pub use sample::{
    Attribution, KernelEvent, KernelEventKind, KernelSample, ListenerDelta, ListenerId, MibCounts,
    NetnsId, QueueDepth, Tally,
};
