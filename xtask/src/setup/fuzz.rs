//! cargo-fuzz, which needs a nightly compiler.

use std::{
    env,
    ffi::OsString,
    process::{Command, Stdio},
};

use anyhow::{Context, Result};

use crate::{build, place, step};

/// The PATH with cargo-fuzz on it.
///
/// # Errors
///
/// When the PATH cannot be put together.
pub fn path() -> Result<OsString> {
    let own = place::target("tools/bin");
    let path = env::var_os("PATH").unwrap_or_default();
    env::join_paths(std::iter::once(own).chain(env::split_paths(&path))).context("make a PATH")
}

/// Installs what is missing.
///
/// # Errors
///
/// When there is no rustup, or a registry fails.
pub fn ensure() -> Result<()> {
    let mut nightly = Command::new("rustup");
    nightly.args(["run", "nightly", "rustc", "--version"]);
    if !succeeds(&mut nightly) {
        step::must(
            "install a nightly compiler",
            "fuzzing needs rustup and a nightly toolchain",
            Command::new("rustup").args([
                "toolchain",
                "install",
                "nightly",
                "--profile",
                "minimal",
            ]),
        )?;
    }
    if !place::target("tools/bin/cargo-fuzz").is_file() {
        step::must(
            "install cargo-fuzz",
            "cargo-fuzz comes from the crates' registry; is it reachable?",
            build::cargo()
                .args(["install", "--quiet", "--locked", "cargo-fuzz", "--root"])
                .arg(place::target("tools")),
        )?;
    }
    Ok(())
}

fn succeeds(command: &mut Command) -> bool {
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}
