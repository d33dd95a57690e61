//! The program, its Debian package and its bill of materials, from one source tree.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

use super::{cargo_home, must};
use crate::{build, place, setup::dist::TARGET};

/// The linker and compiler of C that go with the target.
const RUSTFLAGS: &str = "CARGO_TARGET_X86_64_UNKNOWN_LINUX_MUSL_RUSTFLAGS";

/// What git says of changes that a clone would not have.
const CHANGES: [&str; 3] = ["status", "--porcelain", "--untracked-files=no"];

fn git(tree: &Path, arguments: &[&str]) -> Result<String> {
    let output = Command::new("git").args(arguments).current_dir(tree).output();
    Ok(String::from_utf8_lossy(&output.context("start git")?.stdout).trim().to_owned())
}

/// A source tree, and where it is built.
pub struct Source {
    pub tree: PathBuf,
    /// Seconds since 1970 of the last commit: the only date in what is made.
    pub epoch: String,
}

impl Source {
    /// This repository.
    ///
    /// # Errors
    ///
    /// When git does not say when its last commit was made.
    pub fn here() -> Result<Self> {
        Self::at(place::workspace().to_owned())
    }

    /// A new clone of this repository's last commit.
    ///
    /// # Errors
    ///
    /// When git fails, or there are changes that a clone would not have.
    pub fn clone_of_head(to: &Path) -> Result<Self> {
        let changed = git(place::workspace(), &CHANGES)?;
        ensure!(
            changed.is_empty(),
            "commit first; a clone would lack what is not committed:\n{changed}"
        );
        if to.exists() {
            fs::remove_dir_all(to).with_context(|| format!("remove {}", to.display()))?;
        }
        let mut clone = Command::new("git");
        clone.args(["clone", "--quiet", "--shared"]).arg(place::workspace()).arg(to);
        must("dist: clone", &mut clone)?;
        Self::at(to.to_owned())
    }

    fn at(tree: PathBuf) -> Result<Self> {
        let epoch = git(&tree, &["log", "-1", "--format=%ct"])?;
        ensure!(!epoch.is_empty(), "{} is no git repository with commits", tree.display());
        Ok(Self { tree, epoch })
    }

    /// The last commit.
    ///
    /// # Errors
    ///
    /// When git cannot be started.
    pub fn commit(&self) -> Result<String> {
        git(&self.tree, &["rev-parse", "HEAD"])
    }

    /// Whether there are changes that no commit has.
    ///
    /// # Errors
    ///
    /// When git cannot be started.
    pub fn has_changes(&self) -> Result<bool> {
        Ok(!git(&self.tree, &CHANGES)?.is_empty())
    }

    /// Cargo in this tree, such that what it makes does not depend on where the tree is.
    fn cargo(&self) -> Result<Command> {
        let mut cargo = build::cargo();
        let remap = |from: &Path, to: &str| format!("--remap-path-prefix={}={to}", from.display());
        let flags = [
            "-Ctarget-feature=+crt-static".to_owned(),
            remap(&self.tree, "floodmark"),
            remap(&cargo_home(), "cargo"),
        ];
        cargo
            .current_dir(&self.tree)
            .env(RUSTFLAGS, flags.join(" "))
            .env("SOURCE_DATE_EPOCH", &self.epoch)
            .env("CARGO_TARGET_DIR", self.target())
            .env("PATH", place::path_with_tools()?);
        Ok(cargo)
    }

    fn target(&self) -> PathBuf {
        self.tree.join("target")
    }

    /// Builds the program.
    ///
    /// # Errors
    ///
    /// When the build fails.
    pub fn program(&self) -> Result<PathBuf> {
        let mut cargo = self.cargo()?;
        cargo.args(["build", "--locked", "--profile", "dist", "--target", TARGET]);
        cargo.args(["--package", "floodmark", "--bin", "floodmark"]);
        must(&format!("dist: build in {}", self.tree.display()), &mut cargo)?;
        Ok(self.target().join(TARGET).join("dist/floodmark"))
    }

    /// Has the program write its manual pages and completions, where the package looks for them.
    fn pages(&self, program: &Path) -> Result<()> {
        let extra = self.target().join("dist/extra");
        fs::create_dir_all(&extra).with_context(|| format!("create {}", extra.display()))?;
        let said = |arguments: &[&OsStr]| {
            let output = Command::new(program).args(arguments).output()?;
            ensure!(output.status.success(), "{arguments:?}: {}", output.status);
            Ok(output.stdout)
        };
        said(&["man".as_ref(), "--directory".as_ref(), extra.join("man").as_os_str()])?;
        for shell in ["bash", "zsh", "fish"] {
            fs::write(extra.join(shell), said(&["completions".as_ref(), shell.as_ref()])?)?;
        }
        Ok(())
    }

    /// Makes the Debian package of the program built before.
    ///
    /// # Errors
    ///
    /// When cargo-deb fails.
    pub fn package(&self, program: &Path, out: &Path) -> Result<()> {
        self.pages(program)?;
        let mut cargo = self.cargo()?;
        cargo.args(["deb", "--no-build", "--no-strip", "--package", "floodmark"]);
        cargo.args(["--profile", "dist", "--target", TARGET, "--output"]).arg(out);
        must("dist: Debian package", &mut cargo)
    }

    /// Writes what the program is made of, as CycloneDX.
    ///
    /// # Errors
    ///
    /// When cargo-cyclonedx fails.
    pub fn bill_of_materials(&self, out: &Path) -> Result<()> {
        let mut cargo = self.cargo()?;
        let manifest = self.tree.join("agent/Cargo.toml");
        cargo.args(["cyclonedx", "--format", "json", "--target", TARGET, "--no-build-deps"]);
        cargo.arg("--manifest-path").arg(manifest);
        must("dist: bill of materials", &mut cargo)?;
        // It lies beside every member of the workspace; only the agent's is shipped.
        for member in ["agent", "agent-common", "agent-ebpf", "tests", "tests/guest-init", "xtask"]
        {
            let directory = self.tree.join(member);
            for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
                let path = entry.path();
                if !path.to_string_lossy().ends_with(".cdx.json") {
                    continue;
                }
                if member == "agent" {
                    let text = fs::read_to_string(&path)?
                        .replace(&self.tree.display().to_string(), "floodmark");
                    fs::write(out.join("floodmark.cdx.json"), text)?;
                }
                fs::remove_file(&path)?;
            }
        }
        ensure!(
            out.join("floodmark.cdx.json").exists(),
            "cargo-cyclonedx wrote nothing for the agent"
        );
        Ok(())
    }
}
