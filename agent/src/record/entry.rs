//! What is in a block: ticks, and now and then the whole state.

use serde::{Deserialize, Serialize};

use super::{events::EventColumns, state::StateChanges};
use crate::{
    kernel::{KernelSample, ListenerId, flow::Slot},
    stall::StallSample,
    time::UnixMs,
    verdict::{Heard, LinkReport, Verdict},
};

/// One entry of a block. Within a major version fields are added, none is removed or changes its
/// meaning, and no entry is added.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Entry {
    /// The whole state, as changes from nothing: reading may begin here.
    Whole(Box<StateChanges>),
    /// What a tick brought.
    Tick(Box<Tick>),
}

/// What a tick brought, and the verdicts that the agent came to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Tick {
    /// When the tick's sample was taken.
    pub now: UnixMs,
    /// What the proxies said while the state was still the last tick's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub heard_before: Vec<Heard>,
    /// What has changed since the last tick.
    #[serde(default)]
    pub changes: StateChanges,
    /// What was lost.
    pub sample: KernelSample,
    /// Some of it in detail.
    #[serde(default, skip_serializing_if = "EventColumns::is_empty")]
    pub events: EventColumns,
    /// What the proxies said since.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub heard: Vec<Heard>,
    /// When connections came to the accept queues since.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub arrivals: Vec<(ListenerId, Vec<Slot>)>,
    /// The connections of the host's own processes to their peers since the agent's start; not at
    /// every tick.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub links: Vec<LinkReport>,
    /// What the holders of stalled listeners did since.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stalls: Vec<StallSample>,
    /// Whether any proxy was listened to.
    #[serde(default)]
    pub hears_proxies: bool,
    /// Whether the listeners gone for long were forgotten.
    #[serde(default)]
    pub forgets: bool,
    /// Whether this was the agent's last tick.
    #[serde(default)]
    pub is_last: bool,
    /// The verdicts that the agent came to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub verdicts: Vec<Verdict>,
}

impl Tick {
    /// Everything that proxies said.
    pub fn all_heard(&self) -> impl Iterator<Item = &Heard> {
        self.heard_before.iter().chain(&self.heard)
    }
}
