//! Advice against the truth: each fault is brought about for real, `floodmark diagnose` watches, its
//! first advice is applied, and the same load must do no more harm.

mod case;
mod keepalive;
mod obstacle;
mod person;
mod stage;

use std::{path::PathBuf, process::Command, thread, time::Duration};

use anyhow::{Context, Result, bail};
use clap::Args;
use floodmark::verdict::{Change, Diagnosis, Step};
use serde::Serialize;
use serde_json::json;

use crate::{agent::Agent, verdicts::behave::Mode};
use case::{CASES, Case, Load};
use keepalive::Keepalive;
use stage::Stage;

/// Until the last segments are counted, the last line is read and its verdict given.
const SETTLE: Duration = Duration::from_secs(5);

/// Arguments of `floodmark-lab advice`.
#[derive(Debug, Args)]
pub struct AdviceArgs {
    /// The agent
    #[arg(long)]
    agent: PathBuf,
    /// Play only these cases; `keepalive` is one
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What a case came to.
#[derive(Debug, Serialize)]
struct Outcome {
    case: &'static str,
    /// The cause that it is, and the one that was named first.
    truth: &'static str,
    named: Option<&'static str>,
    /// The first advice.
    advice: String,
    /// Whether it takes a person; the case did what they would.
    by_person: bool,
    /// What of it a program applied.
    applied: Vec<Change>,
    /// Harm before it was applied, after, and with half of the advised backlog.
    before: u64,
    after: Option<u64>,
    with_half: Option<u64>,
    holds: bool,
}

/// Plays the cases; true where each was named rightly and its first advice ended the harm.
pub fn advice(args: &AdviceArgs) -> Result<bool> {
    let wanted = |name: &str| args.only.is_empty() || args.only.iter().any(|only| only == name);
    let known = |only: &&String| *only != "keepalive" && CASES.iter().all(|c| c.name != **only);
    if let Some(unknown) = args.only.iter().find(known) {
        bail!("no case is called {unknown}");
    }
    let mut outcomes = Vec::new();
    for case in CASES.iter().filter(|case| wanted(case.name)) {
        let outcome = play(case, args).with_context(|| format!("case {}", case.name))?;
        if !args.json {
            print(&outcome);
        }
        outcomes.push(outcome);
    }
    let keepalive = wanted("keepalive").then(|| keepalive::play(&args.agent)).transpose()?;
    if args.json {
        let all = json!({"cases": outcomes, "keepalive": keepalive});
        println!("{}", serde_json::to_string_pretty(&all)?);
    } else {
        keepalive.iter().for_each(|keepalive| println!("{keepalive}"));
        let right = outcomes.iter().filter(|outcome| outcome.holds).count();
        println!("{right} of {} cases hold", outcomes.len());
    }
    Ok(outcomes.iter().all(|o| o.holds) && keepalive.as_ref().is_none_or(Keepalive::holds))
}

fn print(outcome: &Outcome) {
    let number = |count: Option<u64>| count.map_or("-".to_owned(), |count| count.to_string());
    println!(
        "{:<18} {:<22} {:<22} before {:>4}, after {:>4}, with half {:>4}  {}\n    {}",
        outcome.case,
        outcome.truth,
        outcome.named.unwrap_or("nothing"),
        outcome.before,
        number(outcome.after),
        number(outcome.with_half),
        if outcome.holds { "holds" } else { "DOES NOT HOLD" },
        outcome.advice
    );
}

fn play(case: &Case, args: &AdviceArgs) -> Result<Outcome> {
    let mut stage = Stage::new(case, &format!("{}-{}", std::process::id(), case.name))?;
    let mut present = Present { mode: case.mode, backlog: case.backlog, max_conns: case.max_conns };
    present.begin(&mut stage, case)?;
    let agent = Agent::start(&args.agent, Some(&stage.error_log()), &stage.namespaces())?;
    let _fillers = stage.fill(case.fillers)?;
    thread::sleep(case.watched);
    let before = stage.load(case.load)?;
    thread::sleep(SETTLE);
    let diagnosis: Diagnosis = agent.finish()?;
    let first = diagnosis.advice.first();
    let mut outcome = Outcome {
        case: case.name,
        truth: case.cause.name(),
        named: diagnosis.findings.first().map(|finding| finding.cause.name()),
        advice: first.map(|step| format!("{} {}", step.what, step.why)).unwrap_or_default(),
        by_person: case.by_person,
        applied: Vec::new(),
        before,
        after: None,
        with_half: None,
        holds: false,
    };
    let named = outcome.named == Some(outcome.truth) && before > 0;
    let Some(step) = first else { return Ok(outcome) };
    let is_taken = if case.by_person {
        person::takes(case, step, &mut stage)?
    } else {
        outcome.applied.clone_from(&step.changes);
        present.apply(&mut stage, case, step)?;
        !step.changes.is_empty()
    };
    if matches!(case.load, Load::Requests(_)) {
        // nginx has marked its peer, and takes it back once it has answered.
        stage.requests(1)?;
    }
    outcome.after = Some(stage.load(case.load)?);
    if case.tries_half {
        present.backlog /= 2;
        present.begin(&mut stage, case)?;
        outcome.with_half = Some(stage.load(case.load)?);
    }
    let half_loses = outcome.with_half.is_none_or(|lost| lost > 0);
    outcome.holds = named && is_taken && outcome.after == Some(0) && half_loses;
    Ok(outcome)
}

/// How the application and nginx are run at present.
struct Present {
    mode: Option<Mode>,
    backlog: u32,
    max_conns: u32,
}

impl Present {
    fn begin(&self, stage: &mut Stage, case: &Case) -> Result<()> {
        if let Some(mode) = self.mode {
            stage.start_app(mode, self.backlog)?;
        }
        if matches!(case.load, Load::Requests(_)) {
            stage.start_nginx(self.max_conns, "", "")?;
        }
        Ok(())
    }

    /// Applies a step: commands as they are told, and what is the application's to do.
    fn apply(&mut self, stage: &mut Stage, case: &Case, step: &Step) -> Result<()> {
        for change in &step.changes {
            match change {
                Change::Sysctl { name, .. } => {
                    let command = step
                        .commands
                        .iter()
                        .find(|line| line.contains(&format!("sysctl -w {name}=")));
                    run(command.with_context(|| format!("no command sets {name}"))?)?;
                }
                Change::Backlog { value, .. } => self.backlog = *value,
                Change::Accept { .. }
                | Change::Continue { .. }
                | Change::Listen { .. }
                | Change::Workers { .. } => self.mode = Some(Mode::Fine),
                Change::Proxy { setting, .. } if setting == "max_conns" => self.max_conns = 0,
                _ => bail!("a change that no case expects: {change:?}"),
            }
        }
        let is_live = matches!(&step.changes[..], [Change::Sysctl { listen_again: false, .. }]);
        if is_live { Ok(()) } else { self.begin(stage, case) }
    }
}

/// Runs a command as a person would paste it.
fn run(command: &str) -> Result<()> {
    let output = Command::new("sh").args(["-c", command]).output().context("running sh")?;
    if !output.status.success() {
        bail!("{command}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
