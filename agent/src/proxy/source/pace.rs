//! How fast messages are taken from whoever may send them.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, sleep_until};

/// Messages taken in a period, from all senders of a source together.
const MOST: u32 = 50_000;
const PERIOD: Duration = Duration::from_secs(1);

/// Bounds the messages that a source takes: a flood must not cost more than so much of a processor.
/// Who comes too fast waits: a stream at its sender, datagrams in the socket's buffer, and what that
/// does not hold is dropped and counted by the kernel.
#[derive(Debug, Default)]
pub(super) struct Pace(Mutex<Option<(Instant, u32)>>);

impl Pace {
    /// Waits until one more message may be taken.
    pub(super) async fn turn(&self) {
        while let Some(next) = self.next() {
            sleep_until(next).await;
        }
    }

    /// When the next period begins, where this one is used up.
    fn next(&self) -> Option<Instant> {
        let now = Instant::now();
        let mut period = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (began, taken) = period.get_or_insert((now, 0));
        if now >= *began + PERIOD {
            (*began, *taken) = (now, 0);
        }
        if *taken == MOST {
            return Some(*began + PERIOD);
        }
        *taken += 1;
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_too_many_waits_for_the_next_period() {
        let pace = Pace::default();
        let began = Instant::now();
        for _ in 0..MOST {
            pace.turn().await;
        }
        assert_eq!(began.elapsed(), Duration::ZERO);
        pace.turn().await;
        assert_eq!(began.elapsed(), PERIOD);
    }
}
