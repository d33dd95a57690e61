//! Doing things as root: directly, or through sudo.

use std::{
    ffi::OsStr,
    fs,
    os::unix::fs::MetadataExt,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

use crate::place;

/// A command that runs `program` as root with this environment.
///
/// # Errors
///
/// When this user is not root and sudo does not let them be; the error says what to run, `by_hand`.
pub fn command(program: impl AsRef<OsStr>, by_hand: &str) -> Result<Command> {
    if is_root()? {
        return Ok(Command::new(program));
    }
    if place::program("sudo").is_none() {
        bail!("this needs root and sudo is not installed; run as root: {by_hand}");
    }
    // Asks for the password now, while no spinner is in its way.
    let granted = Command::new("sudo").arg("-v").stdout(Stdio::null()).status()?;
    if !granted.success() {
        bail!("this needs root and sudo refused; run as root: {by_hand}");
    }
    let mut command = Command::new("sudo");
    command.arg("-E").arg("--").arg(program);
    Ok(command)
}

fn is_root() -> Result<bool> {
    // The files below /proc/PID belong to the process's effective user, proc(5).
    Ok(fs::metadata("/proc/self").context("read /proc/self")?.uid() == 0)
}
