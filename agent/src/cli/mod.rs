//! The command line, one file per subcommand.

mod config;
mod diagnose;
mod doctor;
mod lines;
mod lint;
mod listeners;
mod proxies;
mod record;
mod reload;
mod replay;
mod run;
mod settings;
mod story;

use std::{env, ffi::OsString, process::ExitCode};

use anyhow::{Context, Result};
use clap::{ArgMatches, FromArgMatches, Parser, Subcommand};
use proxies::ProxyArgs;
use settings::Layers;

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
    /// Watch for a while, then say what is wrong, on what evidence, and what to change
    Diagnose(diagnose::DiagnoseArgs),
    /// Keep an incident in a file, to be replayed and reported elsewhere and later
    Record(record::RecordArgs),
    /// Tell the story of a recording as diagnose would have told it
    Replay(replay::ReplayArgs),
    /// List every listener of every network namespace: owner, queue and limit, trouble first
    Listeners(listeners::ListenersArgs),
    /// Check a proxy's configuration for what brings the incident about
    Lint(lint::LintArgs),
    /// Say what this host allows: the rung for each signal, and what it cannot see
    Doctor(doctor::DoctorArgs),
    /// Check the configuration file, or show every setting in force
    Config(config::ConfigArgs),
}

/// A command line, and what else there is to go by.
#[derive(Debug)]
pub struct CommandLine {
    cli: Cli,
    matches: ArgMatches,
    layers: Layers,
}

/// Reads this process's command line, with the environment and the configuration file.
///
/// # Errors
///
/// A [`clap::Error`] for the command line itself, one line of text for the others.
pub fn command_line() -> Result<CommandLine> {
    let words: Vec<OsString> = env::args_os().collect();
    let (matches, layers) = settings::parse(&words)?;
    Ok(CommandLine { cli: Cli::from_arg_matches(&matches)?, matches, layers })
}

/// Runs a command line.
///
/// # Errors
///
/// What the user must mend before the command can do its work; it maps to [`UNABLE`].
pub fn run(line: CommandLine) -> Result<ExitCode> {
    let CommandLine { cli, matches, layers } = line;
    start_logging(cli.verbose);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("starting the runtime")?;
    match cli.command {
        Command::Run(args) => runtime.block_on(run::run(args, matches)),
        Command::Diagnose(args) => runtime.block_on(diagnose::diagnose(args)),
        Command::Record(args) => runtime.block_on(record::record(args)),
        Command::Replay(args) => replay::replay(&args),
        Command::Listeners(args) => listeners::listeners(&args),
        Command::Lint(args) => lint::lint(&args),
        Command::Doctor(args) => doctor::doctor(&args),
        Command::Config(args) => config::config(args, &matches, &layers),
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
