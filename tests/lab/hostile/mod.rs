//! Attacks on the agent, each with the limit that must hold: a hostile process, client or host on the
//! bus costs neither memory nor ticks, forges no event, and puts no control character on a terminal.
//!
//! A theme is a file with its own `CASES`; a case attacks an agent of its own on a [`Target`] and says
//! what it saw as [`Check`]s. Programs that attack are Python scripts beside the theme
//! (`include_str!`, run by [`Target::python`]) or Rust.

mod advice;
mod baseline;
mod bus;
mod command;
mod files;
mod hardening;
mod http;
mod logs;
mod processes;
mod recordings;
mod target;
mod terminal;

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;
use serde::Serialize;

use target::{Served, Target};

use crate::check::Check;

/// Every theme's cases, in the order in which they run.
const THEMES: &[&[Case]] = &[
    baseline::CASES,
    advice::CASES,
    bus::CASES,
    files::CASES,
    hardening::CASES,
    http::CASES,
    logs::CASES,
    processes::CASES,
    recordings::CASES,
    terminal::CASES,
];

/// Arguments of `floodmark-lab hostile`.
#[derive(Debug, Args)]
pub struct HostileArgs {
    /// The agent under attack
    #[arg(long)]
    agent: PathBuf,
    /// Run only these cases
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// An attack.
struct Case {
    /// What `--only` selects it by.
    name: &'static str,
    /// Who does what.
    attack: &'static str,
    /// Carries it out.
    run: fn(&Target) -> Result<Vec<Check>>,
}

/// What a case came to.
#[derive(Debug, Serialize)]
struct Outcome {
    case: &'static str,
    attack: &'static str,
    checks: Vec<Check>,
}

impl Outcome {
    /// A case that checked nothing did not run as it should have.
    fn holds(&self) -> bool {
        !self.checks.is_empty() && self.checks.iter().all(|check| check.holds)
    }
}

/// Runs the cases and prints a table; true if every limit holds. The last line is that of a test
/// runner, for whoever counts.
///
/// # Errors
///
/// If a case's name is unknown, or the results cannot be written as JSON.
pub fn hostile(args: &HostileArgs) -> Result<bool> {
    let cases = || THEMES.iter().copied().flatten();
    if let Some(unknown) = args.only.iter().find(|only| cases().all(|case| case.name != **only)) {
        bail!("no case is called {unknown}");
    }
    let mut outcomes = Vec::new();
    for case in
        cases().filter(|case| args.only.is_empty() || args.only.iter().any(|it| it == case.name))
    {
        let outcome = play(case, args);
        if !args.json {
            println!("{}: {}", outcome.case, outcome.attack);
            outcome.checks.iter().for_each(|check| println!("{check}"));
        }
        outcomes.push(outcome);
    }
    let passed = outcomes.iter().filter(|outcome| outcome.holds()).count();
    if args.json {
        println!("{}", serde_json::to_string_pretty(&outcomes)?);
    } else {
        println!("{passed} passed, 0 skipped, {} failed", outcomes.len() - passed);
    }
    Ok(passed == outcomes.len())
}

/// A case that could not be carried out has failed; the others still run.
fn play(case: &Case, args: &HostileArgs) -> Outcome {
    let checks = Target::new(&args.agent, case.name).and_then(|target| (case.run)(&target));
    let checks = checks
        .unwrap_or_else(|error| vec![Check::that("the attack runs", false, format!("{error:#}"))]);
    Outcome { case: case.name, attack: case.attack, checks }
}
