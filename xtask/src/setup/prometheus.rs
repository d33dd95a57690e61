//! Prometheus and Alertmanager for the lab, and the tools that judge metrics, rules and
//! configurations.
//!
//! Debian's packages are unpacked, not installed: that brings no service that starts by itself and no
//! thirty web fonts.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context, Result};

use crate::{place, step};

const TOOLS: [&str; 2] = ["promtool", "amtool"];

/// Where the packages are unpacked: a root with `usr/bin` and `usr/share`.
pub fn root() -> PathBuf {
    place::target("tools/prometheus")
}

/// Unpacks them, unless that was done.
///
/// # Errors
///
/// When a package cannot be fetched.
pub fn ensure() -> Result<()> {
    let root = root();
    let programs = ["prometheus", "prometheus-alertmanager"];
    let is_there = |program: &str| root.join("usr/bin").join(program).is_file();
    if programs.into_iter().all(is_there) && TOOLS.iter().all(|t| place::program(t).is_some()) {
        return Ok(());
    }
    fs::create_dir_all(&root).with_context(|| format!("create {}", root.display()))?;
    step::must(
        "fetch Prometheus and Alertmanager",
        "they are Debian's packages prometheus and prometheus-alertmanager; is its mirror reachable?",
        Command::new("sh")
            .args([
                "-ec",
                "apt-get download -q prometheus prometheus-alertmanager; \
                 for deb in *.deb; do dpkg-deb -x \"$deb\" .; rm \"$deb\"; done",
            ])
            .current_dir(&root),
    )?;
    fs::create_dir_all(place::tools())?;
    for tool in TOOLS {
        fs::copy(root.join("usr/bin").join(tool), place::tools().join(tool))
            .with_context(|| format!("copy {tool} out of its package"))?;
    }
    Ok(())
}
