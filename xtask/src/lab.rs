//! `cargo xtask lab`: real proxies and real faults on this host.

use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

use crate::{
    build, place, root,
    setup::{self, Group, envoy},
};

/// Play with real proxies on this host.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    Verdicts(VerdictsArgs),
    Advice(AdviceArgs),
}

/// Produce each cause with nginx, HAProxy and Envoy, and compare the verdicts with the truth.
#[derive(clap::Args)]
struct VerdictsArgs {
    /// Print one JSON object on standard output.
    #[arg(long)]
    json: bool,
    /// How often each case is played with each proxy.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Play only these cases.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
}

/// Produce faults, apply the first advice of `floodmark diagnose`, and look whether that ends them.
#[derive(clap::Args)]
struct AdviceArgs {
    /// Print one JSON object on standard output.
    #[arg(long)]
    json: bool,
    /// Play only these cases; `keepalive` is one.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
}

/// Runs the verb; its exit status is the lab's own.
///
/// # Errors
///
/// When something needed cannot be installed or built.
pub fn main(args: &Args) -> Result<ExitCode> {
    setup::ensure(&[Group::Build, Group::Lab])?;
    let mut command = match &args.what {
        What::Verdicts(args) => verdicts(args)?,
        What::Advice(args) => advice(args)?,
    };
    command.env("PATH", place::path_with_tools()?);
    let status = command.status().context("start the lab")?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn verdicts(args: &VerdictsArgs) -> Result<Command> {
    let envoy = envoy::ensure()?;
    let mut command = lab("verdicts", args.json, &args.only)?;
    command.arg("--envoy").arg(envoy).args(["--rounds", &args.rounds.to_string()]);
    Ok(command)
}

fn advice(args: &AdviceArgs) -> Result<Command> {
    lab("advice", args.json, &args.only)
}

/// A verb of the lab's own program, with the agent under test.
fn lab(verb: &str, json: bool, only: &[String]) -> Result<Command> {
    let agent = build::release("floodmark", "floodmark")?;
    let lab = build::release("floodmark-tests", "floodmark-lab")?;
    let mut command = root::command(&lab, &format!("cargo xtask lab {verb}"))?;
    command.arg(verb).arg("--agent").arg(agent);
    if !only.is_empty() {
        command.args(["--only", &only.join(",")]);
    }
    if json {
        command.arg("--json");
    }
    Ok(command)
}
