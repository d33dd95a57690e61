//! By how much a host's clock differs from the bus', measured as NTP does (RFC 5905, section 8): a
//! message is sent, the server stamps it as it stores it, and the acknowledgement comes back. The
//! server's stamp lies between the two readings of the host's clock, so their middle is wrong by no
//! more than half the time between; of the last exchanges the shortest is believed.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    str::FromStr,
    time::Duration,
};

use anyhow::{Context, Error, Result};

use crate::time::UnixMs;

/// Exchanges remembered: at one a second, what a clock drifts meanwhile (500 ppm at most, as far as
/// the kernel corrects one) is less than the resolution of the time stamps times 32.
const REMEMBERED: usize = 64;
/// How much that is.
const DRIFT: Duration = Duration::from_millis(32);
/// Stamps kept until the exchange that they belong to is told of.
const STAMPS: usize = 256;
/// Time stamps are whole milliseconds, at either end.
const RESOLUTION_MS: u64 = 1;
/// How wrong a clock is taken to be that no exchange has been told of yet.
pub const UNMEASURED: Duration = Duration::from_secs(1);

/// A message and its acknowledgement, by the clock of the host that sent it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// The message's number in the stream.
    pub sequence: u64,
    /// When it was sent.
    pub sent: UnixMs,
    /// When its acknowledgement came.
    pub acknowledged: UnixMs,
}

impl fmt::Display for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.sequence, self.sent.0, self.acknowledged.0)
    }
}

impl FromStr for Exchange {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut numbers = text.split(' ').map(str::parse::<u64>);
        let mut next = || numbers.next().context("an exchange has three numbers");
        let (sequence, sent, acknowledged) = (next()??, next()??, next()??);
        Ok(Self { sequence, sent: UnixMs(sent), acknowledged: UnixMs(acknowledged) })
    }
}

/// By how much a clock differs from the bus'.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offset {
    /// What is to be added to its time, in milliseconds.
    pub ahead_ms: i64,
    /// How wrong that may be.
    pub error: Duration,
}

/// What is known of one host's clock.
#[derive(Debug, Default)]
pub struct Clock {
    stamps: BTreeMap<u64, UnixMs>,
    measured: VecDeque<Offset>,
}

impl Clock {
    /// Takes in when the server stored a message of the host.
    pub fn stored(&mut self, sequence: u64, at: UnixMs) {
        self.stamps.insert(sequence, at);
        if self.stamps.len() > STAMPS {
            self.stamps.pop_first();
        }
    }

    /// Takes in what the host tells of such a message. True if it contradicts what was measured before, and
    /// so one of the two clocks was set since.
    pub fn exchanged(&mut self, exchange: Exchange) -> bool {
        let Exchange { sequence, sent, acknowledged } = exchange;
        let Some(stored) = self.stamps.remove(&sequence) else { return false };
        let Some(took) = acknowledged.0.checked_sub(sent.0) else { return false };
        let middle = sent.0 + took / 2;
        // No clock is so wrong that the difference has no room.
        let (Ok(stored), Ok(middle)) = (i64::try_from(stored.0), i64::try_from(middle)) else {
            return false;
        };
        let ahead_ms = stored - middle;
        let error = Duration::from_millis(took.div_ceil(2) + RESOLUTION_MS);
        let is_other = |known: &Offset| {
            let apart = Duration::from_millis(known.ahead_ms.abs_diff(ahead_ms));
            apart > known.error + error + DRIFT
        };
        let was_set = self.measured.iter().any(is_other);
        if was_set {
            self.measured.clear();
        }
        self.measured.push_back(Offset { ahead_ms, error });
        if self.measured.len() > REMEMBERED {
            self.measured.pop_front();
        }
        was_set
    }

    /// Forgets what was measured: the clock was set since.
    pub fn mistrust(&mut self) {
        self.measured.clear();
    }

    /// The best measurement; none yet is no difference, and a large error.
    pub fn offset(&self) -> Offset {
        let best = self.measured.iter().min_by_key(|offset| offset.error).copied();
        best.unwrap_or(Offset { ahead_ms: 0, error: UNMEASURED })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A host whose clock is 5 s slow, on a bus at a distance of `there` and `back`.
    fn exchange(clock: &mut Clock, sequence: u64, there: u64, back: u64) -> bool {
        let sent = UnixMs(1_000_000 + sequence * 1000);
        clock.stored(sequence, UnixMs(sent.0 + 5000 + there));
        let acknowledged = UnixMs(sent.0 + there + back);
        clock.exchanged(Exchange { sequence, sent, acknowledged })
    }

    #[test]
    fn the_shortest_exchange_is_believed_and_its_error_bounds_the_truth() {
        let mut clock = Clock::default();
        assert_eq!(clock.offset().error, UNMEASURED);
        for (sequence, there, back) in [(1, 300, 20), (2, 3, 5), (3, 40, 900)] {
            exchange(&mut clock, sequence, there, back);
            let Offset { ahead_ms, error } = clock.offset();
            assert!(ahead_ms.abs_diff(5000) <= error.as_millis() as u64, "{ahead_ms} {error:?}");
        }
        assert_eq!(clock.offset(), Offset { ahead_ms: 4999, error: Duration::from_millis(5) });
    }

    #[test]
    fn a_step_of_a_clock_is_followed_at_once() {
        let mut clock = Clock::default();
        for sequence in 1..=64 {
            assert!(!exchange(&mut clock, sequence, sequence % 3, 40 * (sequence % 5)));
        }
        let sent = UnixMs(2_000_000);
        clock.stored(65, UnixMs(sent.0 + 7));
        let acknowledged = UnixMs(sent.0 + 200);
        assert!(clock.exchanged(Exchange { sequence: 65, sent, acknowledged }));
        let error = Duration::from_millis(101);
        assert_eq!(clock.offset(), Offset { ahead_ms: -93, error });
        assert!(!clock.exchanged(Exchange { sequence: 65, sent, acknowledged }));
    }

    #[test]
    fn an_exchange_of_another_message_tells_nothing() {
        let mut clock = Clock::default();
        clock.stored(1, UnixMs(10));
        clock.exchanged("2 5 6".parse().unwrap());
        clock.exchanged("1 6 5".parse().unwrap());
        assert_eq!(clock.offset().error, UNMEASURED);
        // More than there is room for in the difference of two times.
        for text in ["1 9223372036854775808 9223372036854775808", "1 0 18446744073709551615"] {
            clock.stored(1, UnixMs(10));
            clock.exchanged(text.parse().unwrap());
            let Offset { ahead_ms, error } = clock.offset();
            assert!(ahead_ms.unsigned_abs() <= u64::MAX / 2 && error >= UNMEASURED, "{text}");
        }
        assert!("1 2".parse::<Exchange>().is_err() && "1 2 x".parse::<Exchange>().is_err());
        let exchange = Exchange { sequence: 1, sent: UnixMs(2), acknowledged: UnixMs(3) };
        assert_eq!(exchange.to_string().parse::<Exchange>().unwrap(), exchange);
    }
}
