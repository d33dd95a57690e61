//! The labelled suite: each cause really produced with real proxies, in mixed order and several at
//! once, and the agent's verdicts compared with the truth.

pub mod behave;
mod case;
mod clock;
mod hosts;
mod proxies;
mod score;

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use clap::Args;
use floodmark::verdict::Verdict;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::json;

use case::{CASES, Proxy};
use hosts::Hosts;
use proxies::{Proxies, port};
use score::{Score, judge};

/// Until the agent has seen a new listener: its sweep, and some more.
const SWEEP: Duration = Duration::from_secs(6);
/// Until an event has its verdict.
const SETTLE: Duration = Duration::from_secs(5);
/// Until an ejection has its verdict.
const LAST: Duration = Duration::from_secs(11);

/// Arguments of `floodmark-lab verdicts`.
#[derive(Debug, Args)]
pub struct VerdictsArgs {
    /// The agent
    #[arg(long)]
    agent: PathBuf,
    /// The proxies that play
    #[arg(long, value_delimiter = ',', default_value = "nginx,haproxy,envoy")]
    proxies: Vec<Proxy>,
    /// Envoy's program
    #[arg(long, default_value = "envoy")]
    envoy: PathBuf,
    /// Docker's userland proxy
    #[arg(long, default_value = "docker-proxy")]
    docker_proxy: PathBuf,
    /// How often each case is played with each proxy
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Cases played at once
    #[arg(long, default_value_t = 6)]
    at_once: usize,
    /// Play only these cases
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Set this machine's clock in the middle of each wave, back and forward; only for a virtual machine
    #[arg(long)]
    set_clock: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Plays the suite; true where it passes.
pub fn verdicts(args: &VerdictsArgs) -> Result<bool> {
    let label = std::process::id().to_string();
    let directory = std::env::temp_dir().join(format!("fmlab-{label}-verdicts"));
    fs::create_dir_all(&directory).context("making a folder for the proxies")?;
    let played = play(args, &label, &directory);
    if played.is_ok() {
        let _ = fs::remove_dir_all(&directory);
    }
    let played = played?;
    if args.set_clock {
        let noted = clock::noted(&played)?;
        eprintln!("{noted} of {} verdicts say that the clock was set", played.len());
    }
    let (judged, score) = judge(&played, &runs(args));
    if args.json {
        println!("{}", serde_json::to_string_pretty(&json!({"cases": judged, "score": score}))?);
    } else {
        for wrong in judged.iter().filter(|one| !one.right) {
            println!("wrong: {}", serde_json::to_string(wrong)?);
        }
        print_score(&score);
    }
    Ok(score.passes())
}

fn print_score(score: &Score) {
    for (name, (right, all)) in &score.by_case {
        println!("{name:<28}{right:>5} of {all}");
    }
    println!(
        "{} of {} verdicts right, {} wrong and sure, no kernel evidence {} times rightly and {} \
         times wrongly, {} strays, silent: {:?}",
        score.right,
        score.verdicts,
        score.wrong_and_sure,
        score.honest,
        score.blind,
        score.strays,
        score.silent
    );
}

fn play(args: &VerdictsArgs, label: &str, directory: &Path) -> Result<Vec<Verdict>> {
    let hosts = Hosts::new(label, &args.docker_proxy)?;
    // HAProxy logs to the agent's socket, and the agent asks HAProxy's.
    let agent = Agent::start(&args.agent, &Proxies::sources(directory), &hosts.names())?;
    let proxies = Proxies::start(&hosts.proxy, directory, &args.proxies, &args.envoy)?;
    thread::sleep(SWEEP);
    let mut wave_number = 0;
    for round in 0..args.rounds {
        // A case is played once at a time: its application has a port of its own.
        let mut runs = runs(args);
        shuffle(&mut runs, round);
        for wave in runs.chunks(args.at_once.max(1)) {
            play_wave(&hosts, &proxies, wave, args.set_clock.then_some(wave_number))?;
            wave_number += 1;
        }
    }
    thread::sleep(LAST);
    drop(proxies);
    agent.finish()
}

/// Each case asked for, with each proxy that plays it.
fn runs(args: &VerdictsArgs) -> Vec<(usize, Proxy)> {
    let mut runs = Vec::new();
    for (number, case) in CASES.iter().enumerate() {
        if args.only.is_empty() || args.only.iter().any(|only| only == case.name) {
            let proxies = case.proxies.iter().filter(|proxy| args.proxies.contains(proxy));
            runs.extend(proxies.map(|proxy| (number, *proxy)));
        }
    }
    runs
}

/// Some cases at once; the clock is set meanwhile, where the wave has a number.
fn play_wave(
    hosts: &Hosts,
    proxies: &Proxies,
    wave: &[(usize, Proxy)],
    number: Option<usize>,
) -> Result<()> {
    let mut faults = Vec::new();
    for (number, proxy) in wave {
        faults.push(hosts.start(&CASES[*number], port(*number, *proxy))?);
    }
    thread::sleep(SWEEP);
    thread::scope(|scope| {
        let asked: Vec<_> = wave
            .iter()
            .map(|(number, proxy)| scope.spawn(|| proxies.request(&CASES[*number], *proxy)))
            .collect();
        if let Some(number) = number {
            thread::sleep(clock::MIDDLE);
            clock::step(number)?;
        }
        asked.into_iter().try_for_each(|asked| {
            asked.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a client panicked")))
        })
    })?;
    thread::sleep(SETTLE);
    Ok(())
}

/// A mixed order, the same every time: Fisher and Yates by a linear congruential generator.
fn shuffle<T>(items: &mut [T], seed: u32) {
    let mut state = 20_261_120 + u64::from(seed);
    for last in (1..items.len()).rev() {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        items.swap(last, (state >> 33) as usize % (last + 1));
    }
}

/// A running `floodmark run --verdicts`.
struct Agent {
    child: Child,
    verdicts: mpsc::Receiver<Verdict>,
}

impl Agent {
    /// Starts it, to look into these namespaces only.
    fn start(program: &Path, sources: &[String], namespaces: &[&str]) -> Result<Self> {
        let mut child = Command::new(program)
            .args(["run", "--listen", "127.0.0.1:0", "--verdicts"])
            .args(sources)
            .args(namespaces.iter().flat_map(|name| ["--netns", name]))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {}", program.display()))?;
        let stdout = BufReader::new(child.stdout.take().context("the agent's output")?);
        let (sender, verdicts) = mpsc::channel();
        thread::spawn(move || {
            let lines = stdout.lines().map_while(Result::ok);
            for verdict in lines.filter_map(|line| serde_json::from_str(&line).ok()) {
                if sender.send(verdict).is_err() {
                    return;
                }
            }
        });
        // It listens for syslog before it says anything.
        thread::sleep(Duration::from_secs(3));
        if let Some(status) = child.try_wait()? {
            bail!("the agent ended at once: {status}");
        }
        Ok(Self { child, verdicts })
    }

    fn finish(mut self) -> Result<Vec<Verdict>> {
        kill(Pid::from_raw(self.child.id() as i32), Signal::SIGINT).context("interrupting it")?;
        let verdicts = self.verdicts.iter().collect();
        self.child.wait().context("waiting for the agent")?;
        Ok(verdicts)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
