//! Sets the wall clock of the machine that the cases are played on.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use floodmark::verdict::Verdict;
use nix::{
    sys::time::TimeSpec,
    time::{ClockId, clock_gettime, clock_settime},
};

/// By how many seconds, in the middle of one wave after another; negative: back.
const STEPS: [i64; 2] = [-300, 3900];
/// After the begin of a wave: some connections have failed by then, others wait for their end.
pub const MIDDLE: Duration = Duration::from_millis(1500);

/// Sets the clock in the middle of this wave.
pub fn step(wave: usize) -> Result<()> {
    let now = clock_gettime(ClockId::CLOCK_REALTIME).context("reading the clock")?;
    let then = TimeSpec::new(now.tv_sec() + STEPS[wave % STEPS.len()], now.tv_nsec());
    clock_settime(ClockId::CLOCK_REALTIME, then).context("setting the clock")
}

/// How many verdicts say that the clock was set.
///
/// # Errors
///
/// When none does.
pub fn noted(verdicts: &[Verdict]) -> Result<usize> {
    let noted = verdicts.iter().filter(|verdict| verdict.health.clock_set_ms > 0).count();
    if noted == 0 {
        bail!("the clock was set, and no verdict says so");
    }
    Ok(noted)
}
