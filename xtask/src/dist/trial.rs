//! The package on a fresh Debian 12; `trial.sh` says what is done.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result};

use crate::{place, root, step};

/// Unpacks a Debian 12 with these packages, unless it is there.
///
/// # Errors
///
/// When Debian cannot be fetched.
pub fn debian(system: &Path, packages: &str) -> Result<()> {
    if system.join("usr/bin/dpkg").exists() {
        return Ok(());
    }
    let mut command = root::command("debootstrap", "cargo xtask dist --try")?;
    let include = format!("--include={packages}");
    step::must(
        "dist: unpack Debian 12",
        "Debian's archive must be reachable",
        command.args(["--variant=minbase", &include, "bookworm"]).arg(system),
    )?;
    Ok(())
}

/// Tries the package in a Debian 12 below `target/dist`.
///
/// # Errors
///
/// When Debian cannot be fetched, or the trial fails.
pub fn run(package: &Path) -> Result<()> {
    let system = place::target("dist/debian");
    debian(&system, "adduser")?;
    let script = place::target("dist/trial.sh");
    fs::write(&script, include_str!("trial.sh")).context("write the trial's script")?;
    let mut trial: Command = root::command("unshare", "cargo xtask dist --try")?;
    trial.args(["--mount", "env"]);
    trial.arg(format!("ROOT={}", system.display())).arg(format!("DEB={}", package.display()));
    let said = step::must("dist: try the package", "", trial.args(["bash", "-eu"]).arg(&script))?;
    said.lines().filter(|line| line.starts_with("trial: ")).for_each(|line| println!("{line}"));
    Ok(())
}
