//! `cargo xtask bench`: what Floodmark costs, measured and written down.

use std::{
    fs,
    path::Path,
    process::{Command, ExitCode},
    time::Duration,
};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::{
    build, place,
    setup::{self, Group, qemu},
    vm::{self, Machine, kernel::Kernel, payload::Payload},
};

/// Many rounds of compiling tools, on an emulated processor.
const TIMEOUT: Duration = Duration::from_secs(3000);
/// Where the benchmark lies in a guest.
const BENCH: &str = "/usr/bin/floodmark-bench";
/// Where the empty programs lie in a guest.
const EMPTY: &str = "/usr/lib/floodmark-empty";
/// Programs that Floodmark is compared with, and their scripts.
const TOOLS: [&str; 2] = ["bpftrace", "tcpsynbl"];
const SCRIPTS: [&str; 2] = ["/usr/sbin/tcpsynbl.bt", "/usr/sbin/tcpdrop.bt"];
/// The page that the verb writes, in the repository.
const PAGE: &str = "docs/bench-kernel.md";

/// Measure what Floodmark costs.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    Kernel(KernelArgs),
    Proxy(ProxyArgs),
}

/// Measure how many lines of proxies' logs are read per second.
#[derive(clap::Args)]
struct ProxyArgs {
    /// Logs to read, as DIALECT=FILE; those of tests/corpora by default.
    logs: Vec<String>,
}

/// Measure the eBPF programs in a virtual machine, and write docs/bench-kernel.md.
#[derive(clap::Args)]
struct KernelArgs {
    /// Kernel series.
    #[arg(long, value_name = "SERIES", default_value = "6.12")]
    kernel: String,
    /// Print one JSON object on standard output, instead of the page.
    #[arg(long)]
    json: bool,
    /// Rounds in which everything is measured once.
    #[arg(long, default_value_t = 5)]
    rounds: u32,
}

/// Runs the verb.
///
/// # Errors
///
/// When something needed cannot be installed or built, or the virtual machine breaks.
pub fn main(args: &Args) -> Result<ExitCode> {
    match &args.what {
        What::Kernel(args) => kernel(args),
        What::Proxy(args) => proxy(args),
    }
}

fn proxy(args: &ProxyArgs) -> Result<ExitCode> {
    setup::ensure(&[Group::Build])?;
    let bench = build::release("floodmark-tests", "floodmark-bench-proxy")?;
    let mut command = Command::new(&bench);
    command.current_dir(place::workspace()).args(&args.logs);
    let status = command.status().with_context(|| format!("start {}", bench.display()))?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn kernel(args: &KernelArgs) -> Result<ExitCode> {
    let series = vm::series::find(&args.kernel)?;
    setup::ensure(&[Group::Build, Group::Lab, Group::Vm, Group::Bench])?;
    let kernel = vm::kernel::of_series(series, false)?;
    let mut measured = measure(&kernel, args.rounds)?;
    let page = format!("{}{}", heading(&kernel)?, measured["page"].as_str().unwrap_or_default());
    fs::write(place::workspace().join(PAGE), &page).with_context(|| format!("write {PAGE}"))?;
    if args.json {
        let report = &mut measured["report"];
        report["kernel"] = kernel.release.into();
        report["emulator"] = qemu::version()?.into();
        println!("{report}");
    } else {
        print!("{page}");
    }
    Ok(ExitCode::SUCCESS)
}

fn measure(kernel: &Kernel, rounds: u32) -> Result<Value> {
    let rounds = rounds.to_string();
    let flags = ["--agent", vm::AGENT, "--empty", EMPTY, "--rounds", &rounds, "--json"];
    let command = [&[BENCH], &flags[..]].concat();
    let output = vm::run_on(Machine::Counting, kernel, &payload()?, &command, TIMEOUT)?;
    eprint!("{}", output.console);
    anyhow::ensure!(output.code == 0, "the benchmark failed; see the console above");
    serde_json::from_str(&output.stdout).context("read what the benchmark measured")
}

fn payload() -> Result<Payload> {
    let mut payload = Payload::base()?;
    payload.program(&build::release("floodmark", "floodmark")?, vm::AGENT)?;
    payload.program(&build::release("floodmark-tests", "floodmark-bench")?, BENCH)?;
    payload.add(EMPTY, &build::empty_programs()?);
    for tool in TOOLS {
        let program = place::program(tool).with_context(|| format!("{tool} is not installed"))?;
        payload.program(&program, &format!("/usr/bin/{tool}"))?;
    }
    for script in SCRIPTS {
        payload.add(script, Path::new(script));
    }
    Ok(payload)
}

fn heading(kernel: &Kernel) -> Result<String> {
    Ok(format!(
        "# What the programs cost\n\n\
         Written by `cargo xtask bench kernel`. Linux {}, {}, one processor, `-icount shift=3`.\n\n\
         This is software emulation: every instruction, whichever it is, takes 8 ns of the guest's \
         time, so only ratios mean anything.\n\n",
        kernel.release,
        qemu::version()?
    ))
}
