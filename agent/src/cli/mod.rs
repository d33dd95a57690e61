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
/// Exit status: the command could not do its work. clap uses it for a wrong command line too.
pub const UNABLE: u8 = 2;

/// Explains 502 errors with healthy backends: counts, per listening socket, the connections that the kernel
/// drops silently, and joins them to the peers that the proxy marks as down.
#[derive(Debug, Parser)]
#[command(version, about, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Log more on standard error; repeat for more details
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the agent: attach probes, follow proxies' logs, correlate, serve metrics
    #[command(after_help = examples::RUN)]
    Run(Box<run::RunArgs>),
    /// Correlate evidence that agents on several hosts publish to NATS
    #[command(after_help = examples::CORRELATE)]
    Correlate(correlate::CorrelateArgs),
    /// Watch this host, or read a recording, then report what is wrong, the evidence, and what to change
    #[command(after_help = examples::DIAGNOSE)]
    Diagnose(diagnose::DiagnoseArgs),
    /// Record an incident to a file, for replay, report and diagnose
    #[command(after_help = examples::RECORD)]
    Record(record::RecordArgs),
    /// Diagnose a recording and compare each verdict with the recorded one
    #[command(after_help = examples::REPLAY)]
    Replay(replay::ReplayArgs),
    /// Write an HTML page about a recording, or about this host from now on
    #[command(after_help = examples::REPORT)]
    Report(report::ReportArgs),
    /// Show queues, losses and verdicts live on a terminal
    #[command(after_help = examples::WATCH)]
    Watch(watch::WatchArgs),
    /// List the listeners of every network namespace: owner, queue and limit, trouble first
    #[command(after_help = examples::LISTENERS)]
    Listeners(listeners::ListenersArgs),
    /// Raise the accept queue's limit of a running listener, without a restart; asks first
    #[command(after_help = examples::RAISE)]
    Raise(raise::RaiseArgs),
    /// Check a proxy's configuration for causes of the incident
    #[command(after_help = examples::LINT)]
    Lint(lint::LintArgs),
    /// Print what this kernel allows: the rung of each signal, and what it cannot see
    #[command(after_help = examples::DOCTOR)]
    Doctor(doctor::DoctorArgs),
    /// Check the configuration file, or print the effective settings
    #[command(after_help = examples::CONFIG)]
    Config(config::ConfigArgs),
    /// Print a completion script for a shell
    #[command(after_help = examples::COMPLETIONS)]
    Completions(completions::CompletionsArgs),
    /// Print the manual page, or write one page for each command
    #[command(after_help = examples::MAN)]
    Man(man::ManArgs),
}

/// A parsed command line, with the environment and the configuration file.
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
/// What prevents the command from working and needs the user's action; it maps to [`UNABLE`].
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
