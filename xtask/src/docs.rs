//! `cargo xtask docs`: documentation that is made from the code.

use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::build;

/// Generate docs/metrics.md from the exported metrics.
#[derive(clap::Args)]
pub struct Args {}

/// Runs the verb. The tests that compare the pages with the code write them where they are told to.
///
/// # Errors
///
/// When cargo cannot be started.
pub fn main(_: &Args) -> Result<ExitCode> {
    let status = build::cargo()
        .args(["test", "--quiet", "--package", "floodmark", "reference"])
        .env("FLOODMARK_WRITE_DOCS", "1")
        .status()
        .context("start cargo")?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
