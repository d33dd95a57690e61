//! For how long a reader waits for a host that lags.
//!
//! The fleet's clock goes no further than the slowest host that is waited for, so a host could hold
//! every verdict up. It may do so only for as long as it has been on time before, and never for longer
//! than `--patience`: a newcomer, and one that is always late, hold nobody up.

use std::time::Duration;

/// A host that has told until so long ago is on time. Ticks are a second apart.
const ON_TIME_MS: u64 = 5000;
/// How long a host must have been on time before anybody waits for it.
const PROBATION_MS: u64 = 5000;

/// How punctual one host is. All times are those of the bus while it works, in milliseconds.
#[derive(Debug)]
pub(super) struct Punctuality {
    /// The most that others wait for it.
    patience: u64,
    /// When it was last on time.
    last: Option<u64>,
    /// For how long others wait for it.
    credit: u64,
}

impl Punctuality {
    /// Of a newcomer.
    pub fn new(patience: Duration) -> Self {
        Self { patience: patience.as_millis() as u64, last: None, credit: 0 }
    }

    /// Takes in that at `now` the host has told all that happened until `lag` before.
    pub fn told(&mut self, now: u64, lag: u64) {
        if lag > ON_TIME_MS {
            return;
        }
        let before = self.last.replace(now);
        let since = now.saturating_sub(before.unwrap_or(now));
        self.credit = match since.saturating_sub(ON_TIME_MS) {
            0 => self.credit.saturating_add(since).min(self.patience),
            held_up => self.credit.saturating_sub(held_up),
        };
    }

    /// Whether it was on time a moment ago.
    pub fn is_on_time(&self, now: u64) -> bool {
        self.late(now) == Some(0)
    }

    /// Whether others wait for it at `now`.
    pub fn is_waited_for(&self, now: u64) -> bool {
        self.credit >= PROBATION_MS.min(self.patience)
            && self.late(now).is_some_and(|late| late <= self.credit)
    }

    fn late(&self, now: u64) -> Option<u64> {
        Some(now.saturating_sub(self.last?).saturating_sub(ON_TIME_MS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: u64 = 60_000;

    fn on_time(host: &mut Punctuality, seconds: std::ops::RangeInclusive<u64>) {
        seconds.for_each(|second| host.told(second * 1000, 1000));
    }

    #[test]
    fn a_host_that_was_on_time_is_waited_for_as_long_as_patience_lasts() {
        let mut host = Punctuality::new(Duration::from_millis(PATIENCE));
        on_time(&mut host, 1..=100);
        assert!(host.is_waited_for(100_000 + ON_TIME_MS + PATIENCE));
        assert!(!host.is_waited_for(100_000 + ON_TIME_MS + PATIENCE + 1));
    }

    /// It tells again and again, but only of long ago.
    #[test]
    fn a_host_that_tells_of_long_ago_is_left_behind() {
        let mut host = Punctuality::new(Duration::from_millis(PATIENCE));
        on_time(&mut host, 1..=100);
        (101..=200).for_each(|second| host.told(second * 1000, u64::MAX));
        assert!(!host.is_waited_for(200_000));
        host.told(201_000, 0);
        assert!(host.is_on_time(201_000) && !host.is_waited_for(201_000));
        on_time(&mut host, 202..=206);
        assert!(host.is_waited_for(206_000));
    }

    #[test]
    fn a_newcomer_and_one_that_was_never_on_time_hold_nobody_up() {
        let mut host = Punctuality::new(Duration::from_millis(PATIENCE));
        assert!(!host.is_waited_for(0));
        host.told(1000, 60_000);
        assert!(!host.is_waited_for(1000) && !host.is_on_time(1000));
        on_time(&mut host, 2..=3);
        assert!(host.is_on_time(3000) && !host.is_waited_for(3000));
    }

    #[test]
    fn waiting_that_was_used_up_has_to_be_earned_again() {
        let mut host = Punctuality::new(Duration::from_millis(PATIENCE));
        on_time(&mut host, 1..=30);
        host.told(55_000, 0);
        // 29 s earned, 20 s used.
        assert!(host.is_waited_for(55_000 + ON_TIME_MS + 9000));
        assert!(!host.is_waited_for(55_000 + ON_TIME_MS + 9001));
    }
}
