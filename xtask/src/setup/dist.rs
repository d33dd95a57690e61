//! What packages are made with, and tried with.

use std::process::Command;

use anyhow::Result;

use super::packages::Package;
use crate::{build, place, step};

/// A Rust target whose programs need nothing of the host they run on.
pub const TARGET: &str = "x86_64-unknown-linux-musl";
const CARGO_TOOLS: [(&str, &str); 2] = [("cargo-deb", "3.8.0"), ("cargo-cyclonedx", "0.5.9")];

/// What Debian must provide.
pub fn packages() -> Vec<Package> {
    vec![
        Package::with_program("musl-tools", "musl-gcc"),
        Package::with_program("umoci", "umoci"),
        Package::with_program("debootstrap", "debootstrap"),
        Package::with_program("bpftool", "bpftool"),
        Package::with_program("cpio", "cpio"),
    ]
}

/// Installs the target and the tools, unless they are there.
///
/// # Errors
///
/// When rustup or the crate registry fails.
pub fn ensure() -> Result<()> {
    step::must(
        &format!("add Rust's target {TARGET}"),
        "the target comes by rustup; without rustup, put a toolchain with it on the PATH",
        Command::new("rustup").args(["target", "add", TARGET]).current_dir(place::workspace()),
    )?;
    for (tool, version) in CARGO_TOOLS {
        ensure_cargo_tool(tool, version)?;
    }
    Ok(())
}

/// Installs one of cargo's own tools from the crate registry, unless it is there.
///
/// # Errors
///
/// When the crate registry fails or it cannot be compiled.
pub fn ensure_cargo_tool(tool: &str, version: &str) -> Result<()> {
    if place::program(tool).is_some() {
        return Ok(());
    }
    step::must(
        &format!("build {tool} {version} (some minutes, once)"),
        &format!("{tool} comes from the crate registry; is it reachable?"),
        build::cargo()
            .args(["install", tool, "--locked", "--version", version, "--root"])
            .arg(place::target("tools"))
            .env_remove("CARGO_TARGET_DIR"),
    )?;
    Ok(())
}
