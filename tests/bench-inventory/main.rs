//! `floodmark-bench-inventory`: what it costs to know every listener. Needs root.

mod host;
mod programs;

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    process::{Child, Command, ExitCode, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use clap::Parser;
use floodmark::{
    inventory::{Inventory, OwnerSearch, Queues},
    kernel::{KernelSource, Object, Rung, netns::discover},
};
use host::Host;

const LISTENERS_EACH: usize = 10;
/// Where the agent serves.
const ADDR: &str = "127.0.0.1:19436";

/// Measure sweeps, scrapes, memory and what the programs take for each connection.
#[derive(Parser)]
struct Cli {
    /// The agent
    #[arg(long)]
    agent: PathBuf,
    /// Network namespaces, with ten listeners in each: a table for each number
    #[arg(long, value_delimiter = ',', default_values_t = [100, 300])]
    namespaces: Vec<usize>,
    /// How often each thing is measured
    #[arg(long, default_value_t = 30)]
    rounds: usize,
    /// Connections made to see what the programs take
    #[arg(long, default_value_t = 10_000)]
    connections: usize,
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(page) => {
            print!("{page}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("floodmark-bench-inventory: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(cli: &Cli) -> Result<String> {
    let pages = cli.namespaces.iter().map(|namespaces| page(cli, *namespaces));
    Ok(pages.collect::<Result<Vec<String>>>()?.join("\n"))
}

/// What it costs on a host with so many namespaces.
fn page(cli: &Cli, namespaces: usize) -> Result<String> {
    let host = Host::new(namespaces, LISTENERS_EACH * namespaces)?;
    let attach = times(cli.rounds, || Ok(Object::attach(Rung::Fentry)))?;
    let sweep = sweep(cli.rounds)?;
    let owners = owners(cli.rounds)?;
    let refresh = refresh(cli.rounds)?;
    let finding = times(cli.rounds, discover)?;
    let sample = sample(cli.rounds)?;
    let mut agent = Agent::start(cli, host.listeners)?;
    let scrape = agent.scrapes(cli.rounds)?;
    let tick = agent.ticks(cli.rounds)?;
    let programs = programs::per_connection(cli.connections)?;
    let resident = agent.resident_kib()?;
    let cpu = agent.cpu_share()?;
    let mut page = format!(
        "| {namespaces} namespaces, {} listeners | median | worst of {} |\n| --- | --- | --- |\n",
        host.listeners, cli.rounds
    );
    for (what, (median, worst)) in [
        ("load and attach the programs that this kernel allows", attach),
        ("sweep", sweep),
        ("look up the owners of all listeners", owners),
        ("read only the queues", refresh),
        ("find and identify the namespaces", finding),
        ("sample the kernel's counters in every namespace", sample),
        ("a tick of the agent, by its own metric", tick),
        ("scrape of /metrics", scrape.times),
    ] {
        page += &format!("| {what} | {:.1} ms | {:.1} ms |\n", ms(median), ms(worst));
    }
    page += &format!(
        "\nA scrape is {} lines of {} KiB. The agent has {:.1} MiB resident and takes {:.2} % of a \
         processor.\n\n{programs}",
        scrape.lines,
        scrape.bytes / 1024,
        resident as f64 / 1024.0,
        cpu * 100.0,
    );
    Ok(page)
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Median and worst.
type Times = (Duration, Duration);

/// How long it takes, without what dropping its result takes.
fn times<T>(rounds: usize, mut what: impl FnMut() -> Result<T>) -> Result<Times> {
    let mut all = Vec::new();
    for _ in 0..rounds {
        let started = Instant::now();
        let result = what()?;
        all.push(started.elapsed());
        drop(result);
    }
    Ok(median_and_worst(all))
}

fn median_and_worst(mut all: Vec<Duration>) -> Times {
    all.sort();
    (all[all.len() / 2], all[all.len() - 1])
}

fn sweep(rounds: usize) -> Result<Times> {
    let mut inventory = Inventory::default();
    inventory.sweep(&discover()?, true)?;
    // As the agent does it: finding the namespaces is part of it.
    times(rounds, || inventory.sweep(&discover()?, false))
}

/// Which the agent does once a minute.
fn owners(rounds: usize) -> Result<Times> {
    let (mut inventory, mut search) = (Inventory::default(), OwnerSearch::default());
    inventory.sweep(&discover()?, true)?;
    times(rounds, || {
        let inodes = inventory.ownerless(true);
        search.search(&inodes, true, |found| inventory.enter_owners(&inodes, &found));
        Ok(())
    })
}

fn refresh(rounds: usize) -> Result<Times> {
    let (mut inventory, namespaces) = (Inventory::default(), discover()?);
    inventory.sweep(&namespaces, true)?;
    times(rounds, || {
        inventory.enter_queues(Queues::of(&namespaces, &inventory.queues_to_look_at())?);
        Ok(())
    })
}

/// Which the agent does each second.
fn sample(rounds: usize) -> Result<Times> {
    let namespaces = discover()?;
    let mut source = KernelSource::attach(&namespaces)?;
    times(rounds, || source.sample(&namespaces))
}

struct Scrape {
    times: Times,
    lines: usize,
    bytes: usize,
}

/// The agent at work.
struct Agent(Child);

impl Agent {
    /// Starts it and waits until it exports every one of so many listeners.
    fn start(cli: &Cli, listeners: usize) -> Result<Self> {
        let agent = Command::new(&cli.agent)
            .args([
                "run",
                "--watch-connections",
                "--listen",
                ADDR,
                "--listeners",
                &listeners.to_string(),
            ])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("starting {}", cli.agent.display()))?;
        let agent = Self(agent);
        for _ in 0..100 {
            sleep(Duration::from_millis(200));
            let shown = get().map(|text| text.matches("floodmark_listener_info{").count());
            if shown.is_ok_and(|shown| shown >= listeners) {
                return Ok(agent);
            }
        }
        anyhow::bail!("the agent does not export {listeners} listeners")
    }

    fn scrapes(&mut self, rounds: usize) -> Result<Scrape> {
        let mut text = String::new();
        let times = times(rounds, || {
            text = get()?;
            Ok(())
        })?;
        Ok(Scrape { times, lines: text.lines().count(), bytes: text.len() })
    }

    /// How long the agent's ticks take, one of each second.
    fn ticks(&mut self, rounds: usize) -> Result<Times> {
        let mut all = Vec::new();
        for _ in 0..rounds {
            sleep(Duration::from_secs(1));
            let text = get()?;
            let name = "floodmark_tick_duration_seconds ";
            let value = text.lines().find_map(|line| line.strip_prefix(name));
            all.push(Duration::from_secs_f64(value.context("no tick exported")?.parse()?));
        }
        Ok(median_and_worst(all))
    }

    /// `VmRSS` of proc(5).
    fn resident_kib(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        number.context("no VmRSS")
    }

    /// Share of one processor over ten seconds in which nobody scrapes.
    fn cpu_share(&self) -> Result<f64> {
        const SPAN: u64 = 10;
        let before = self.processor_time()?;
        sleep(Duration::from_secs(SPAN));
        // USER_HZ is 100 on Linux.
        Ok((self.processor_time()? - before) as f64 / (100 * SPAN) as f64)
    }

    /// User and system time, the 14th and 15th field of `/proc/PID/stat`.
    fn processor_time(&self) -> Result<u64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.0.id()))?;
        let (_, rest) = stat.rsplit_once(')').context("an odd /proc/PID/stat")?;
        let fields: Vec<u64> =
            rest.split_whitespace().skip(11).take(2).filter_map(|f| f.parse().ok()).collect();
        Ok(fields.iter().sum())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// One scrape.
fn get() -> Result<String> {
    let addr: SocketAddr = ADDR.parse()?;
    let mut stream = TcpStream::connect_timeout(&addr, Duration::from_secs(2))?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    anyhow::ensure!(text.starts_with("HTTP/1.1 200 "), "no snapshot yet");
    Ok(text)
}
