//! Waiting until the machine has nothing else to do.

use std::{fs, thread, time::Duration};

use anyhow::{Context, Result, bail};

const LOOK: Duration = Duration::from_secs(1);
const LOOKS: u32 = 120;
/// Ticks (USER_HZ, 100 per second) of each processor's second that must be idle.
const IDLE_TICKS: u64 = 95;

/// Waits for a second in which one processor at least did next to nothing.
///
/// # Errors
///
/// When none comes.
pub fn wait() -> Result<()> {
    let mut before = idle_ticks()?;
    for _ in 0..LOOKS {
        thread::sleep(LOOK);
        let now = idle_ticks()?;
        if now - before >= IDLE_TICKS {
            return Ok(());
        }
        before = now;
    }
    bail!("the machine is never idle")
}

/// The fourth number of the first line, summed over the processors (proc_stat(5)).
fn idle_ticks() -> Result<u64> {
    let stat = fs::read_to_string("/proc/stat").context("reading /proc/stat")?;
    let idle = stat.lines().next().and_then(|line| line.split_whitespace().nth(4));
    idle.and_then(|ticks| ticks.parse().ok()).context("no idle time in /proc/stat")
}
