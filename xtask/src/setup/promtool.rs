//! `promtool`, which judges the agent's metrics.
//!
//! Debian ships it inside the Prometheus server's package. Unpacking that package, instead of
//! installing it, brings no service and no thirty web fonts.

use std::{fs, process::Command};

use anyhow::{Context, Result};

use crate::{place, step};

/// Unpacks promtool, unless there is one.
///
/// # Errors
///
/// When the package cannot be fetched.
pub fn ensure() -> Result<()> {
    if place::program("promtool").is_some() {
        return Ok(());
    }
    let unpack = place::target("tools/prometheus");
    fs::create_dir_all(&unpack).with_context(|| format!("create {}", unpack.display()))?;
    step::must(
        "fetch promtool",
        "promtool is in Debian's package prometheus; on other systems put it on the PATH",
        Command::new("sh")
            .args(["-ec", "apt-get download -q prometheus; dpkg-deb -x prometheus_*.deb ."])
            .current_dir(&unpack),
    )?;
    fs::create_dir_all(place::tools())?;
    fs::copy(unpack.join("usr/bin/promtool"), place::tools().join("promtool"))
        .context("copy promtool out of its package")?;
    fs::remove_dir_all(&unpack).with_context(|| format!("remove {}", unpack.display()))
}
