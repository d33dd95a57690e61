//! No attack: what the others are compared with.

use std::{thread, time::Duration};

use anyhow::Result;

use super::{Case, Check, Target};

pub(super) const CASES: &[Case] =
    &[Case { name: "none", attack: "nobody attacks", run: nobody_attacks }];

fn nobody_attacks(target: &Target) -> Result<Vec<Check>> {
    let served = target.serve(&[])?;
    thread::sleep(Duration::from_secs(3));
    let core = served.core_percent(Duration::from_secs(5))?;
    let tick =
        served.metric("floodmark_tick_duration_seconds ", &[])?.into_iter().fold(0.0, f64::max);
    Ok(vec![
        served.answers_health_check(),
        Check::at_most("resident memory", "MiB", served.peak_mib()?, 96.0),
        Check::at_most("processor time", "% of a core", core, 20.0),
        Check::at_most("the last tick", "ms", tick * 1000.0, 250.0),
        Check::that("it says nothing of errors", !served.log()?.contains("ERROR"), "log"),
    ])
}
