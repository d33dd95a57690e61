//! `cargo xtask build`, and the executables that other verbs need.

use std::{
    env,
    path::PathBuf,
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::{
    place,
    setup::{self, Group},
};

/// Build the agent, eBPF programs included, and the lab.
#[derive(clap::Args)]
pub struct Args {
    /// Optimise, as for use.
    #[arg(long)]
    release: bool,
}

/// Runs the verb.
///
/// # Errors
///
/// When something needed cannot be installed, or the build fails.
pub fn main(args: &Args) -> Result<ExitCode> {
    setup::ensure(&[Group::Build])?;
    let mut flags = vec!["build"];
    if args.release {
        flags.push("--release");
    }
    for executable in executables(&flags)? {
        println!("{}", executable.path.display());
    }
    Ok(ExitCode::SUCCESS)
}

/// How the names of tests begin that need root.
pub const PRIVILEGED_PREFIX: &str = "root_";

/// Cargo, as it was called, in the repository. What `cargo run` told this program of its own package is
/// not handed down: some libraries' build scripts ask for it, and all would be compiled anew after each
/// change between this verb and a cargo called by hand.
pub fn cargo() -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(place::workspace());
    let names = env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    for name in names.filter(|name| OF_THIS_PACKAGE.iter().any(|start| name.starts_with(start))) {
        cargo.env_remove(name);
    }
    cargo
}

const OF_THIS_PACKAGE: [&str; 2] = ["CARGO_PKG_", "CARGO_MANIFEST_"];

/// Builds the program `name` of `package` for use, and for measuring.
///
/// # Errors
///
/// When the build fails.
pub fn release(package: &str, name: &str) -> Result<PathBuf> {
    program(&executables(&["build", "--release", "--package", package, "--bin", name])?, name)
}

/// Builds the program `name` for tests, as the tests are built: with overflow checks.
///
/// # Errors
///
/// When the build fails.
pub fn tested(name: &str) -> Result<PathBuf> {
    program(&executables(&EVERYTHING)?, name)
}

/// The agent and the lab's program, built for tests.
///
/// # Errors
///
/// When the build fails.
pub fn agent_and_lab() -> Result<(PathBuf, PathBuf)> {
    let built = executables(&EVERYTHING)?;
    Ok((program(&built, "floodmark")?, program(&built, "floodmark-lab")?))
}

/// Every program and test at once, since cargo compiles the libraries anew for another selection of
/// packages.
const EVERYTHING: [&str; 2] = ["build", "--all-targets"];

fn program(built: &[Executable], name: &str) -> Result<PathBuf> {
    built
        .iter()
        .find(|executable| executable.name == name && !executable.is_test)
        .map(|executable| executable.path.clone())
        .with_context(|| format!("there is no program {name}"))
}

/// The object with the empty eBPF programs, which the agent's build leaves beside its own.
///
/// # Errors
///
/// When the build fails.
pub fn empty_programs() -> Result<PathBuf> {
    release("floodmark", "floodmark")?;
    let object = place::target("bpf/bpfel-unknown-none/release/floodmark-empty");
    anyhow::ensure!(object.exists(), "{} is missing; cargo clean -p floodmark", object.display());
    Ok(object)
}

/// The executables with tests that need root, built but not run.
///
/// # Errors
///
/// When the build fails, or a test does not say what it would run.
pub fn privileged_tests() -> Result<Vec<PathBuf>> {
    let tests = executables(&EVERYTHING)?.into_iter().filter(|executable| executable.is_test);
    let mut privileged = Vec::new();
    for test in tests {
        let list = [PRIVILEGED_PREFIX, "--list", "--format", "terse"];
        let listed = Command::new(&test.path).args(list).output().context("list tests")?;
        if !listed.stdout.is_empty() {
            privileged.push(test.path);
        }
    }
    Ok(privileged)
}

/// A program that cargo built.
#[derive(Debug, PartialEq, Eq)]
pub struct Executable {
    /// The target's name.
    pub name: String,
    /// Where it lies.
    pub path: PathBuf,
    /// Whether it is a test harness rather than the program itself.
    pub is_test: bool,
}

/// One line of cargo's JSON messages, so far as it concerns executables.
#[derive(Deserialize)]
struct Message {
    executable: Option<PathBuf>,
    target: Option<Target>,
    profile: Option<Profile>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
}

#[derive(Deserialize)]
struct Profile {
    test: bool,
}

fn executables(arguments: &[&str]) -> Result<Vec<Executable>> {
    // Cargo's own progress and the compiler's words go to the terminal by standard error.
    let output = cargo()
        .args(arguments)
        .arg("--message-format=json-render-diagnostics")
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("start cargo")?;
    if !output.status.success() {
        bail!("cargo {} failed; see its messages above", arguments.join(" "));
    }
    Ok(parse(&String::from_utf8_lossy(&output.stdout)))
}

fn parse(messages: &str) -> Vec<Executable> {
    let executable = |line: &str| {
        let message: Message = serde_json::from_str(line).ok()?;
        let is_test = message.profile?.test;
        Some(Executable { name: message.target?.name, path: message.executable?, is_test })
    };
    messages.lines().filter_map(executable).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_executables_and_nothing_else_of_cargos_messages() {
        let messages = r#"{"reason":"compiler-artifact","target":{"name":"anyhow"},"profile":{"test":false},"executable":null}
{"reason":"compiler-artifact","target":{"name":"overflow"},"profile":{"test":true},"executable":"/t/overflow-1"}
{"reason":"build-finished","success":true}
running 3 tests"#;
        let expected =
            Executable { name: "overflow".into(), path: "/t/overflow-1".into(), is_test: true };
        assert_eq!(parse(messages), [expected]);
    }
}
