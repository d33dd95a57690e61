//! The package on a fresh Debian 12; `trial.sh` says what is done.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result};

use super::names;
use crate::{place, root, step};

/// Unpacks a Debian 12 below `target/dist`, once, and tries the package of `out` in it.
///
/// # Errors
///
/// When Debian cannot be fetched, or the trial fails.
pub fn run(out: &Path) -> Result<()> {
    let system = place::target("dist/debian");
    if !system.join("usr/bin/dpkg").exists() {
        let debootstrap = ["--variant=minbase", "--include=adduser", "bookworm"];
        let mut command = root::command("debootstrap", "cargo xtask dist --try")?;
        step::must(
            "dist: unpack Debian 12",
            "Debian's archive must be reachable",
            command.args(debootstrap).arg(&system),
        )?;
    }
    let package = names(out)?.into_iter().find(|name| name.ends_with(".deb"));
    let package = out.join(package.context("no package was built")?);
    let script = place::target("dist/trial.sh");
    fs::write(&script, include_str!("trial.sh")).context("write the trial's script")?;
    let mut trial: Command = root::command("unshare", "cargo xtask dist --try")?;
    trial.args(["--mount", "env"]);
    trial.arg(format!("ROOT={}", system.display())).arg(format!("DEB={}", package.display()));
    let said = step::must("dist: try the package", "", trial.args(["bash", "-eu"]).arg(&script))?;
    said.lines().filter(|line| line.starts_with("trial: ")).for_each(|line| println!("{line}"));
    Ok(())
}
