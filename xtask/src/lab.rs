//! `cargo xtask lab`: real proxies and real faults on this host.

use std::{
    path::Path,
    process::{Command, ExitCode},
};

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
    Across(AcrossArgs),
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

/// Join what an nginx on one host says with what the kernel does on another, by way of a NATS server
/// that is killed meanwhile.
#[derive(clap::Args)]
struct AcrossArgs {
    /// Print one JSON object on standard output.
    #[arg(long)]
    json: bool,
}

/// Runs the verb; its exit status is the lab's own.
///
/// # Errors
///
/// When something needed cannot be installed or built.
pub fn main(args: &Args) -> Result<ExitCode> {
    setup::ensure(&[Group::Build, Group::Lab])?;
    match &args.what {
        What::Verdicts(args) => verdicts(args),
        What::Across(args) => {
            let arguments = if args.json { &["--json"][..] } else { &[] };
            play("across", |command| command.args(arguments))
        }
    }
}

fn verdicts(args: &VerdictsArgs) -> Result<ExitCode> {
    let envoy = envoy::ensure()?;
    play("verdicts", |command| verdict_arguments(command, args, &envoy))
}

fn verdict_arguments<'a>(
    command: &'a mut Command,
    args: &VerdictsArgs,
    envoy: &Path,
) -> &'a mut Command {
    command.arg("--envoy").arg(envoy);
    command.args(["--rounds", &args.rounds.to_string()]);
    if !args.only.is_empty() {
        command.args(["--only", &args.only.join(",")]);
    }
    if args.json {
        command.arg("--json");
    }
    command
}

/// Has the lab play `what`.
fn play(what: &str, add: impl FnOnce(&mut Command) -> &mut Command) -> Result<ExitCode> {
    let agent = build::release("floodmark", "floodmark")?;
    let lab = build::release("floodmark-tests", "floodmark-lab")?;
    let mut command = root::command(&lab, &format!("cargo xtask lab {what}"))?;
    command.arg(what).arg("--agent").arg(agent);
    add(&mut command);
    command.env("PATH", place::path_with_tools()?);
    let status = command.status().with_context(|| format!("start {}", lab.display()))?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
