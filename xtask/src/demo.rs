//! `cargo xtask demo`: the incident, broken and mended, on this host or in a virtual machine.

use std::{
    ffi::OsString,
    process::{Command, ExitCode},
    time::Duration,
};

use anyhow::{Context, Result};

use crate::{
    build, place, root,
    setup::{self, Group, tornado},
    vm::{self, payload::Payload},
};

/// The VM's clock runs at the emulator's speed, and the demo has two phases.
const GUEST_TIMEOUT: Duration = Duration::from_secs(600);

/// Run the incident twice, broken and fixed, and print both side by side.
#[derive(clap::Args)]
pub struct Args {
    /// Run in a virtual machine with this kernel series, instead of on this host.
    #[arg(long, value_name = "SERIES")]
    vm: Option<String>,
    /// Print one JSON object on standard output.
    #[arg(long)]
    json: bool,
    /// Run shorter phases.
    #[arg(long)]
    quick: bool,
}

impl Args {
    fn flags(&self) -> Vec<&'static str> {
        let flags = [(self.json, "--json"), (self.quick, "--quick")];
        flags.into_iter().filter_map(|(set, flag)| set.then_some(flag)).collect()
    }
}

/// Runs the verb; its exit status is the demo's own.
///
/// # Errors
///
/// When something needed cannot be installed or built, or the virtual machine breaks.
pub fn main(args: &Args) -> Result<ExitCode> {
    match &args.vm {
        Some(series) => in_guest(series, &args.flags()),
        None => on_host(&args.flags()),
    }
}

fn on_host(flags: &[&str]) -> Result<ExitCode> {
    setup::ensure(&[Group::Build, Group::Lab])?;
    let (agent, lab) = build::agent_and_lab()?;
    let demo = [
        OsString::from("demo"),
        "--agent".into(),
        agent.into(),
        "--app".into(),
        "tornado".into(),
        "--python".into(),
        tornado::python().into(),
    ];
    let mut command: Command = root::command(&lab, "cargo xtask demo")?;
    let status = command
        .args(demo)
        .args(flags)
        .env("PATH", place::path_with_tools()?)
        .status()
        .with_context(|| format!("start {}", lab.display()))?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn in_guest(series: &str, flags: &[&str]) -> Result<ExitCode> {
    let series = vm::series::find(series)?;
    setup::ensure(&[Group::Build, Group::Lab, Group::Vm])?;
    let mut payload = Payload::base()?;
    let (agent, lab) = build::agent_and_lab()?;
    payload.program(&agent, vm::AGENT)?;
    payload.program(&lab, vm::LAB)?;
    let mut command = vec![vm::LAB, "demo", "--agent", vm::AGENT, "--app", "standin"];
    command.extend(flags);
    vm::play(series, &payload, &command, GUEST_TIMEOUT)
}
