//! `floodmark-bench`: what the agent's programs cost in the kernel, beside programs that do nothing
//! and beside the tools that people use today. Needs a kernel that allows fentry, and root.

mod contender;
mod empty;
mod hooks;
mod idle;
mod page;
mod report;
mod rounds;
mod stats;
mod tool;
mod tools;
mod workload;

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result};
use clap::Parser;
use contender::{Contender, Kind};
use report::Report;

const ATTRIBUTED: &str = "each loss with listener, cause and peer";

const PROGRAMS: &str = "Floodmark's programs";
const EMPTY: &str = "empty programs";

/// Measure what is attached to the kernel's handshake.
#[derive(Parser)]
struct Cli {
    /// The agent
    #[arg(long)]
    agent: PathBuf,
    /// The object with the empty programs
    #[arg(long)]
    empty: PathBuf,
    /// Rounds in which everything is measured once
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Times that each workload is done in a round
    #[arg(long, default_value_t = 1000)]
    times: u32,
    /// Print one JSON object with the report and its page, instead of the page alone
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("floodmark-bench: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(cli: &Cli) -> Result<()> {
    let contenders = contenders(cli)?;
    let all = rounds::play(&contenders, cli.rounds, cli.times)?;
    let report = Report::new(&contenders, &all, cli.rounds, cli.times);
    let page = page::render(&report);
    if cli.json {
        println!("{}", serde_json::json!({ "report": report, "page": page }));
    } else {
        print!("{page}");
    }
    Ok(())
}

/// Floodmark's programs come before the empty ones, which go to the same places.
fn contenders(cli: &Cli) -> Result<Vec<Contender>> {
    let contender = |name, tells, kind| Contender { name, tells, kind };
    let mut contenders = vec![
        contender("nothing", "", Kind::Nothing),
        contender(PROGRAMS, ATTRIBUTED, Kind::Programs),
        contender(EMPTY, "nothing, on Floodmark's hooks", Kind::Empty(read(&cli.empty)?)),
        contender("Floodmark's agent", ATTRIBUTED, Kind::Agent(cli.agent.clone())),
    ];
    contenders.extend(tools::all()?);
    Ok(contenders)
}

fn read(file: &Path) -> Result<Vec<u8>> {
    fs::read(file).with_context(|| format!("reading {}", file.display()))
}
