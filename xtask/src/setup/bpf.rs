//! The compiler and linker for the eBPF programs, as `agent/build.rs` will look for them.
//!
//! A rustup nightly with `rust-src` and a `bpf-linker` on the PATH serve as they are. Otherwise
//! Debian's compiler is installed, which has a prebuilt `core` for the BPF target, and the linker
//! is built against that compiler's LLVM.

use std::{path::Path, process::Command};

use anyhow::Result;

use super::packages::Package;
use crate::{build, place, step};

const LINKER_VERSION: &str = "0.13.0";
/// The LLVM of Debian's `rustc-web`: the linker must read what the compiler writes.
const LLVM: &str = "/usr/lib/llvm-22";

const DEBIAN: [Package; 7] = [
    Package::library("rustc-web"),
    Package::library("cargo-web"),
    Package::library("libstd-rust-web-dev-bpf"),
    Package::library("llvm-22-dev"),
    Package::library("libpolly-22-dev"),
    Package::library("zlib1g-dev"),
    Package::library("libzstd-dev"),
];
/// Linking with LLVM takes the C++ library's development files.
const CPLUSPLUS: Package = Package::with_program("g++", "c++");

/// What Debian must provide.
pub fn packages() -> Vec<Package> {
    if has_nightly() { Vec::new() } else { DEBIAN.into_iter().chain([CPLUSPLUS]).collect() }
}

/// Builds the linker, unless it is there.
///
/// # Errors
///
/// When it cannot be built.
pub fn ensure_linker() -> Result<()> {
    if has_nightly() || has_own_linker() {
        return Ok(());
    }
    let root = place::target("tools");
    step::must(
        &format!("build bpf-linker {LINKER_VERSION} (some minutes, once)"),
        "the linker for the eBPF programs comes from the crate registry; is it reachable?",
        build::cargo()
            .args(["install", "bpf-linker", "--locked", "--force", "--version", LINKER_VERSION])
            .args(["--no-default-features", "--features", "llvm-22", "--root"])
            .arg(root)
            // bpf-linker's build script reads the one, its dependency llvm-sys the other.
            .env("LLVM_PREFIX", LLVM)
            .env("LLVM_SYS_221_PREFIX", LLVM)
            .env_remove("CARGO_TARGET_DIR"),
    )?;
    Ok(())
}

fn has_own_linker() -> bool {
    let version = Command::new(place::tools().join("bpf-linker")).arg("--version").output();
    version.is_ok_and(|output| {
        String::from_utf8_lossy(&output.stdout).trim() == format!("bpf-linker {LINKER_VERSION}")
    })
}

fn has_nightly() -> bool {
    if place::program("bpf-linker").is_none_or(|linker| linker.starts_with(place::tools())) {
        return false;
    }
    let sysroot =
        Command::new("rustup").args(["run", "nightly", "rustc", "--print", "sysroot"]).output();
    sysroot.is_ok_and(|output| {
        let sysroot = String::from_utf8_lossy(&output.stdout);
        output.status.success()
            && Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library").is_dir()
    })
}
