//! `floodmark-lab`: the demo, and the parts of it that run as processes of their own.

use std::{process::ExitCode, time::Duration};

use anyhow::Result;
use clap::{Parser, Subcommand};
use floodmark_tests::{
    across, advice, app, chain, demo, hostile, impediments, load, raise, soak, verdicts,
};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// The lab: the incident, in network namespaces.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Play the incident in two acts; exit status 1 if something does not show
    Demo(demo::DemoArgs),
    /// Let the incident be alerted by a real Prometheus and Alertmanager; exit status 1 if it is not
    Chain(chain::ChainArgs),
    /// Everything that happens to an agent in a day; exit status 1 if it costs memory or counts
    Soak(soak::SoakArgs),
    /// Produce each cause with real proxies and compare the verdicts; exit status 1 if too many are wrong
    Verdicts(verdicts::VerdictsArgs),
    /// Join across hosts by way of a NATS server; exit status 1 if something is wrong or lost
    Across(across::AcrossArgs),
    /// Produce faults and apply the agent's first advice; exit status 1 if one is not ended by it
    Advice(advice::AdviceArgs),
    /// Attack the agent; exit status 1 if a limit does not hold
    Hostile(hostile::HostileArgs),
    /// Raise listeners that overflow and restore them; exit status 1 if something is lost or stays
    Raise(raise::RaiseArgs),
    /// Keep servers from accepting, and compare the impediments named; exit status 1 if too many are wrong
    Impediments(impediments::ImpedimentsArgs),
    /// An application that fails in one way
    Behave {
        /// What it does
        mode: verdicts::behave::Mode,
        /// Port to listen on
        port: u16,
        /// Backlog for `listen(2)`
        backlog: i32,
    },
    /// The stand-in application
    App {
        /// Port to listen on
        port: u16,
        /// Backlog for `listen(2)`
        backlog: u32,
    },
    /// The load on the proxy, to be run in its namespace
    Load {
        /// Clients with one request at a time
        clients: usize,
        /// For so many seconds
        seconds: u64,
    },
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("floodmark-lab: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(command: Command) -> Result<bool> {
    // A socket per client; the children inherit it.
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    match command {
        Command::Demo(args) => demo::demo(&args),
        Command::Chain(args) => chain::chain(&args),
        Command::Soak(args) => soak::soak(&args),
        Command::Verdicts(args) => verdicts::verdicts(&args),
        Command::Across(args) => across::across(&args),
        Command::Advice(args) => advice::advice(&args),
        Command::Hostile(args) => hostile::hostile(&args),
        Command::Raise(args) => raise::raise(&args),
        Command::Impediments(args) => impediments::impediments(&args),
        Command::Behave { mode, port, backlog } => {
            verdicts::behave::serve(mode, port, backlog).map(|()| true)
        }
        Command::App { port, backlog } => app::serve(port, backlog).map(|()| true),
        Command::Load { clients, seconds } => {
            let runtime = tokio::runtime::Runtime::new()?;
            let seen = runtime.block_on(load::run(clients, Duration::from_secs(seconds)))?;
            println!("{}", serde_json::to_string(&seen)?);
            Ok(true)
        }
    }
}
