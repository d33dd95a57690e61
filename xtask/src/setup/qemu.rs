//! QEMU, which boots the virtual machines.
//!
//! Version 10 or newer: before, QEMU patched a running kernel's text wrongly on several processors,
//! which panics kernels from 6.12 on ("int3") as soon as something is attached. Debian 12 has 7.2,
//! so where the machine has nothing newer, Debian 13's is unpacked below `target/` with its own
//! libraries, and nothing of the machine's own is touched.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::{apt::Archive, place};

const PROGRAM: &str = "qemu-system-x86_64";
/// The oldest version that boots several processors safely.
const OLDEST: u32 = 10;

/// Unpacks QEMU, unless there is one that serves.
///
/// # Errors
///
/// When its packages cannot be fetched.
pub fn ensure() -> Result<()> {
    if own().is_some() || unpacked().exists() {
        return Ok(());
    }
    let archive = Archive::open("qemu", &["trixie"])?;
    // Under another name until it is whole, so that an interruption leaves no half emulator.
    let unfinished = unpacked().with_extension("unfinished");
    if unfinished.exists() {
        fs::remove_dir_all(&unfinished)?;
    }
    archive.unpack_whole("qemu", &["qemu-system-x86", "seabios"], &unfinished)?;
    fs::rename(&unfinished, unpacked()).context("put QEMU into its place")
}

/// A command that starts QEMU.
pub fn command() -> Command {
    match own() {
        Some(program) => Command::new(program),
        None => unpacked_command(&unpacked()),
    }
}

/// The first line of what QEMU says of its version.
///
/// # Errors
///
/// When it cannot be started.
pub fn version() -> Result<String> {
    let output = command().arg("--version").output().context("start QEMU")?;
    let said = String::from_utf8_lossy(&output.stdout);
    Ok(said.lines().next().unwrap_or_default().to_owned())
}

/// By its own loader and libraries: this machine's may be older than what it was linked with.
fn unpacked_command(root: &Path) -> Command {
    let libraries = root.join("usr/lib/x86_64-linux-gnu");
    let mut command = Command::new(libraries.join("ld-linux-x86-64.so.2"));
    command
        .arg("--library-path")
        .arg(&libraries)
        .arg(root.join("usr/bin").join(PROGRAM))
        .args(["-L".as_ref(), root.join("usr/share/qemu").as_os_str()])
        .args(["-L".as_ref(), root.join("usr/share/seabios").as_os_str()])
        .env("QEMU_MODULE_DIR", libraries.join("qemu"));
    command
}

fn unpacked() -> PathBuf {
    place::target("tools/qemu")
}

/// The machine's own, where it is new enough.
fn own() -> Option<PathBuf> {
    let program = place::program(PROGRAM)?;
    let version = Command::new(&program).arg("--version").output().ok()?;
    (major(&String::from_utf8_lossy(&version.stdout))? >= OLDEST).then_some(program)
}

fn major(version: &str) -> Option<u32> {
    version.strip_prefix("QEMU emulator version ")?.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_major_version() {
        assert_eq!(major("QEMU emulator version 7.2.22 (Debian 1:7.2)\nCopyright"), Some(7));
        assert_eq!(major("QEMU emulator version 10.0.13"), Some(10));
        assert_eq!(major("something else"), None);
    }
}
