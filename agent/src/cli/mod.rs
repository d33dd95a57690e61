//! The command line, one file per subcommand.

mod bus;
mod correlate;
mod diagnose;
mod doctor;
mod listeners;
mod outlets;
mod proxies;
mod run;
mod story;

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use proxies::ProxyArgs;

/// Exit status: nothing wrong was found.
pub const HEALTHY: u8 = 0;
/// Exit status: trouble was found.
pub const TROUBLE: u8 = 1;
/// Exit status: the question could not be looked into. Also clap's for a wrong command line.
pub const UNABLE: u8 = 2;

/// Shows which listener dropped whose connections, at which step of the handshake, why, and which
/// proxy marking that explains.
#[derive(Debug, Parser)]
#[command(version, about, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
    /// More about what the agent does, on standard error (repeat for more)
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the agent: attach, follow proxies, correlate, serve metrics
    Run(run::RunArgs),
    /// Make the verdicts that no host's agent could make alone, of what agents tell on a NATS subject
    Correlate(correlate::CorrelateArgs),
    /// Watch for a while, then say what is wrong, on what evidence, and what to change
    Diagnose(diagnose::DiagnoseArgs),
    /// List every listener of every network namespace: owner, queue and limit, trouble first
    Listeners(listeners::ListenersArgs),
    /// Say what this host allows: the rung for each signal, and what it cannot see
    Doctor(doctor::DoctorArgs),
}

/// Runs a command line.
///
/// # Errors
///
/// What the user must mend before the command can do its work; it maps to [`UNABLE`].
pub fn run(cli: Cli) -> Result<ExitCode> {
    start_logging(cli.verbose);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("starting the runtime")?;
    match cli.command {
        Command::Run(args) => runtime.block_on(run::run(args)),
        Command::Correlate(args) => runtime.block_on(correlate::correlate(args)),
        Command::Diagnose(args) => runtime.block_on(diagnose::diagnose(args)),
        Command::Listeners(args) => listeners::listeners(&args),
        Command::Doctor(args) => doctor::doctor(&args),
    }
}

fn start_logging(verbose: u8) {
    let level = match verbose {
        0 => "warn",
        1 => "floodmark=info,warn",
        2 => "floodmark=debug,info",
        _ => "trace",
    };
    let environment = env_logger::Env::new().filter_or("FLOODMARK_LOG", level);
    env_logger::Builder::from_env(environment).format_target(false).init();
}
