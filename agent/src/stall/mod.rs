//! Why a queue is not emptied: what the processes that hold a stalled listener do, looked at several
//! times a second.
//!
//! A listener is stalled while its accept queue is at half its limit or more, or drops. Only then does
//! the [`Sampler`]'s thread look at its holders; without trouble it sleeps. What it saw is [`Evidence`],
//! of which `verdict/impediment.rs` makes impediments.

mod activity;
mod calls;
mod cgroup;
mod evidence;
mod process;
mod remote;
mod sampler;
mod watched;

pub use activity::{Activity, Target, Wait};
pub use evidence::{
    CgroupEvidence, Descriptors, Evidence, ProcessEvidence, StallSample, ThreadEvidence, ratio,
};
pub use sampler::Sampler;
pub use watched::{Holder, Stalled};
