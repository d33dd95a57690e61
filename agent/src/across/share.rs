//! What one host may send, so that none starves the others: a stock that runs down with use and is
//! filled up with time.

use crate::time::UnixMs;

/// Bytes that a host publishes a second at most, and at once. After an outage of minutes all that
/// waited goes at once; what an hour or more has left goes at the slower rate.
pub(super) const PUBLISHED: (u64, u64) = (1 << 20, 16 << 20);
/// What a reader allows: somewhat more, since the two clocks differ.
pub(super) const READ: (u64, u64) = (PUBLISHED.0 / 8 * 9, PUBLISHED.1 / 2 * 3);

/// A stock.
#[derive(Debug)]
pub(super) struct Share {
    per_second: u64,
    most: u64,
    left: u64,
    /// When it was last filled up.
    at: UnixMs,
}

impl Share {
    /// A full one.
    pub fn new((per_second, most): (u64, u64)) -> Self {
        Self { per_second, most, left: most, at: UnixMs(0) }
    }

    /// Takes up to `wanted` at `now`, and gives how much there was.
    pub fn take(&mut self, wanted: u64, now: UnixMs) -> u64 {
        let passed = now.0.saturating_sub(self.at.0);
        let gained = passed.saturating_mul(self.per_second) / 1000;
        if gained > 0 {
            self.at = now;
            self.left = self.left.saturating_add(gained).min(self.most);
        }
        let taken = wanted.min(self.left);
        self.left -= taken;
        taken
    }

    /// Takes `wanted` or nothing; whether there was enough.
    pub fn take_whole(&mut self, wanted: u64, now: UnixMs) -> bool {
        let taken = self.take(wanted, now);
        if taken < wanted {
            self.left += taken;
        }
        taken == wanted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_runs_down_and_is_filled_up_with_time() {
        let mut share = Share::new((10, 100));
        assert_eq!(share.take(60, UnixMs(0)), 60);
        assert!(!share.take_whole(41, UnixMs(0)) && share.take_whole(40, UnixMs(0)));
        assert_eq!(share.take(5, UnixMs(99)), 0);
        // Time that is too short to fill anything up is not lost.
        assert_eq!(share.take(5, UnixMs(250)), 2);
        assert_eq!(share.take(5, UnixMs(0)), 0);
        assert_eq!(share.take(u64::MAX, UnixMs(u64::MAX)), 100);
    }
}
