//! `cargo xtask test`: every check there is, each step run though an earlier one failed.

mod summary;

use std::{
    env,
    process::{Command, ExitCode},
    thread,
};

use anyhow::{Context, Result};

use crate::{
    build, place, root,
    setup::{self, Group},
    step, vm,
};
use summary::{Outcome, Summary};

/// Check formatting and lints, run all tests and the demo, here and in virtual machines.
#[derive(clap::Args)]
pub struct Args {
    /// Leave the virtual machines out.
    #[arg(long)]
    no_vm: bool,
    /// Run only these steps: fmt, clippy, unit, host, demo, vm (or vm-6.1 ...).
    #[arg(long, value_name = "STEP", value_delimiter = ',')]
    only: Vec<String>,
}

impl Args {
    fn wants(&self, step: &str) -> bool {
        let is_vm = step.starts_with("vm-");
        let named = |only: &String| only == step || (is_vm && only == "vm");
        !(is_vm && self.no_vm) && (self.only.is_empty() || self.only.iter().any(named))
    }
}

/// Runs the verb; ends with one line that sums up.
///
/// # Errors
///
/// When something needed cannot be installed, or no step bears a name that was asked for.
pub fn main(args: &Args) -> Result<ExitCode> {
    setup::ensure(if args.no_vm {
        &[Group::Build, Group::Lab]
    } else {
        &[Group::Build, Group::Lab, Group::Vm]
    })?;
    let mut summary = Summary::default();
    let steps: Vec<Step> = all_steps()?.into_iter().filter(|step| args.wants(&step.name)).collect();
    anyhow::ensure!(!steps.is_empty(), "no step is called {}", args.only.join(", "));
    let (machines, here): (Vec<Step>, Vec<Step>) =
        steps.into_iter().partition(|step| step.name.starts_with("vm-"));
    for step in here {
        summary.add(step.run());
    }
    // Each machine has one processor and uses it fully, so two keep a small host busy.
    for pair in in_pairs(machines) {
        thread::scope(|scope| {
            let running: Vec<_> =
                pair.into_iter().map(|step| scope.spawn(move || step.run())).collect();
            for step in running {
                summary.add(step.join().unwrap_or_else(|_| Outcome::broken("a step panicked")));
            }
        });
    }
    print!("{summary}");
    Ok(if summary.all_passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn in_pairs(steps: Vec<Step>) -> Vec<Vec<Step>> {
    let mut pairs: Vec<Vec<Step>> = Vec::new();
    for step in steps {
        match pairs.last_mut() {
            Some(pair) if pair.len() < 2 => pair.push(step),
            _ => pairs.push(vec![step]),
        }
    }
    pairs
}

struct Step {
    name: String,
    command: Command,
}

impl Step {
    fn new(name: impl Into<String>, command: Command) -> Self {
        Self { name: name.into(), command }
    }

    fn run(mut self) -> Outcome {
        match step::run(&format!("test {}", self.name), &mut self.command) {
            Ok(ended) => {
                if !ended.status.success() {
                    eprintln!("{}", ended.tail());
                }
                Outcome::of(&self.name, ended.status.success(), &ended.output, ended.took)
            }
            Err(error) => {
                eprintln!("{}: {error:#}", self.name);
                Outcome::broken(&self.name)
            }
        }
    }
}

fn all_steps() -> Result<Vec<Step>> {
    let mut steps = vec![
        Step::new("fmt", cargo(&["fmt", "--all", "--check"])),
        Step::new("clippy", clippy()),
        Step::new("unit", cargo(&[&["test"], HOST_CODE, &["--exclude", "floodmark-tests"]].concat())),
        Step::new("host", this_program(&["test-privileged"])?),
        Step::new("demo", this_program(&["demo", "--quick"])?),
    ];
    for series in vm::series::by_default() {
        let kernel = series.name;
        let command = this_program(&["vm", "--kernel", kernel])?;
        steps.push(Step::new(format!("vm-{kernel}"), command));
        let command = this_program(&["demo", "--quick", "--vm", kernel])?;
        steps.push(Step::new(format!("vm-{kernel}-demo"), command));
    }
    Ok(steps)
}
