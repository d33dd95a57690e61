//! `cargo xtask lab`: real proxies and real faults on this host.

use std::process::ExitCode;

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

/// Runs the verb; its exit status is the lab's own.
///
/// # Errors
///
/// When something needed cannot be installed or built.
pub fn main(args: &Args) -> Result<ExitCode> {
    let What::Verdicts(args) = &args.what;
    setup::ensure(&[Group::Build, Group::Lab])?;
    let envoy = envoy::ensure()?;
    let agent = build::release("floodmark", "floodmark")?;
    let lab = build::release("floodmark-tests", "floodmark-lab")?;
    let mut command = root::command(&lab, "cargo xtask lab verdicts")?;
    command.arg("verdicts").arg("--agent").arg(agent).arg("--envoy").arg(envoy);
    command.args(["--rounds", &args.rounds.to_string()]);
    if !args.only.is_empty() {
        command.args(["--only", &args.only.join(",")]);
    }
    if args.json {
        command.arg("--json");
    }
    command.env("PATH", place::path_with_tools()?);
    let status = command.status().with_context(|| format!("start {}", lab.display()))?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
