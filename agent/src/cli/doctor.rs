//! `floodmark doctor`: what this host allows.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use nix::sys::utsname::uname;
use serde::Serialize;

use super::{HEALTHY, TROUBLE};
use crate::kernel::{Object, Rung, Standing};

/// Arguments of `floodmark doctor`.
#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Findings {
    version: &'static str,
    kernel: String,
    machine: String,
    signals: Vec<Standing>,
}

/// Attaches everything for a moment, and tells what came of it. Exit status 1 where a signal cannot
/// be had at all.
pub(super) fn doctor(args: &DoctorArgs) -> Result<ExitCode> {
    let system = uname()?;
    let findings = Findings {
        version: env!("CARGO_PKG_VERSION"),
        kernel: system.release().to_string_lossy().into_owned(),
        machine: system.machine().to_string_lossy().into_owned(),
        signals: Object::attach().standings,
    };
    if args.json {
        println!("{}", serde_json::to_string_pretty(&findings)?);
    } else {
        print(&findings);
    }
    let complete = findings.signals.iter().all(|standing| standing.rung != Rung::None);
    Ok(ExitCode::from(if complete { HEALTHY } else { TROUBLE }))
}

fn print(findings: &Findings) {
    println!("floodmark {} on Linux {} {}", findings.version, findings.kernel, findings.machine);
    println!("\n{:<20}{:<12}cannot see", "signal", "rung");
    for standing in &findings.signals {
        println!(
            "{:<20}{:<12}{}",
            standing.signal.name(),
            standing.rung.name(),
            standing.blind_spot
        );
    }
    let mut refusals: Vec<String> = findings
        .signals
        .iter()
        .flat_map(|standing| &standing.refused)
        .map(|refusal| format!("{}: {}", refusal.rung, refusal.reason))
        .collect();
    refusals.dedup();
    if !refusals.is_empty() {
        println!("\nhigher rungs refused by this kernel:");
        refusals.iter().for_each(|refusal| println!("  {refusal}"));
    }
}
