//! `cargo xtask supply`: what is depended on.

use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

use crate::{build, place, setup::dist::ensure_cargo_tool};

const DENY: (&str, &str) = ("cargo-deny", "0.20.2");
const AUDIT: (&str, &str) = ("cargo-audit", "0.22.2");

/// Check licences, sources and bans of all dependencies (deny.toml).
#[derive(clap::Args)]
pub struct Args {
    /// Look for known vulnerabilities as well, in a database that is fetched with git.
    #[arg(long)]
    advisories: bool,
}

/// Runs the verb.
///
/// # Errors
///
/// When a tool cannot be installed.
pub fn main(args: &Args) -> Result<ExitCode> {
    ensure_cargo_tool(DENY.0, DENY.1)?;
    let mut commands = vec![command()?];
    if args.advisories {
        ensure_cargo_tool(AUDIT.0, AUDIT.1)?;
        commands.push(cargo(&["deny", "check", "advisories"])?);
        commands.push(cargo(&["audit", "--deny", "warnings"])?);
    }
    for mut command in commands {
        if !command.status().context("start cargo")?.success() {
            return Ok(ExitCode::FAILURE);
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// What needs no network but the crate registry's.
///
/// # Errors
///
/// When the tools' directory cannot be named.
pub fn command() -> Result<Command> {
    cargo(&["deny", "--offline", "check", "--allow", "duplicate", "licenses", "bans", "sources"])
}

/// Whether it can be had at once: to compile it takes minutes.
pub fn is_installed() -> bool {
    place::program(DENY.0).is_some()
}

fn cargo(arguments: &[&str]) -> Result<Command> {
    let mut cargo = build::cargo();
    cargo.args(arguments).env("PATH", place::path_with_tools()?);
    Ok(cargo)
}
