//! The demo's application server: Tornado from the Python package index, in an environment of its
//! own.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context, Result};

use crate::{place, step};

const REQUIREMENT: &str = "tornado>=6,<7";

/// The environment's interpreter.
pub fn python() -> PathBuf {
    place::target("lab/venv/bin/python")
}

/// Makes the environment, unless it is there.
///
/// # Errors
///
/// When Python or the package index fails.
pub fn ensure() -> Result<()> {
    if imports_tornado() {
        return Ok(());
    }
    let lab = place::target("lab");
    fs::create_dir_all(&lab).with_context(|| format!("create {}", lab.display()))?;
    step::must(
        "make a Python environment for the lab",
        "install Debian's python3-venv",
        // Debian's own Python, because python3-venv serves no other on the PATH.
        Command::new("/usr/bin/python3").args(["-m", "venv", "--clear"]).arg(lab.join("venv")),
    )?;
    step::must(
        "install Tornado for the lab",
        "Tornado comes from the Python package index; is it reachable?",
        Command::new(python()).args(["-m", "pip", "install", "--quiet", REQUIREMENT]),
    )?;
    Ok(())
}

fn imports_tornado() -> bool {
    let mut import = Command::new(python());
    import.args(["-c", "import tornado"]).stdout(Stdio::null()).stderr(Stdio::null());
    import.status().is_ok_and(|status| status.success())
}
