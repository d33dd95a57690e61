//! The command line, one file per subcommand.

mod bus;
mod completions;
mod config;
mod correlate;
mod diagnose;
mod doctor;
mod examples;
mod lines;
mod lint;
mod listeners;
mod man;
mod outlets;
mod output;
mod proxies;
mod raise;
mod record;
mod reload;
mod replay;
mod report;
mod run;
mod service;
mod settings;
mod story;
mod usage;
mod watch;

use std::{env, ffi::OsString, io::Write, process::ExitCode, time::Duration};

use anyhow::{Context, Result};
use clap::{ArgMatches, FromArgMatches, Parser, Subcommand};
use log::warn;
pub use output::say;
use proxies::ProxyArgs;
use settings::Layers;
pub use usage::usage_error;

use crate::{capabilities, printable::printable};

/// How long tasks may take to end once a command has come to its end.
const LAST_TASKS: Duration = Duration::from_secs(2);
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
    #[command(after_help = examples::RUN)]
    Run(Box<run::RunArgs>),
    /// Make the verdicts that no host's agent could make alone, of what agents tell on a NATS subject
    #[command(after_help = examples::CORRELATE)]
    Correlate(correlate::CorrelateArgs),
    /// Watch for a while, or read a recording, then say what is wrong, on what evidence, and what to
    /// change
    #[command(after_help = examples::DIAGNOSE)]
    Diagnose(diagnose::DiagnoseArgs),
    /// Keep an incident in a file, to be replayed and reported elsewhere and later
    #[command(after_help = examples::RECORD)]
    Record(record::RecordArgs),
    /// Tell the story of a recording, as diagnose does of one
    #[command(after_help = examples::REPLAY)]
    Replay(replay::ReplayArgs),
    /// Write one page of HTML about an incident, from a recording or from now on
    #[command(after_help = examples::REPORT)]
    Report(report::ReportArgs),
    /// Show listeners by trouble, losses and verdicts while they happen, on a terminal
    #[command(after_help = examples::WATCH)]
    Watch(watch::WatchArgs),
    /// List every listener of every network namespace: owner, queue and limit, trouble first
    #[command(after_help = examples::LISTENERS)]
    Listeners(listeners::ListenersArgs),
    /// Let a running listener's accept queue take more connections, without a restart; asks first
    #[command(after_help = examples::RAISE)]
    Raise(raise::RaiseArgs),
    /// Check a proxy's configuration for what brings the incident about
    #[command(after_help = examples::LINT)]
    Lint(lint::LintArgs),
    /// Say what this host allows: the rung for each signal, and what it cannot see
    #[command(after_help = examples::DOCTOR)]
    Doctor(doctor::DoctorArgs),
    /// Check the configuration file, or show every setting in force
    #[command(after_help = examples::CONFIG)]
    Config(config::ConfigArgs),
    /// Print a script that completes these commands in a shell
    #[command(after_help = examples::COMPLETIONS)]
    Completions(completions::CompletionsArgs),
    /// Print the manual page, or write a page for each command
    #[command(after_help = examples::MAN)]
    Man(man::ManArgs),
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
    if matches!(cli.command, Command::Run(_))
        && let Err(error) = capabilities::keep_what_is_needed()
    {
        warn!("{error:#}");
    }
    if let Some(outcome) = on_a_file(&cli.command) {
        return outcome;
    }
    match cli.command {
        Command::Run(args) => wait_for(run::run(*args, matches)),
        Command::Correlate(args) => wait_for(correlate::correlate(args)),
        Command::Diagnose(args) => wait_for(diagnose::diagnose(args)),
        Command::Record(args) => wait_for(record::record(args)),
        Command::Replay(args) => replay::replay(&args),
        Command::Report(args) => wait_for(report::report(args)),
        Command::Listeners(args) => listeners::listeners(&args),
        Command::Raise(args) => raise::raise(&args),
        Command::Lint(args) => lint::lint(&args),
        Command::Doctor(args) => doctor::doctor(&args),
        Command::Watch(args) => wait_for(watch::watch(args)),
        Command::Completions(args) => completions::completions(&args),
        Command::Man(args) => man::man(&args),
        Command::Config(args) => config::config(args, &matches, &layers),
    }
}

/// Runs what reads a recording instead of watching this host, before there is a second thread: it puts
/// its capabilities away, which belong to threads.
fn on_a_file(command: &Command) -> Option<Result<ExitCode>> {
    Some(match command {
        Command::Diagnose(args) => diagnose::diagnose_recording(args.recording()?, args),
        Command::Report(args) => report::report_on(args.recording()?, args),
        Command::Record(args) => record::redact(args.redacts()?, args),
        _ => return None,
    })
}

/// Runs a command that watches, on the threads of a runtime.
fn wait_for(command: impl Future<Output = Result<ExitCode>>) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("starting the runtime")?;
    let outcome = runtime.block_on(command);
    // A thread may be stuck in a file system that does not answer.
    runtime.shutdown_timeout(LAST_TASKS);
    outcome
}

fn start_logging(verbose: u8) {
    let level = match verbose {
        0 => "warn",
        1 => "floodmark=info,warn",
        2 => "floodmark=debug,info",
        _ => "trace",
    };
    let environment = env_logger::Env::new().filter_or("FLOODMARK_LOG", level);
    let mut builder = env_logger::Builder::from_env(environment);
    // aya does not know what to make of a release such as 7.3-cloud-amd64, and says so for each program;
    // it then attaches kprobes by way of tracefs, as on kernels before 4.17.
    builder.filter_module("aya::util", log::LevelFilter::Error);
    builder.format(|out, record| {
        let (time, level) = (out.timestamp_seconds(), record.level());
        // Names in it are other people's choice.
        writeln!(out, "[{time} {level:<5}] {}", printable(&record.args().to_string()))
    });
    builder.init();
}
