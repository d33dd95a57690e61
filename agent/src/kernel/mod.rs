//! What the kernel says.

mod sample;

pub use sample::{
    Attribution, KernelEvent, KernelEventKind, KernelSample, ListenerDelta, ListenerId, MibCounts,
    NetnsId, QueueDepth, Tally,
};
