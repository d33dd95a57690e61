//! Segments that were dropped and not seen since: who comes later may be one of them.

use std::{collections::BTreeMap, time::Duration};

use crate::time::UnixMs;

/// When a SYN that was dropped has come again: after a second (RFC 6298, 2.1; `TCP_TIMEOUT_INIT`), the
/// client's timer's and the sample's delay. Each further time it takes twice as long (5.5), or as long as
/// before (`tcp_syn_linear_timeouts`, Linux 6.5).
const COMES_AGAIN: Duration = Duration::from_millis(1050);
/// The longest that a client waits (`TCP_RTO_MAX`).
const LONGEST: Duration = Duration::from_secs(120);

/// All of one listener. Bounded: one entry for each sample and wait, none older than [`LONGEST`].
#[derive(Debug, Default)]
pub(super) struct Waiting(Vec<Returning>);

/// Segments dropped at one time, whose clients had waited alike.
#[derive(Debug)]
struct Returning {
    count: u64,
    /// The longest that they may wait.
    wait: Duration,
    /// When they may have come again, and when they will have if they do.
    may: UnixMs,
    will: UnixMs,
}

/// What became of those that were due in a sample.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fates {
    /// So many of them came.
    pub again: u64,
    /// So many of these were dropped again.
    pub dropped_again: u64,
    /// So many others were dropped for the first time.
    pub first: u64,
}

impl Waiting {
    /// How many may have come again by `now`.
    pub fn due(&self, now: UnixMs) -> u64 {
        let due = self.0.iter().filter(|returning| returning.may <= now);
        due.map(|returning| returning.count).sum()
    }

    /// Takes in the fates of those that were due in a sample that ended `now`; what was dropped in it was
    /// dropped `at` that time.
    pub fn sampled(&mut self, now: UnixMs, fates: Fates, at: UnixMs) {
        let Fates { mut again, mut dropped_again, first } = fates;
        let mut dropped = BTreeMap::from([(COMES_AGAIN, first)]);
        for returning in self.0.iter_mut().filter(|returning| returning.may <= now) {
            let came = returning.count.min(again);
            let lost = came.min(dropped_again);
            again -= came;
            dropped_again -= lost;
            returning.count = if returning.will > now { returning.count - came } else { 0 };
            *dropped.entry(longer(returning.wait)).or_default() += lost;
        }
        *dropped.entry(longer(COMES_AGAIN)).or_default() += dropped_again;
        self.0.extend(dropped.into_iter().map(|(wait, count)| Returning {
            count,
            wait,
            may: at.later(COMES_AGAIN),
            will: at.later(wait),
        }));
        self.0.retain(|returning| returning.count > 0);
    }
}

/// How long who waited so long may wait the next time.
fn longer(wait: Duration) -> Duration {
    (2 * wait).min(LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An hour in which all that is dropped comes again and is dropped again, and more with it.
    #[test]
    fn a_long_storm_is_kept_in_little() {
        let mut waiting = Waiting::default();
        for second in 0..3600 {
            let now = UnixMs(1000 * second);
            let due = waiting.due(now);
            let came = due / 2;
            let fates = Fates { again: came, dropped_again: came, first: 10 };
            waiting.sampled(now, fates, now);
            assert!(waiting.0.len() <= 8 * 120, "{} entries", waiting.0.len());
        }
        let end = UnixMs(1000 * 3600).later(2 * LONGEST);
        let none = Fates { again: 0, dropped_again: 0, first: 0 };
        waiting.sampled(end, none, end);
        assert_eq!(waiting.due(end.later(LONGEST)), 0, "they have given up");
    }
}
