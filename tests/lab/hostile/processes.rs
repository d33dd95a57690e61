//! Processes that any user can start: programs and memory that are slow or endless to look at, and more
//! listeners and namespaces than anybody has use for.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use super::{
    Case, Check, Target,
    target::{Attacker, Served},
};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "elf-sections",
        attack: "a program whose section table claims 40 million entries listens",
        run: elf_sections,
    },
    Case {
        name: "hung-program",
        attack: "the programs of five listening processes are on a file system that hangs",
        run: hung_program,
    },
    Case {
        name: "crowd",
        attack: "one user opens 40000 listeners and 300 network namespaces",
        run: crowd,
    },
];

/// Section headers that the program claims, of 64 bytes each in a sparse file.
const SECTIONS: &str = "40000000";
const LISTENERS: &str = "40000";
const NAMESPACES: &str = "300";
/// Resident memory, and a tick.
const MIB: f64 = 96.0;
const TICK_MS: f64 = 250.0;
/// The same under a crowd, of the build for tests: the goal is 250 ms, which it misses at times.
const CROWD_TICK_MS: f64 = 600.0;
/// How long an attacker may take until it says that it is ready.
const PATIENCE: Duration = Duration::from_secs(60);

fn elf_sections(target: &Target) -> Result<Vec<Check>> {
    let served = target.serve(&[])?;
    let attacker = target.python(include_str!("elf_sections.py"), &[SECTIONS])?;
    let port = ready(target, &attacker)?;
    let listener = format!("listener=\"127.0.0.1:{port}\"");
    let is_named = until(|| Ok(owners(&served, &listener)?.contains("command=\"bomb\"")))?;
    let mut checks = costs(&served, Duration::from_secs(8), TICK_MS)?;
    checks.push(Check::that("the program's listener has its owner", is_named, listener));
    Ok(checks)
}

fn hung_program(target: &Target) -> Result<Vec<Check>> {
    // Ends after the attacker: a thread that waits for the file system ends when that does, and the
    // agent not before.
    let served;
    let attacker = target.python(include_str!("hung_program.py"), &["5"])?;
    let ports = ready(target, &attacker)?;
    served = target.serve(&[])?;
    let begun = samples(&served)?;
    let mut checks = costs(&served, Duration::from_secs(12), TICK_MS)?;
    let ticks = samples(&served)? - begun;
    checks.push(Check::that("ticks go on", ticks >= 8.0, format!("{ticks:.0} s in 12 s")));
    let mut named = 0;
    for port in ports.split(' ') {
        let owner = owners(&served, &format!("listener=\"127.0.0.1:{port}\""))?;
        named += usize::from(owner.contains("command=\"program\""));
    }
    checks.push(Check::that("each listener has its owner", named == 5, format!("{named} of 5")));
    let count = |name: &str, labels: &[&str]| -> Result<f64> {
        Ok(served.metric(name, labels)?.into_iter().sum())
    };
    let given_up = count("floodmark_owner_lookups_failed_total", &["reason=\"timeout\""])?;
    let is_given_up = (1.0..=2.0).contains(&given_up);
    checks.push(Check::that("one or two are given up", is_given_up, given_up.to_string()));
    let skipped = count("floodmark_owner_lookups_failed_total", &["reason=\"skipped\""])?;
    checks.push(Check::that("the others are not tried", skipped >= 3.0, skipped.to_string()));
    let stuck = count("floodmark_owner_lookups_stuck", &[])?;
    checks.push(Check::at_most("stuck threads", "", stuck, 2.0));
    Ok(checks)
}

fn crowd(target: &Target) -> Result<Vec<Check>> {
    let attacker = target.python(include_str!("crowd.py"), &[LISTENERS, NAMESPACES])?;
    let listener = format!("listener=\"{}\"", ready(target, &attacker)?);
    let served = target.serve(&[])?;
    let mut checks = costs(&served, Duration::from_secs(30), CROWD_TICK_MS)?;
    let queue = served.metric("floodmark_listener_accept_queue_occupancy_ratio", &[&listener])?;
    let is_full = queue.iter().any(|share| *share >= 1.0);
    checks.push(Check::that("the listener in trouble is shown", is_full, format!("{queue:?}")));
    let left_out = served.metric("floodmark_inventory_left_out", &["kind=\"tcp\""])?;
    let left_out = left_out.into_iter().sum::<f64>();
    checks.push(Check::that("what is left out is counted", left_out > 0.0, left_out.to_string()));
    let said = served.log()?.matches("beyond the limits").count();
    checks.push(Check::that("it is said once", said == 1, format!("{said} lines")));
    Ok(checks)
}

/// What the attacker wrote into the file `ready` when it was.
fn ready(target: &Target, attacker: &Attacker) -> Result<String> {
    let file = target.directory().join("ready");
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        if let Ok(text) = fs::read_to_string(&file) {
            return Ok(text);
        }
        thread::sleep(Duration::from_millis(100));
    }
    anyhow::bail!("the attacker, process {}, did not get ready", attacker.pid())
}

/// The line of a listener that says who owns it.
fn owners(served: &Served, listener: &str) -> Result<String> {
    let page = served.get("/metrics")?;
    let mut lines = page.lines().filter(|line| line.starts_with("floodmark_listener_info"));
    Ok(lines.find(|line| line.contains(listener)).unwrap_or_default().to_owned())
}

fn until(mut is_true: impl FnMut() -> Result<bool>) -> Result<bool> {
    for _ in 0..50 {
        if is_true()? {
            return Ok(true);
        }
        thread::sleep(Duration::from_millis(200));
    }
    Ok(false)
}

/// The time of the last sample, in seconds.
fn samples(served: &Served) -> Result<f64> {
    let at = served.metric("floodmark_last_sample_timestamp_seconds", &[])?;
    at.first().copied().context("no sample")
}

/// The worst tick seen in this time, memory, and that it answers.
fn costs(served: &Served, length: Duration, tick_ms: f64) -> Result<Vec<Check>> {
    let begun = Instant::now();
    let mut worst: f64 = 0.0;
    while begun.elapsed() < length {
        let tick = served.metric("floodmark_tick_duration_seconds", &[])?;
        worst = tick.into_iter().fold(worst, f64::max);
        thread::sleep(Duration::from_millis(400));
    }
    Ok(vec![
        served.answers_health_check(),
        Check::at_most("resident memory", "MiB", served.peak_mib()?, MIB),
        Check::at_most("the worst tick", "ms", worst * 1000.0, tick_ms),
    ])
}
