//! Keepalive by measurement: nginx without it, then with what the agent recommends, then with a
//! fourth of that, under waves of requests.

use std::{fmt, path::Path, thread, time::Duration};

use anyhow::{Context, Result};
use floodmark::{
    kernel::Counter,
    verdict::{Diagnosis, Sizing},
};
use serde::Serialize;

use super::{
    case::{CASES, Case},
    stage::Stage,
};
use crate::agent::Agent;

/// Requests at once in a wave, and waves.
const AT_ONCE: usize = 24;
const WAVES: usize = 8;

/// What came of it.
#[derive(Debug, Serialize)]
pub(super) struct Keepalive {
    /// What the agent recommends, and why.
    sizing: Sizing,
    /// Requests of each run.
    requests: usize,
    /// Connections that nginx made: without keepalive, with the recommended one, with a fourth of it.
    without: u64,
    with: u64,
    with_a_fourth: u64,
}

impl Keepalive {
    /// With the recommended keepalive nginx connects for the first wave and for no other; with a
    /// fourth it goes on connecting.
    pub(super) fn holds(&self) -> bool {
        let first_wave = AT_ONCE as u64;
        self.without >= self.requests as u64
            && self.with <= first_wave + first_wave / 4
            && self.with_a_fourth > 2 * first_wave
    }
}

impl fmt::Display for Keepalive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (low, high) = self.sizing.rule_of_thumb.unwrap_or_default();
        write!(
            f,
            "keepalive: {} requests in waves of {AT_ONCE}; recommended {} (rule of thumb {low} to \
             {high}); connections made: {} without, {} with it, {} with a fourth of it  {}",
            self.requests,
            self.sizing.keepalive,
            self.without,
            self.with,
            self.with_a_fourth,
            if self.holds() { "holds" } else { "DOES NOT HOLD" }
        )
    }
}

const REUSE: &str = "proxy_http_version 1.1; proxy_set_header Connection \"\";";

pub(super) fn play(agent: &Path) -> Result<Keepalive> {
    let case = Case { app_settings: &[], proxy_settings: &[], ..CASES[0] };
    let mut stage = Stage::new(&case, &format!("{}-keepalive", std::process::id()))?;
    stage.start_keeping_app()?;
    stage.start_nginx(0, "", "")?;
    let watching = Agent::start(agent, Some(&stage.error_log()), &stage.namespaces())?;
    thread::sleep(Duration::from_secs(1));
    let without = waves(&stage)?;
    thread::sleep(Duration::from_secs(2));
    let diagnosis: Diagnosis = watching.finish()?;
    let own = diagnosis.keepalive.into_iter().find(|sizing| sizing.command.starts_with("nginx"));
    let sizing = own.context("nothing was recommended for nginx")?;
    let mut with = |size: u32| {
        stage.start_nginx(0, &format!("keepalive {size};"), REUSE)?;
        waves(&stage)
    };
    let (recommended, fourth) = (with(sizing.keepalive)?, with((sizing.keepalive / 4).max(1))?);
    Ok(Keepalive {
        sizing,
        requests: AT_ONCE * WAVES,
        without,
        with: recommended,
        with_a_fourth: fourth,
    })
}

/// Sends the waves; how many connections the application's host took for them.
fn waves(stage: &Stage) -> Result<u64> {
    let before = stage.counter(Counter::PassiveOpens)?;
    for _ in 0..WAVES {
        let failed = stage.requests(AT_ONCE)?;
        anyhow::ensure!(failed == 0, "{failed} requests were not answered 200");
        thread::sleep(Duration::from_millis(200));
    }
    Ok(stage.counter(Counter::PassiveOpens)? - before)
}
