//! `cargo xtask manifests`: the Helm chart and what kustomize takes, checked without a cluster.

use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

use crate::{place, setup::manifests};

/// Render the Helm chart, validate it against Kubernetes' schemas, and compare it with deploy/kustomize.
#[derive(clap::Args)]
pub struct Args {
    /// Generate deploy/kustomize.
    #[arg(long)]
    write: bool,
}

/// Runs the verb.
///
/// # Errors
///
/// When what it takes cannot be installed.
pub fn main(args: &Args) -> Result<ExitCode> {
    manifests::ensure()?;
    let mut check = Command::new(manifests::python());
    check.arg(place::workspace().join("deploy/check.py"));
    if args.write {
        check.arg("--write");
    }
    let status = check.status().context("start Python")?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
