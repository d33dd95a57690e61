//! Parts of Debian packages, without the rest: data without its program.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context, Result};

use crate::{place, step};

/// A folder of a package.
pub struct Part {
    package: &'static str,
    /// Where it lies in the package.
    path: &'static str,
    /// Where it goes below `target/`.
    at: &'static str,
}

/// Lines of some hundred programs' logs, which fail2ban's tests read.
pub const OTHERS_LOGS: Part = Part {
    package: "fail2ban",
    path: "usr/lib/python3/dist-packages/fail2ban/tests/files/logs",
    at: "tools/others-logs",
};

impl Part {
    /// Where it is, fetched unless that was done.
    ///
    /// # Errors
    ///
    /// When the package cannot be fetched, or has no such part.
    pub fn ensure(&self) -> Result<PathBuf> {
        let at = place::target(self.at);
        if at.exists() {
            return Ok(at);
        }
        let Self { package, path, .. } = self;
        let scratch = place::target("tools").join(format!("part-of-{package}"));
        fs::create_dir_all(&scratch).with_context(|| format!("create {}", scratch.display()))?;
        step::must(
            &format!("fetch a part of {package}"),
            &format!("it is in Debian's package {package}; is its mirror reachable?"),
            Command::new("sh")
                .args([
                    "-ec",
                    "apt-get download -q \"$1\"; dpkg-deb --fsys-tarfile ./*.deb | tar -x \"./$2\"",
                ])
                .args(["sh", package, path])
                .current_dir(&scratch),
        )?;
        fs::create_dir_all(place::tools())?;
        fs::rename(scratch.join(path), &at).with_context(|| format!("make {}", at.display()))?;
        fs::remove_dir_all(&scratch)?;
        Ok(at)
    }
}
