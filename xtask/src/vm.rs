//! `cargo xtask vm`: programs of this host under other kernels, in QEMU by software emulation.
//!
//! Never with KVM: a nested one may open and then hang the guest, and a boot takes seconds anyway.

pub mod archive;
pub mod kernel;
mod modules;
mod packages;
pub mod payload;
mod qemu;
pub mod series;
mod version;

use std::{process::ExitCode, thread, time::Duration};

use anyhow::{Context, Result};

use crate::{
    build::{self, PRIVILEGED_PREFIX},
    setup::{self, Group},
};
use payload::Payload;
pub use qemu::{GuestOutput, Machine, run, run_on, run_system};
use series::Series;

/// Where the agent lies in a guest.
pub const AGENT: &str = "/usr/bin/floodmark";
/// Where the lab lies in a guest.
pub const LAB: &str = "/usr/bin/floodmark-lab";
/// Where the scenarios lie in a guest.
const SCENARIOS: &str = "/usr/bin/floodmark-scenarios";
/// The command that stands for them.
const SCENARIOS_COMMAND: &str = "scenarios";
/// Runs some of the privileged tests.
const TESTS_COMMAND: &str = "tests";
/// Tells the privileged tests where the agent is.
pub const AGENT_VARIABLE: &str = "FLOODMARK_AGENT";
/// Tells the privileged tests where the lab is.
pub const LAB_VARIABLE: &str = "FLOODMARK_LAB";

const TESTS_TIMEOUT: Duration = Duration::from_secs(1200);

/// Boot Debian kernels in QEMU and run the privileged tests, the scenarios, or a command, in each.
#[derive(clap::Args)]
pub struct Args {
    /// Kernel series, or `all`; see --list.
    #[arg(long, value_name = "SERIES", value_delimiter = ',')]
    kernel: Vec<String>,
    /// List the known series and the kernels that are already fetched.
    #[arg(long)]
    list: bool,
    /// Look for newer kernels of these series than those already fetched.
    #[arg(long)]
    refresh: bool,
    /// Run `scenarios` with its arguments, `tests` with file names, or a command in the guest, instead of
    /// all tests.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

/// Runs the verb; its exit status says whether every guest passed.
///
/// # Errors
///
/// When a series is unknown, or something needed cannot be installed or built.
pub fn main(args: &Args) -> Result<ExitCode> {
    if args.list {
        return list();
    }
    let chosen: Vec<&'static Series> = if args.kernel.is_empty() {
        series::by_default().collect()
    } else {
        series::named(&args.kernel)?
    };
    setup::ensure(&[Group::Build, Group::Lab, Group::Vm])?;
    let mut payload = Payload::base()?;
    payload.program(&build::tested("floodmark")?, AGENT)?;
    let command = match args.command.split_first() {
        None => add_tests(&mut payload, &[])?,
        Some((first, names)) if first == TESTS_COMMAND => add_tests(&mut payload, names)?,
        Some((first, names)) if first == SCENARIOS_COMMAND => add_scenarios(&mut payload, names)?,
        Some(_) => args.command.clone(),
    };
    let command: Vec<&str> = command.iter().map(String::as_str).collect();
    let mut all_passed = true;
    for pair in chosen.chunks(2) {
        for passed in side_by_side(pair, args.refresh, &payload, &command) {
            all_passed &= passed;
        }
    }
    Ok(if all_passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Boots the newest kernel of `series` with `payload`, runs `command` in it, prints what that says and
/// takes its exit status.
///
/// # Errors
///
/// As [`run`], and when the kernel cannot be fetched.
pub fn play(
    series: &'static Series,
    payload: &Payload,
    command: &[&str],
    timeout: Duration,
) -> Result<ExitCode> {
    let kernel = kernel::of_series(series, false)?;
    let output = run(&kernel, payload, command, timeout)?;
    print!("{}", output.stdout);
    eprint!("{}", output.console);
    Ok(output.exit_code())
}

fn list() -> Result<ExitCode> {
    for series in &series::ALL {
        let fetched = kernel::cached(series)?.map_or("not fetched".into(), |kernel| kernel.release);
        let default = if series.by_default { "default" } else { "" };
        println!("{:<6} {default:<8} {fetched}", series.name);
    }
    Ok(ExitCode::SUCCESS)
}

/// Boots each of `chosen` and prints what it said; tells which passed.
fn side_by_side(
    chosen: &[&'static Series],
    refresh: bool,
    payload: &Payload,
    command: &[&str],
) -> Vec<bool> {
    let boot = |series: &'static Series| {
        run(&kernel::of_series(series, refresh)?, payload, command, TESTS_TIMEOUT)
    };
    thread::scope(|scope| {
        let running: Vec<_> =
            chosen.iter().map(|&series| (series, scope.spawn(move || boot(series)))).collect();
        running
            .into_iter()
            .map(|(series, guest)| {
                let output = guest.join().unwrap_or_else(|_| anyhow::bail!("the runner panicked"));
                report(series, output)
            })
            .collect()
    })
}

fn report(series: &Series, output: Result<GuestOutput>) -> bool {
    match output {
        Ok(output) => {
            eprint!("{}", output.console);
            print!("{}", output.stdout);
            output.code == 0
        }
        Err(error) => {
            eprintln!("kernel {}: {error:#}", series.name);
            false
        }
    }
}

/// Adds the lab and the privileged tests, those whose files begin with one of `names` if there are
/// any; returns the command that runs the tests.
fn add_tests(payload: &mut Payload, names: &[String]) -> Result<Vec<String>> {
    payload.program(&build::tested("floodmark-lab")?, LAB)?;
    let mut count = 0;
    for test in build::privileged_tests()? {
        let file = test.file_name().and_then(|name| name.to_str());
        let file = file.with_context(|| format!("odd name: {}", test.display()))?;
        let is_wanted = if names.is_empty() {
            // The same on every kernel, and takes long to find out there.
            !file.starts_with("capabilities")
        } else {
            names.iter().any(|name| file.starts_with(name))
        };
        if is_wanted {
            payload.program(&test, &format!("/tests/{file}"))?;
            count += 1;
        }
    }
    anyhow::ensure!(count > 0, "there are no such tests in the package floodmark-tests");
    let script = format!(
        "export {AGENT_VARIABLE}={AGENT} {LAB_VARIABLE}={LAB} RUST_BACKTRACE=1; failed=0; \
         for test in /tests/*; do echo \"running $test\"; \
         $test {PRIVILEGED_PREFIX} --test-threads=1 || failed=1; done; exit $failed"
    );
    Ok(vec!["sh".into(), "-c".into(), script])
}

/// Adds the scenarios; returns the command that plays them.
fn add_scenarios(payload: &mut Payload, arguments: &[String]) -> Result<Vec<String>> {
    payload.program(&build::tested("floodmark-scenarios")?, SCENARIOS)?;
    Ok([&[SCENARIOS.to_owned()], arguments].concat())
}
