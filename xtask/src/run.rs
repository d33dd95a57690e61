//! `cargo xtask run`: from a fresh clone to a running agent.

use std::{ffi::OsString, os::unix::process::CommandExt, process::ExitCode};

use anyhow::{Context, Result};

use crate::{
    build, root,
    setup::{self, Group},
};

/// Install what is missing, build, and start the agent on this host.
#[derive(clap::Args)]
pub struct Args {
    /// Arguments for `floodmark run`.
    #[arg(last = true)]
    arguments: Vec<OsString>,
}

/// Becomes the agent; returns only when it cannot.
///
/// # Errors
///
/// When something needed cannot be installed, the build fails, or there is no way to be root.
pub fn main(args: &Args) -> Result<ExitCode> {
    setup::ensure(&[Group::Build])?;
    let agent = build::release("floodmark", "floodmark")?;
    let by_hand = format!("{} run", agent.display());
    let error = root::command(&agent, &by_hand)?.arg("run").args(&args.arguments).exec();
    Err(error).with_context(|| format!("start {}", agent.display()))
}
