//! The agent's own clock, which nobody can set: `CLOCK_MONOTONIC`, by which the kernel's programs stamp
//! what they see (`bpf_ktime_get_ns`), counted from what the wall clock showed when the agent started.
//! All times inside the agent, in recordings and on the bus are by this clock.
//!
//! The wall clock may step: somebody sets it, a leap second is inserted, or the host was suspended. Each
//! step is noted, so that the time stamp of a log line is read by the wall clock of its time, and times
//! that people see follow the wall clock as it is set now. Slewing (`adjtime`) moves both clocks alike.

use std::{
    collections::VecDeque,
    sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use log::warn;
use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use crate::time::{UnixMs, Window};

/// A smaller step is noted once it has added up to this with others.
const SMALLEST: Duration = Duration::from_millis(100);
/// Steps remembered; `shift_ms` counts older ones too.
const REMEMBERED: usize = 16;
/// A log line was written no longer ago than this by a wall clock that has been set since.
const LONGEST_LAG: Duration = Duration::from_secs(3600);
/// A line may have been written so long after the time at which it is said to have been read: the time
/// is taken before a file is read.
const READING: Duration = Duration::from_secs(2);
/// Both clocks are read again if more than this went by between the two.
const CLOSE: Duration = Duration::from_micros(50);
/// How often at most.
const ATTEMPTS: usize = 5;

static OWN: LazyLock<AgentClock> = LazyLock::new(|| AgentClock::new(Reading::now));

/// A clock that never steps, and what it knows of the wall clock.
pub struct AgentClock {
    read: Box<dyn Fn() -> Reading + Send + Sync>,
    /// The wall clock less the monotonic clock, in nanoseconds, as both stood at the start.
    epoch_ns: i64,
    noted: Mutex<Noted>,
}

struct Noted {
    steps: Arc<ClockSteps>,
    /// When the clocks were last compared.
    compared: UnixMs,
}

/// Both clocks read together.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    /// `CLOCK_MONOTONIC`, in nanoseconds.
    pub monotonic_ns: i64,
    /// `CLOCK_REALTIME`, in nanoseconds since 1970.
    pub wall_ns: i64,
    /// How long reading both took, in nanoseconds: the two do not belong together any closer.
    pub spread_ns: i64,
}

impl Reading {
    /// Reads both, again if the thread was interrupted between the two.
    pub fn now() -> Self {
        let read = |clock| {
            let now = clock_gettime(clock).map_or(Duration::ZERO, Duration::from);
            i64::try_from(now.as_nanos()).unwrap_or(i64::MAX)
        };
        let both = || {
            let monotonic_ns = read(ClockId::CLOCK_MONOTONIC);
            let wall_ns = read(ClockId::CLOCK_REALTIME);
            let spread_ns = read(ClockId::CLOCK_MONOTONIC) - monotonic_ns;
            Self { monotonic_ns, wall_ns, spread_ns }
        };
        let mut best = both();
        for _ in 1..ATTEMPTS {
            if best.spread_ns <= CLOSE.as_nanos() as i64 {
                break;
            }
            let next = both();
            if next.spread_ns < best.spread_ns {
                best = next;
            }
        }
        best
    }
}

impl AgentClock {
    /// The clock of this process, which starts when it is first asked for.
    pub fn own() -> &'static Self {
        &OWN
    }

    /// A clock that starts now, of what `read` reads.
    pub fn new(read: impl Fn() -> Reading + Send + Sync + 'static) -> Self {
        let Reading { monotonic_ns, wall_ns, .. } = read();
        let epoch_ns = wall_ns.saturating_sub(monotonic_ns);
        let compared = in_ms(epoch_ns, monotonic_ns);
        let noted = Mutex::new(Noted { steps: Arc::default(), compared });
        Self { read: Box::new(read), epoch_ns, noted }
    }

    /// The time.
    pub fn now(&self) -> UnixMs {
        in_ms(self.epoch_ns, (self.read)().monotonic_ns)
    }

    /// The time of what a program of the kernel stamped with `ktime_ns`.
    pub fn at(&self, ktime_ns: u64) -> UnixMs {
        in_ms(self.epoch_ns, i64::try_from(ktime_ns).unwrap_or(i64::MAX))
    }

    /// The wall clock.
    pub fn wall_now(&self) -> UnixMs {
        self.compare().wall(self.now())
    }

    /// Compares the clocks, and gives the steps that the wall clock has made.
    pub fn compare(&self) -> Arc<ClockSteps> {
        let mut noted = self.noted();
        let Reading { monotonic_ns, wall_ns, spread_ns } = (self.read)();
        let now = in_ms(self.epoch_ns, monotonic_ns);
        let ahead_ns = wall_ns.saturating_sub(self.epoch_ns.saturating_add(monotonic_ns));
        let by_ms = ahead_ns / 1_000_000 - noted.steps.shift_ms;
        let smallest = SMALLEST + Duration::from_nanos(spread_ns.max(0) as u64);
        if u128::from(by_ms.unsigned_abs()) >= smallest.as_millis() {
            let step = ClockStep { within: Window { from: noted.compared, to: now }, by_ms };
            Arc::make_mut(&mut noted.steps).add(step);
            warn!("the wall clock was {}; verdicts are unaffected", step.describe());
        }
        noted.compared = now;
        Arc::clone(&noted.steps)
    }

    fn noted(&self) -> MutexGuard<'_, Noted> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for AgentClock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AgentClock").field("epoch_ns", &self.epoch_ns).finish_non_exhaustive()
    }
}

fn in_ms(epoch_ns: i64, monotonic_ns: i64) -> UnixMs {
    UnixMs(u64::try_from(epoch_ns.saturating_add(monotonic_ns)).unwrap_or(0) / 1_000_000)
}

/// A step of the wall clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockStep {
    /// Between which times it happened.
    pub within: Window,
    /// How far the clock was set forward, in milliseconds; negative: back.
    pub by_ms: i64,
}

impl ClockStep {
    /// `set back by 300.0 s`.
    pub fn describe(&self) -> String {
        let way = if self.by_ms < 0 { "back" } else { "forward" };
        format!("set {way} by {:.1} s", self.by_ms.unsigned_abs() as f64 / 1000.0)
    }

    /// How far the clock was set back.
    fn back(&self) -> Duration {
        Duration::from_millis(self.by_ms.min(0).unsigned_abs())
    }
}

/// The steps of the wall clock since the agent started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockSteps {
    /// The wall clock less the agent's clock, in milliseconds: the sum of all steps.
    pub shift_ms: i64,
    /// How many there were.
    pub count: u64,
    /// The latest of them, oldest first.
    pub latest: VecDeque<ClockStep>,
}

/// The wall clock between two steps.
struct Setting {
    shift_ms: i64,
    in_force: Window,
}

impl ClockSteps {
    fn add(&mut self, step: ClockStep) {
        self.shift_ms += step.by_ms;
        self.count += 1;
        self.latest.push_back(step);
        if self.latest.len() > REMEMBERED {
            self.latest.pop_front();
        }
    }

    /// What the wall clock, as it is set now, shows at a time of the agent's.
    pub fn wall(&self, at: UnixMs) -> UnixMs {
        at.shifted(self.shift_ms)
    }

    /// The steps that may have happened inside `window`.
    pub fn inside(&self, window: &Window) -> impl Iterator<Item = &ClockStep> {
        self.latest.iter().filter(move |step| step.within.overlaps(window))
    }

    /// By how much longer a timer that goes by the wall clock may have run at `at`, if it takes `length`.
    pub fn delays(&self, at: UnixMs, length: Duration) -> Duration {
        let runs = |step: &&ClockStep| {
            step.within.from <= at && at <= step.within.to.later(step.back() + length)
        };
        self.latest.iter().filter(runs).map(ClockStep::back).sum()
    }

    /// Reads a time stamp that came at `read_at`. `read` is given the wall clock less the agent's clock,
    /// in milliseconds, and tells when the stamp is from by the agent's clock then, and in which time the
    /// proxy looked at the wall clock for it: some stamp the begin of a request and say how long it took.
    /// It is asked for every setting of the wall clock that the stamp may be by. Of what it gives, that
    /// counts which was in the time of its setting and, of several, nearest before `read_at`.
    pub fn place<T>(
        &self,
        read_at: UnixMs,
        mut read: impl FnMut(i64) -> Option<(T, UnixMs, Window)>,
    ) -> Option<T> {
        let recent = read_at.earlier(LONGEST_LAG);
        let settings = self.settings().into_iter().filter(|it| it.in_force.to >= recent);
        let readings = settings.filter_map(|setting| {
            let (value, at, looked) = read(setting.shift_ms)?;
            Some((value, setting.misfit(at, &looked, read_at)))
        });
        readings.min_by_key(|(_, misfit)| *misfit).map(|(value, _)| value)
    }

    /// The newest first.
    fn settings(&self) -> Vec<Setting> {
        let mut shift_ms = self.shift_ms;
        let mut to = UnixMs(u64::MAX);
        let mut settings = Vec::with_capacity(self.latest.len() + 1);
        for step in self.latest.iter().rev() {
            settings.push(Setting { shift_ms, in_force: Window { from: step.within.from, to } });
            (shift_ms, to) = (shift_ms - step.by_ms, step.within.to);
        }
        settings.push(Setting { shift_ms, in_force: Window { from: UnixMs(0), to } });
        settings
    }
}

impl Setting {
    /// How badly a stamp fits, worst first: whether it is from after it was read, whether from another
    /// time than that of the setting, and how long before it was read.
    fn misfit(&self, at: UnixMs, looked: &Window, read_at: UnixMs) -> (bool, bool, u64) {
        let reading = READING.as_millis() as u64;
        let after = at.0.saturating_sub(read_at.0);
        let before = read_at.0.saturating_sub(at.0);
        let is_others = !self.in_force.widened(SMALLEST).overlaps(looked);
        // From a moment after it was read is less likely than from as long before.
        let age = if after > 0 { reading + after } else { before };
        (after > reading, is_others, age)
    }
}

#[cfg(test)]
pub(crate) mod tests;
