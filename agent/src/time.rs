//! Time as the agent keeps it: whole milliseconds since the Unix epoch, by the agent's own clock
//! ([`AgentClock`]) unless it is said to be the wall clock's.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::AgentClock;

/// Milliseconds since 1970-01-01T00:00:00Z.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct UnixMs(pub u64);

impl UnixMs {
    /// The time by the agent's own clock.
    pub fn now() -> Self {
        AgentClock::own().now()
    }

    /// This instant moved back, not beyond the epoch.
    pub fn earlier(self, by: Duration) -> Self {
        Self(self.0.saturating_sub(by.as_millis() as u64))
    }

    /// This instant by a clock that is ahead by `offset_ms`.
    pub fn shifted(self, offset_ms: i64) -> Self {
        Self(self.0.saturating_add_signed(offset_ms))
    }

    /// This instant moved forward.
    pub fn later(self, by: Duration) -> Self {
        Self(self.0.saturating_add(by.as_millis() as u64))
    }
}

/// A closed interval of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// First instant inside.
    pub from: UnixMs,
    /// Last instant inside.
    pub to: UnixMs,
}

impl Window {
    /// Length of the interval.
    pub fn length(&self) -> Duration {
        Duration::from_millis(self.to.0.saturating_sub(self.from.0))
    }

    /// The interval with `by` more at either end.
    pub fn widened(&self, by: Duration) -> Self {
        Self { from: self.from.earlier(by), to: self.to.later(by) }
    }

    /// The interval by a clock that is ahead by `offset_ms`.
    pub fn shifted(&self, offset_ms: i64) -> Self {
        Self { from: self.from.shifted(offset_ms), to: self.to.shifted(offset_ms) }
    }

    /// Whether the two intervals share an instant.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.from <= other.to && other.from <= self.to
    }
}
