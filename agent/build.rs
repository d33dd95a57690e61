//! Compiles the eBPF programs with whichever BPF toolchain is here, and hands the object to
//! `src/kernel/object.rs`.
//!
//! Two toolchains serve: Debian's `rustc-web` with its prebuilt `core` for the BPF target, and a
//! rustup nightly with `rust-src`, which builds `core` itself. Both need `bpf-linker`. `cargo xtask
//! setup` installs the first.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, exit},
};

const TARGET: &str = "bpfel-unknown-none";
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_CARGO: &str = "/usr/bin/cargo";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    for input in ["agent-ebpf/src", "agent-ebpf/Cargo.toml", "agent-common/src", "Cargo.lock"] {
        println!("cargo::rerun-if-changed={}", workspace().join(input).display());
    }
    println!("cargo::rerun-if-env-changed=PATH");
    if let Err(problem) = build() {
        eprintln!("the eBPF programs cannot be built: {problem}; run `cargo xtask setup`");
        exit(1);
    }
}

fn build() -> Result<(), String> {
    let linker = find_linker()?;
    // Registers differ: of the machine that the agent is for, not of this one.
    let architecture = env::var("CARGO_CFG_TARGET_ARCH").map_err(|error| error.to_string())?;
    let mut cargo = compiler()?;
    // The object's line information names files: as they are called everywhere, not where they lie here.
    let flags = format!(
        "-Cdebuginfo=2 -Clink-arg=--btf --remap-path-prefix={}=floodmark --remap-path-prefix={}=cargo",
        workspace().display(),
        cargo_home().display(),
    );
    cargo
        .args(["build", "--release", "--quiet", "--locked", "--target", TARGET])
        .current_dir(workspace().join("agent-ebpf"))
        // Opens the unstable features that aya-ebpf and the programs need, for these crates alone.
        .env("RUSTC_BOOTSTRAP", "aya_ebpf,floodmark_ebpf")
        .env("AYA_BPF_TARGET_ARCH", architecture)
        .env("CARGO_TARGET_DIR", workspace().join("target/bpf"))
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", linker)
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_RUSTFLAGS", flags);
    let status = cargo.status().map_err(|error| format!("{cargo:?}: {error}"))?;
    if !status.success() {
        return Err(format!("{cargo:?}: {status}"));
    }
    let built = workspace().join("target/bpf").join(TARGET).join("release");
    let to = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    for name in ["floodmark-ebpf", "floodmark-nginx"] {
        let object = built.join(name);
        fs::copy(&object, to.join(name))
            .map_err(|error| format!("copy {}: {error}", object.display()))?;
    }
    Ok(())
}

/// A cargo that compiles for the BPF target, in an environment cleared of the outer build's.
fn compiler() -> Result<Command, String> {
    let mut cargo = if has_prebuilt_core() {
        let mut cargo = Command::new(DEBIAN_CARGO);
        cleared(&mut cargo).env("RUSTC", DEBIAN_RUSTC);
        cargo
    } else if has_nightly_source() {
        let mut cargo = Command::new("rustup");
        cleared(&mut cargo).args(["run", "nightly", "cargo", "-Zbuild-std=core"]);
        cargo
    } else {
        return Err(
            "neither Debian's rustc-web with libstd-rust-web-dev-bpf nor a rustup nightly \
                    with rust-src is installed"
                .into(),
        );
    };
    cargo.env_remove("RUSTFLAGS");
    Ok(cargo)
}

/// Cargo and clippy hand their own settings down by environment variables, which would leak in.
fn cleared(command: &mut Command) -> &mut Command {
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("RUST") || text.starts_with("CARGO") && text != "CARGO_HOME" {
            command.env_remove(&name);
        }
    }
    command
}

fn has_prebuilt_core() -> bool {
    let sysroot = Command::new(DEBIAN_RUSTC).args(["--print", "sysroot"]).output();
    sysroot.is_ok_and(|output| {
        let sysroot = String::from_utf8_lossy(&output.stdout);
        Path::new(sysroot.trim()).join("lib/rustlib").join(TARGET).is_dir()
    })
}

fn has_nightly_source() -> bool {
    let sysroot =
        Command::new("rustup").args(["run", "nightly", "rustc", "--print", "sysroot"]).output();
    sysroot.is_ok_and(|output| {
        let sysroot = String::from_utf8_lossy(&output.stdout);
        output.status.success() && Path::new(sysroot.trim()).join("lib/rustlib/src").is_dir()
    })
}

fn cargo_home() -> PathBuf {
    let home = || PathBuf::from(env::var_os("HOME").unwrap_or_default()).join(".cargo");
    env::var_os("CARGO_HOME").map_or_else(home, PathBuf::from)
}

/// `bpf-linker` where `cargo xtask setup` puts it, else on the PATH.
fn find_linker() -> Result<PathBuf, String> {
    let own = workspace().join("target/tools/bin");
    let path = env::var_os("PATH").unwrap_or_default();
    std::iter::once(own)
        .chain(env::split_paths(&path))
        .map(|dir| dir.join("bpf-linker"))
        .find(|linker| linker.is_file())
        .ok_or_else(|| "bpf-linker is not installed".into())
}

fn workspace() -> PathBuf {
    let manifest = env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default();
    PathBuf::from(manifest).parent().map(Path::to_path_buf).unwrap_or_default()
}
