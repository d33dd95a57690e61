//! Wall-clock time as the agent keeps it: whole milliseconds since the Unix epoch.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// Milliseconds since 1970-01-01T00:00:00Z.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct UnixMs(pub u64);

impl UnixMs {
    /// The current wall-clock time; the epoch if the clock stands before it.
    pub fn now() -> Self {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(since_epoch.as_millis() as u64)
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

/// Wall clock and `bpf_ktime_get_ns` (CLOCK_MONOTONIC) read together, to turn one into the other.
pub struct Clock {
    wall: UnixMs,
    monotonic: Duration,
}

impl Clock {
    /// Reads both.
    pub fn read() -> Self {
        let monotonic = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Into::into);
        Self::of(UnixMs::now(), monotonic)
    }

    /// A reading.
    pub fn of(wall: UnixMs, monotonic: Duration) -> Self {
        Self { wall, monotonic }
    }

    /// The wall clock.
    pub fn wall(&self) -> UnixMs {
        self.wall
    }

    /// CLOCK_MONOTONIC.
    pub fn monotonic(&self) -> Duration {
        self.monotonic
    }

    /// The wall-clock time of `ktime_ns`; now, of what lies ahead.
    pub fn wall_at(&self, ktime_ns: u64) -> UnixMs {
        self.wall.earlier(self.monotonic.saturating_sub(Duration::from_nanos(ktime_ns)))
    }
}

/// A closed interval of wall-clock time.
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

    /// Whether the two intervals share an instant.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.from <= other.to && other.from <= self.to
    }
}
