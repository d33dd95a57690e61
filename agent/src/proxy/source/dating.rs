//! Which instant a local time stands for. Proxies stamp local time that names no zone, so the zone of a
//! source is found once and kept: by the process that writes it, by a carrier's exact stamp, or by how
//! far a line that was written just now is from UTC. A line is never taken to be current because some
//! zone would make it so.

use std::time::Duration;

use jiff::tz::{Offset, TimeZone};

use crate::{
    clock::ClockSteps,
    proxy::{
        event::{ProxyEvent, Reading},
        timestamp::{When, in_zone},
        zone,
    },
    time::{UnixMs, Window},
};

/// What is older than that when it is read is no event: by then the agent has forgotten what the kernel
/// did at the time.
pub const OLDEST: Duration = Duration::from_secs(600);
/// Clocks may differ by so much.
const AHEAD: Duration = Duration::from_secs(5);
/// A line that was written just now is read no later.
const LATE: Duration = Duration::from_secs(120);
/// Another distance from UTC is believed once all lines have had it for so long: clocks were set back
/// from summer time.
const PERSISTENT: Duration = Duration::from_secs(60);
/// Events that wait until the zone is known.
const MOST_WAITING: usize = 4096;

/// Dates the events of one writer.
#[derive(Debug, Default)]
pub(super) struct Dating {
    zone: Option<TimeZone>,
    /// Another distance from UTC, of all lines read since then.
    rival: Option<(i64, UnixMs)>,
    waiting: Vec<ProxyEvent>,
}

/// What became of events.
#[derive(Debug, Default)]
pub(super) struct Dated {
    /// Those of the recent past.
    pub events: Vec<ProxyEvent>,
    /// How many were too old.
    pub old: u64,
    /// How many were somebody else's.
    pub foreign: u64,
}

impl Dated {
    pub fn append(&mut self, mut other: Self) {
        self.events.append(&mut other.events);
        self.old += other.old;
        self.foreign += other.foreign;
    }

    /// Takes an event at its time by the wall clock, unless that is too long ago. Where the wall clock
    /// has been set lately, the stamp is tried by each setting: see [`ClockSteps::place`].
    fn take(&mut self, event: ProxyEvent, (at, precision_ms): (UnixMs, u32), steps: &ClockSteps) {
        let Some(heard_at) = event.undated.map(|reading| reading.heard_at) else {
            return self.events.push(event);
        };
        let precision = Duration::from_millis(precision_ms.into());
        let took = Duration::from_millis(event.took_ms.unwrap_or(0));
        let by_setting = |shift_ms: i64| {
            let at = at.shifted(-shift_ms);
            Some((at, at, Window { from: at.earlier(took), to: at.later(precision) }))
        };
        let at = steps.place(heard_at, by_setting).unwrap_or(at);
        if at.later(OLDEST) < heard_at {
            self.old += 1;
        } else {
            self.events.push(ProxyEvent { at, precision_ms, undated: None, ..event });
        }
    }
}

impl Dating {
    /// Dates an event that may have local time; `may_be_old` where the line may have been written long
    /// ago.
    pub fn date(&mut self, event: ProxyEvent, may_be_old: bool, steps: &ClockSteps) -> Dated {
        let mut dated = Dated::default();
        let Some(local) = Local::of(&event) else {
            let time = (event.at, event.precision_ms);
            dated.take(event, time, steps);
            return dated;
        };
        if let Some(zone) = local.zone_by_stamp() {
            self.zone = Some(zone);
        } else if !may_be_old && !self.is_current(local, steps) {
            self.learn(local);
        }
        self.waiting.push(event);
        if may_be_old && self.zone.is_none() && self.waiting.len() < MOST_WAITING {
            return dated;
        }
        self.settle(steps)
    }

    /// Dates what waits: nothing newer has come, so the newest may have been written just now.
    pub fn settle(&mut self, steps: &ClockSteps) -> Dated {
        let mut dated = Dated::default();
        let waiting = std::mem::take(&mut self.waiting);
        if self.zone.is_none()
            && let Some(newest) = waiting.iter().filter_map(Local::of).max_by_key(|it| it.as_utc)
        {
            self.learn(newest);
        }
        let zone = self.zone.as_ref().unwrap_or_else(|| zone::of_host());
        for event in waiting {
            let Some(local) = Local::of(&event) else { continue };
            let at = in_zone(local.as_utc, zone, local.latest()).unwrap_or(local.as_utc);
            dated.take(event, local.at_best(at), steps);
        }
        dated
    }

    /// Whether the zone is right, by one of the latest settings of the wall clock.
    fn is_current(&mut self, local: Local, steps: &ClockSteps) -> bool {
        let Some(zone) = &self.zone else { return false };
        let by_setting = |shift_ms: i64| {
            let local = Local { written: local.heard_at.shifted(shift_ms), ..local };
            let at = local.as_utc.shifted(-shift_ms);
            local.is_current_in(zone).then_some(((), at, Window { from: at, to: at }))
        };
        let is_current = steps.place(local.heard_at, by_setting).is_some();
        if is_current {
            self.rival = None;
        }
        is_current
    }

    /// Finds the zone by a line that was written just now, or changes it where it cannot be right.
    fn learn(&mut self, local: Local) {
        match &self.zone {
            Some(zone) => {
                let Some(distance) = local.distance() else { return };
                let is_ahead = local.in_zone(zone).is_none();
                let since = match self.rival {
                    Some((other, since)) if other == distance => since,
                    _ => local.written,
                };
                self.rival = Some((distance, since));
                if is_ahead || local.written >= since.later(PERSISTENT) {
                    self.zone = fixed(distance);
                    self.rival = None;
                }
            }
            None => {
                let likely = [zone::of_host().clone(), TimeZone::UTC];
                let likely = likely.into_iter().find(|zone| local.is_recent_in(zone));
                self.zone = likely.or_else(|| local.distance().and_then(fixed));
            }
        }
    }
}

/// The event with the instant that its local time is in its writer's zone, unless that lies ahead: then it
/// writes in another one.
pub(super) fn dated_in(event: ProxyEvent, zone: &TimeZone) -> ProxyEvent {
    let Some(local) = Local::of(&event) else { return event };
    let Some(at) = local.in_zone(zone) else { return event };
    let (at, precision_ms) = local.at_best(at);
    let undated = event.undated.map(|reading| Reading { is_local: false, ..reading });
    ProxyEvent { at, precision_ms, undated, ..event }
}

fn fixed(distance_ms: i64) -> Option<TimeZone> {
    let seconds = i32::try_from(distance_ms / 1000).ok()?;
    Some(TimeZone::fixed(Offset::from_seconds(seconds).ok()?))
}

/// A local time, and when at the latest it was written.
#[derive(Clone, Copy)]
struct Local {
    as_utc: UnixMs,
    precision_ms: u32,
    /// When the line was read, by the wall clock.
    written: UnixMs,
    /// The same by the agent's clock.
    heard_at: UnixMs,
    /// The carrier's exact stamp.
    stamped: Option<When>,
}

impl Local {
    fn of(event: &ProxyEvent) -> Option<Self> {
        let reading = event.undated.filter(|reading| reading.is_local)?;
        Some(Self {
            as_utc: event.at,
            precision_ms: event.precision_ms,
            written: reading.read_at,
            heard_at: reading.heard_at,
            stamped: reading.stamped.filter(|stamp| !stamp.is_local),
        })
    }

    /// The instant and its precision. A carrier's finer stamp that lies within the second, or just after
    /// it, is better.
    fn at_best(self, at: UnixMs) -> (UnixMs, u32) {
        let is_finer = |stamp: &When| {
            stamp.precision_ms < self.precision_ms && (at.0..at.0 + 1200).contains(&stamp.at.0)
        };
        let finer = self.stamped.filter(is_finer);
        finer.map_or((at, self.precision_ms), |stamp| (stamp.at, stamp.precision_ms))
    }

    fn latest(self) -> UnixMs {
        self.written.later(AHEAD)
    }

    /// The instant in a zone; none where it would lie ahead.
    fn in_zone(self, zone: &TimeZone) -> Option<UnixMs> {
        in_zone(self.as_utc, zone, self.latest()).filter(|at| *at <= self.latest())
    }

    fn is_current_in(self, zone: &TimeZone) -> bool {
        self.in_zone(zone).is_some_and(|at| at.later(LATE) >= self.written)
    }

    fn is_recent_in(self, zone: &TimeZone) -> bool {
        self.in_zone(zone).is_some_and(|at| at.later(OLDEST) >= self.written)
    }

    /// How far a zone is from UTC in which this was written just now.
    fn distance(self) -> Option<i64> {
        self.distance_from(self.written)
    }

    fn zone_by_stamp(self) -> Option<TimeZone> {
        fixed(self.distance_from(self.stamped?.at)?)
    }

    fn distance_from(self, instant: UnixMs) -> Option<i64> {
        let distance = self.as_utc.0 as i64 - instant.0 as i64;
        let zone = zone::nearest(distance)?;
        let late = zone - distance;
        (-(AHEAD.as_millis() as i64)..=LATE.as_millis() as i64).contains(&late).then_some(zone)
    }
}

#[cfg(test)]
mod tests;
