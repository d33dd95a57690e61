//! `floodmark doctor`: what this host allows.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{self, Write},
    process::ExitCode,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::Result;
use clap::Args;
use nix::sys::utsname::uname;
use serde::Serialize;

use super::{
    HEALTHY, TROUBLE,
    output::{print, print_json},
};
use crate::kernel::{Heard, KernelSource, Object, Rung, Signal, Standing};

/// Arguments of `floodmark doctor`.
#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Run the self-test: drop handshakes on purpose, in a network namespace of its own, and check that
    /// every signal reports them; takes some seconds
    #[arg(long)]
    canary: bool,
}

#[derive(Serialize)]
struct Findings {
    version: &'static str,
    kernel: String,
    machine: String,
    /// How long it took to load and attach what this kernel allows.
    attach_seconds: f64,
    signals: Vec<Standing>,
    /// Result of the self-test by signal, if it ran.
    #[serde(skip_serializing_if = "Option::is_none")]
    canary: Option<BTreeMap<Signal, Heard>>,
}

/// Attaches everything for a moment, and tells what came of it. Exit status 1 where a signal cannot
/// be had at all, or did not hear the canary.
pub(super) fn doctor(args: &DoctorArgs) -> Result<ExitCode> {
    let system = uname()?;
    let begun = Instant::now();
    let (signals, took, canary) = if args.canary {
        let source = KernelSource::attach_at_most(&[], Rung::Fentry)?;
        let took = begun.elapsed();
        let (signals, heard) = with_canary(source)?;
        (signals, took, Some(heard))
    } else {
        let object = Object::attach(Rung::Fentry);
        (object.standings.clone(), begun.elapsed(), None)
    };
    let findings = Findings {
        version: env!("CARGO_PKG_VERSION"),
        kernel: system.release().to_string_lossy().into_owned(),
        machine: system.machine().to_string_lossy().into_owned(),
        attach_seconds: took.as_secs_f64(),
        signals,
        canary,
    };
    if args.json {
        print_json(&findings)?;
    } else {
        print(&tell(&findings)?)?;
    }
    let heard = findings.canary.iter().flatten().all(|(_, heard)| heard.is_exact());
    let complete = heard && findings.signals.iter().all(|standing| standing.rung != Rung::None);
    Ok(ExitCode::from(if complete { HEALTHY } else { TROUBLE }))
}

/// How each signal is had once the canary has sung, and what was heard of it.
fn with_canary(mut source: KernelSource) -> Result<(Vec<Standing>, BTreeMap<Signal, Heard>)> {
    source.release_canary();
    loop {
        source.sample(&[])?;
        if let Some(heard) = source.heard()? {
            return Ok((source.standings().to_vec(), heard.clone()));
        }
        sleep(Duration::from_millis(200));
    }
}

fn tell(findings: &Findings) -> Result<String, fmt::Error> {
    let mut out = String::new();
    writeln!(
        out,
        "floodmark {} on Linux {} {}",
        findings.version, findings.kernel, findings.machine
    )?;
    writeln!(out, "\n{:<20}{:<12}cannot see", "signal", "rung")?;
    for standing in &findings.signals {
        writeln!(
            out,
            "{:<20}{:<12}{}",
            standing.signal.name(),
            standing.rung.name(),
            standing.blind_spot
        )?;
    }
    writeln!(out, "\nattached in {:.0} ms", 1000.0 * findings.attach_seconds)?;
    for (signal, heard) in findings.canary.iter().flatten() {
        let Heard { happened, heard: times } = heard;
        let verdict = if heard.is_exact() { "ok" } else { "FAILED" };
        writeln!(
            out,
            "self-test: {:<20}{verdict}: saw {times} of {happened} drops",
            signal.name()
        )?;
    }
    let refusals = refusals(&findings.signals);
    if !refusals.is_empty() {
        writeln!(out, "\nbetter rungs that this kernel refuses:")?;
    }
    for ((rung, reason), places) in refusals {
        writeln!(out, "  {rung}: {reason}")?;
        if !places.is_empty() {
            writeln!(out, "    {}", Vec::from_iter(places).join(", "))?;
        }
    }
    Ok(out)
}

type Places<'a> = BTreeSet<&'a str>;

/// The refusals of rungs above the ones taken, each reason once, with the places it was given for.
fn refusals(signals: &[Standing]) -> BTreeMap<(Rung, &str), Places<'_>> {
    let mut by_reason: BTreeMap<(Rung, &str), Places<'_>> = BTreeMap::new();
    for standing in signals {
        for refusal in standing.higher_refused() {
            let places = by_reason.entry((refusal.rung, &refusal.reason)).or_default();
            places.extend(refusal.place.as_deref());
        }
    }
    by_reason
}
