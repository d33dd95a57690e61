//! `cargo xtask test`: every check there is, each step run though an earlier one failed.

mod rules;
mod summary;

use std::{
    collections::VecDeque,
    env,
    ffi::OsStr,
    process::{Command, ExitCode},
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use crate::{
    build, place, root,
    setup::{self, Group},
    step, vm,
};
use summary::{Outcome, Summary};

/// How long one step may take: about three times what the longest does on two processors.
const STEP_LIMIT: Duration = Duration::from_secs(25 * 60);
/// How long all of them may take, so that whoever gives the whole a time of their own still gets its
/// summary.
const LIMIT: Duration = Duration::from_secs(80 * 60);

/// Check formatting and lints, run all tests and the demo, here and in virtual machines.
#[derive(clap::Args)]
pub struct Args {
    /// Skip the virtual machines.
    #[arg(long)]
    no_vm: bool,
    /// Run only these steps: fmt, clippy, unit, rules, manifests, supply, host, scenarios, demo, chain,
    /// verdicts, across, advice, raise, hostile, vm (all machines) or vm-6.1 ...
    #[arg(long, value_name = "STEP", value_delimiter = ',')]
    only: Vec<String>,
}

impl Args {
    fn wants(&self, step: &Step) -> bool {
        let named = |only: &String| *only == step.name || (step.is_vm() && only == "vm");
        !(step.is_vm() && self.no_vm) && (self.only.is_empty() || self.only.iter().any(named))
    }

    fn groups(&self) -> &'static [Group] {
        if self.no_vm {
            &[Group::Build, Group::Lab]
        } else {
            &[Group::Build, Group::Lab, Group::Vm]
        }
    }
}

/// Runs the verb; its last line of output sums up.
///
/// # Errors
///
/// When no step bears a name that was asked for. What fails to be installed or built is a step
/// that failed.
pub fn main(args: &Args) -> Result<ExitCode> {
    let (machines, here): (Vec<Step>, Vec<Step>) =
        all_steps()?.into_iter().filter(|step| args.wants(step)).partition(Step::is_vm);
    if here.is_empty() && machines.is_empty() {
        anyhow::bail!("no step is called {}", args.only.join(", "));
    }
    let deadline = Instant::now() + LIMIT;
    let mut summary = Summary::default();
    if let Err(error) = setup::ensure(args.groups()) {
        eprintln!("{error:#}");
        summary.add(Outcome::broken("setup"));
    }
    for step in here {
        summary.add(step.run(deadline));
    }
    for outcome in two_at_a_time(machines, deadline) {
        summary.add(outcome);
    }
    print!("{summary}");
    Ok(if summary.all_passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Two fill the smallest of hosts: a machine without hardware support keeps a processor busy.
fn two_at_a_time(machines: Vec<Step>, deadline: Instant) -> Vec<Outcome> {
    let waiting = Mutex::new(VecDeque::from(machines));
    let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    thread::scope(|scope| {
        let worker =
            || std::iter::from_fn(&next).map(|step| step.run(deadline)).collect::<Vec<_>>();
        let workers = [scope.spawn(worker), scope.spawn(worker)];
        let outcomes = workers.into_iter().map(|worker| {
            worker.join().unwrap_or_else(|_| vec![Outcome::broken("a machine's step")])
        });
        outcomes.flatten().collect()
    })
}

/// One command, of which the exit status and the test results in its output count.
struct Step {
    name: String,
    /// Made when its turn comes, since it may have to build something first.
    command: Box<dyn FnOnce() -> Result<Command> + Send>,
}

impl Step {
    fn new(
        name: impl Into<String>,
        command: impl FnOnce() -> Result<Command> + Send + 'static,
    ) -> Self {
        Self { name: name.into(), command: Box::new(command) }
    }

    fn is_vm(&self) -> bool {
        self.name.starts_with("vm-")
    }

    fn run(self, deadline: Instant) -> Outcome {
        let ended = (self.command)().and_then(|mut command| {
            let left = deadline.saturating_duration_since(Instant::now());
            ensure!(!left.is_zero(), "not run: all steps together took too long");
            step::run(&format!("test {}", self.name), left.min(STEP_LIMIT), &mut command)
        });
        match ended {
            Ok(ended) => {
                if !ended.ok {
                    eprintln!("{}", ended.tail());
                }
                Outcome::of(&self.name, ended.ok, &ended.output, ended.took)
            }
            Err(error) => {
                eprintln!("{}: {error:#}", self.name);
                Outcome::broken(&self.name)
            }
        }
    }
}

fn all_steps() -> Result<Vec<Step>> {
    // Taken now: a step may build this very program anew, and then /proc/self/exe leads nowhere.
    let this = env::current_exe().context("find this program")?;
    let xtask = |arguments: &[&str]| {
        let mut command = Command::new(&this);
        command.args(arguments);
        move || Ok(command)
    };
    let mut steps = vec![
        Step::new("fmt", || Ok(cargo(["fmt", "--all", "--check"]))),
        Step::new("clippy", || Ok(cargo(["clippy", "--all-targets", "--", "-Dwarnings"]))),
        Step::new("unit", || {
            let mut cargo = cargo(["test", "--", "--skip", build::PRIVILEGED_PREFIX]);
            cargo.env("PATH", place::path_with_tools()?);
            Ok(cargo)
        }),
        Step::new("rules", rules::command),
        Step::new("manifests", xtask(&["manifests"])),
        Step::new("supply", xtask(&["supply"])),
        Step::new("host", privileged_tests),
        Step::new("scenarios", || {
            let scenarios = build::tested("floodmark-scenarios")?;
            root::command(&scenarios, &scenarios.display().to_string())
        }),
        Step::new("demo", xtask(&["demo", "--quick"])),
        Step::new("chain", xtask(&["lab", "chain", "--quick"])),
        Step::new("verdicts", xtask(&["lab", "verdicts", "--rounds", "1"])),
        Step::new("across", xtask(&["lab", "across"])),
        Step::new("advice", xtask(&["lab", "advice", "--only", "backlog,keepalive"])),
        Step::new("raise", xtask(&["lab", "raise"])),
        Step::new("hostile", xtask(&["lab", "hostile"])),
    ];
    // The longest first, so that both machines end at about the same time.
    for kernel in vm::series::by_default().map(|series| series.name) {
        steps.push(Step::new(format!("vm-{kernel}"), xtask(&["vm", "--kernel", kernel])));
    }
    for kernel in vm::series::by_default().map(|series| series.name) {
        let scenarios = xtask(&["vm", "--kernel", kernel, "scenarios"]);
        steps.push(Step::new(format!("vm-{kernel}-scenarios"), scenarios));
        let demo = xtask(&["demo", "--quick", "--vm", kernel]);
        steps.push(Step::new(format!("vm-{kernel}-demo"), demo));
    }
    // On the rung that no host of tests need have.
    let verdicts = xtask(&["lab", "verdicts", "--rounds", "1", "--vm", "6.12"]);
    steps.push(Step::new("vm-6.12-verdicts", verdicts));
    Ok(steps)
}

fn cargo<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Command {
    let mut cargo = build::cargo();
    cargo.args(arguments);
    cargo
}

/// The tests that need root, on this host's kernel. They share its counters: one at a time.
fn privileged_tests() -> Result<Command> {
    let (agent, lab) = build::agent_and_lab()?;
    // Whatever runs a program as root, cargo calls to run the tests.
    let as_root = root::command("env", "cargo xtask test")?;
    let runner: Vec<&OsStr> =
        [as_root.get_program()].into_iter().chain(as_root.get_args()).collect();
    let only = [build::PRIVILEGED_PREFIX, "--test-threads=1"];
    let mut cargo = cargo(["test", "--no-fail-fast", "--"].into_iter().chain(only));
    cargo
        .env(vm::AGENT_VARIABLE, agent)
        .env(vm::LAB_VARIABLE, lab)
        .env("FLOODMARK_PROMETHEUS", setup::prometheus::root())
        .env("PATH", place::path_with_tools()?)
        .env("CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER", runner.join(OsStr::new(" ")));
    Ok(cargo)
}
