//! `cargo xtask bench`: what Floodmark costs, measured and written down.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::{
    build, place, root,
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
const SOAK_PAGE: &str = "docs/soak.md";
const INVENTORY_PAGE: &str = "docs/bench-inventory.md";
const RECORD_PAGE: &str = "docs/bench-record.md";

/// Measure what Floodmark costs.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    Kernel(KernelArgs),
    Inventory(InventoryArgs),
    Proxy(ProxyArgs),
    Soak(SoakArgs),
    Record(RecordArgs),
}

/// Measure the cost of recording, and write docs/bench-record.md.
#[derive(clap::Args)]
struct RecordArgs {
    /// Connections per second.
    #[arg(long, default_value_t = 10_000)]
    rate: u64,
    /// Seconds of real connections, with and without recording.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
}

/// Measure the cost of the inventory on this host, and write docs/bench-inventory.md.
#[derive(clap::Args)]
struct InventoryArgs {
    /// Number of network namespaces, with ten listeners each; several numbers give several tables.
    #[arg(long, default_value = "100,300")]
    namespaces: String,
}

/// Run a soak test: a day's load on an agent in minutes; writes docs/soak.md.
#[derive(clap::Args)]
struct SoakArgs {
    /// Duration, such as 30m or 600s.
    #[arg(long, default_value = "30m", value_parser = duration)]
    duration: Duration,
    /// Agent built by `cargo xtask dist`. Default: build one for this host.
    #[arg(long)]
    agent: Option<PathBuf>,
    /// Run in a virtual machine with this kernel series, where hooks see every loss; writes no page.
    #[arg(long, value_name = "SERIES", conflicts_with = "agent")]
    vm: Option<String>,
}

/// Measure how many lines of proxies' logs the agent reads per second.
#[derive(clap::Args)]
struct ProxyArgs {
    /// Logs to read, as DIALECT=FILE. Default: those of tests/corpora.
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
    /// Number of rounds; each measures everything once.
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
        What::Inventory(args) => inventory(args),
        What::Soak(args) => soak(args),
        What::Proxy(args) => proxy(args),
        What::Record(args) => record(args),
    }
}

fn inventory(args: &InventoryArgs) -> Result<ExitCode> {
    setup::ensure(&[Group::Build, Group::Lab])?;
    let agent = build::release("floodmark", "floodmark")?;
    let bench = build::release("floodmark-tests", "floodmark-bench-inventory")?;
    let flags = ["--namespaces", &args.namespaces];
    let title = "Cost of the inventory";
    on_this_host(&bench, &agent, &flags, "inventory", title, INVENTORY_PAGE)
}

fn record(args: &RecordArgs) -> Result<ExitCode> {
    setup::ensure(&[Group::Build])?;
    let agent = build::release("floodmark", "floodmark")?;
    let bench = build::release("floodmark-tests", "floodmark-bench-record")?;
    let (rate, seconds) = (args.rate.to_string(), args.seconds.to_string());
    let flags = ["--rate", &rate, "--seconds", &seconds];
    on_this_host(&bench, &agent, &flags, "record", "Cost of recording", RECORD_PAGE)
}

/// Runs a benchmark as root, and writes what it prints to its page.
fn on_this_host(
    bench: &Path,
    agent: &Path,
    flags: &[&str],
    verb: &str,
    title: &str,
    page_name: &str,
) -> Result<ExitCode> {
    let output = root::command(bench, &bench.display().to_string())?
        .arg("--agent")
        .arg(agent)
        .args(flags)
        .stderr(Stdio::inherit())
        .output()
        .context("start the benchmark")?;
    anyhow::ensure!(output.status.success(), "the benchmark failed; see above");
    let release =
        fs::read_to_string("/proc/sys/kernel/osrelease").context("read the kernel's release")?;
    let page = format!(
        "# {title}\n\n\
         Written by `cargo xtask bench {verb}`. Linux {}, {} processors.\n\n{}",
        release.trim_end(),
        thread::available_parallelism()?,
        String::from_utf8_lossy(&output.stdout)
    );
    fs::write(place::workspace().join(page_name), &page)
        .with_context(|| format!("write {page_name}"))?;
    print!("{page}");
    Ok(ExitCode::SUCCESS)
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
        "# Cost of the eBPF programs\n\nWritten by `cargo xtask bench kernel`. Linux {}, {}, one \
         processor, `-icount shift=3`.\n\nThis is software emulation: every instruction, \
         whichever it is, takes 8 ns of the guest's time, so only ratios mean anything.\n\n",
        kernel.release,
        qemu::version()?
    ))
}

fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = text.split_at(text.len().saturating_sub(1));
    let number: u64 = number.parse().map_err(|_| format!("{text} is not like 30m or 600s"))?;
    match unit {
        "m" => Ok(Duration::from_secs(60 * number)),
        "s" => Ok(Duration::from_secs(number)),
        _ => Err(format!("{text} is not like 30m or 600s")),
    }
}

fn soak_in_guest(series: &str, duration: Duration) -> Result<ExitCode> {
    let series = vm::series::find(series)?;
    setup::ensure(&[Group::Build, Group::Lab, Group::Vm])?;
    let mut payload = Payload::base()?;
    payload.program(&build::tested("floodmark")?, vm::AGENT)?;
    payload.program(&build::tested("floodmark-lab")?, vm::LAB)?;
    let seconds = duration.as_secs().to_string();
    let soak = ["soak", "--agent", vm::AGENT, "--seconds", &seconds];
    vm::play(series, &payload, &[&[vm::LAB], &soak[..]].concat(), duration + TIMEOUT)
}

fn soak(args: &SoakArgs) -> Result<ExitCode> {
    if let Some(series) = &args.vm {
        return soak_in_guest(series, args.duration);
    }
    setup::ensure(&[Group::Build, Group::Lab])?;
    let (agent, how) = match &args.agent {
        Some(agent) => (agent.clone(), "as it is shipped: static, with musl"),
        None => (build::release("floodmark", "floodmark")?, "by `cargo build --release`"),
    };
    let lab = build::tested("floodmark-lab")?;
    let status = root::command(&lab, "cargo xtask bench soak")?
        .args(["soak", "--seconds", &args.duration.as_secs().to_string()])
        .args(["--build", how, "--agent"])
        .arg(agent)
        .arg("--page")
        .arg(place::workspace().join(SOAK_PAGE))
        .env("PATH", place::path_with_tools()?)
        .status()
        .context("start the soak")?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
