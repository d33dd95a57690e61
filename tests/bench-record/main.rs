//! `floodmark-bench-record`: what recording costs, in bytes and in processor time. First the
//! recorder alone, on ten synthetic minutes of a busy host; then the agent on real connections,
//! recording and not.

mod live;
mod load;
mod synthetic;

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::Parser;

/// Measure what recording costs.
#[derive(Parser)]
struct Cli {
    /// The agent
    #[arg(long)]
    agent: PathBuf,
    /// Connections per second
    #[arg(long, default_value_t = 10_000)]
    rate: u64,
    /// Seconds of real connections, with and without recording
    #[arg(long, default_value_t = 60)]
    seconds: u64,
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("floodmark-bench-record: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(cli: &Cli) -> Result<()> {
    println!("## The recorder alone\n\n{}", synthetic::table(cli.rate)?);
    println!("## The agent on real connections\n\n{}", live::table(cli)?);
    Ok(())
}
