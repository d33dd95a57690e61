//! `floodmark-scenarios`: every way to lose a handshake, played in network namespaces, and whether
//! the agent accounts for every loss that the kernel counted.

mod claim;
mod counters;
mod drives;
mod faults;
mod measure;
mod namespace;
mod peer;
mod play;
mod report;
mod scenario;
mod sockets;
mod tun;

use std::{collections::BTreeMap, process::ExitCode};

use anyhow::{Result, ensure};
use clap::{Parser, ValueEnum};
use floodmark::kernel::Rung;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use measure::Measure;
use report::Run;
use scenario::Scenario;

/// Lose handshakes in every known way and compare the agent's count with the kernel's.
#[derive(Parser)]
#[command(name = "floodmark-scenarios")]
struct Cli {
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
    /// List the scenarios' names
    #[arg(long)]
    list: bool,
    /// Take no rung of the ladder above this one
    #[arg(long, value_enum, default_value_t = Highest::Fentry)]
    rung: Highest,
    /// Attach as an agent does, test the hooks, and exit; for the scenarios with several agents
    #[arg(long, hide = true)]
    self_test_only: bool,
    /// The scenarios to play, by name or beginning of name; all of them if none is named
    names: Vec<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Highest {
    Fentry,
    Kprobe,
    Tracepoint,
    Netlink,
}

impl From<Highest> for Rung {
    fn from(highest: Highest) -> Self {
        match highest {
            Highest::Fentry => Self::Fentry,
            Highest::Kprobe => Self::Kprobe,
            Highest::Tracepoint => Self::Tracepoint,
            Highest::Netlink => Self::Netlink,
        }
    }
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("floodmark-scenarios: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(cli: &Cli) -> Result<bool> {
    let chosen: Vec<&Scenario> = scenario::all().filter(|one| cli.wants(one.name)).collect();
    ensure!(!chosen.is_empty(), "no scenario of that name; see --list");
    if cli.list {
        chosen.iter().for_each(|one| println!("{}", one.name));
        return Ok(true);
    }
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    let mut measure = Measure::attach(cli.rung.into())?;
    if cli.self_test_only {
        measure.begin_self_test();
        measure.end_self_test()?;
        return Ok(true);
    }
    let mut run = Run {
        kernel: counters::release(),
        rungs: measure.rungs(),
        refusals: measure.refusals(),
        scenarios: Vec::new(),
        troubles: BTreeMap::new(),
    };
    if !cli.json {
        run.print_heading();
    }
    for scenario in chosen {
        let report = play::play(scenario, &mut measure);
        if !cli.json {
            report.print();
        }
        run.scenarios.push(report);
    }
    run.troubles = measure.troubles()?;
    if cli.json {
        println!("{}", serde_json::to_string(&run)?);
    } else {
        run.print_sum();
    }
    Ok(run.is_ok())
}

impl Cli {
    fn wants(&self, name: &str) -> bool {
        self.names.is_empty() || self.names.iter().any(|wanted| name.starts_with(wanted.as_str()))
    }
}
