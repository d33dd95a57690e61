//! crossplane, nginx's own parser of configurations, which the lint's is compared with; from the Python
//! package index, in an environment of its own.

use std::process::{Command, Stdio};

use anyhow::Result;

use crate::{place, step};

const REQUIREMENT: &str = "crossplane==0.5.8";

/// Installs it, unless it is there.
///
/// # Errors
///
/// When Python or the package index fails.
pub fn ensure() -> Result<()> {
    let environment = place::target("tools/crossplane");
    let python = environment.join("bin/python");
    let mut import = Command::new(&python);
    import.args(["-c", "import crossplane"]).stdout(Stdio::null()).stderr(Stdio::null());
    if import.status().is_ok_and(|status| status.success()) {
        return Ok(());
    }
    step::must(
        "make a Python environment for crossplane",
        "install Debian's python3-venv",
        // Debian's own Python, because python3-venv serves no other on the PATH.
        Command::new("/usr/bin/python3").args(["-m", "venv", "--clear"]).arg(&environment),
    )?;
    step::must(
        "install crossplane",
        "crossplane comes from the Python package index; is it reachable?",
        Command::new(python).args(["-m", "pip", "install", "--quiet", REQUIREMENT]),
    )?;
    Ok(())
}
