//! `floodmark-bench-proxy`: lines of proxies' logs read per second, on one processor.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use clap::Parser;
use floodmark::{
    proxy::{
        Dialect,
        source::{Interpreter, Source},
    },
    time::UnixMs,
};

/// How long each log is read.
const DURATION: Duration = Duration::from_secs(2);

/// What every dialect must be read at.
const FEWEST_PER_SECOND: u64 = 200_000;

/// Measure how fast proxies' logs are read; exit status 1 where that is too slow.
#[derive(Parser)]
struct Cli {
    /// Logs to read; those of the repository's corpora by default
    #[arg(value_name = "DIALECT=FILE", value_parser = Source::of_log)]
    logs: Vec<Source>,
    /// Where the corpora are
    #[arg(long, default_value = "tests/corpora")]
    corpora: PathBuf,
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("floodmark-bench-proxy: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(cli: &Cli) -> Result<bool> {
    let mut logs = Vec::new();
    for source in &cli.logs {
        if let Source::File(format, path) = source {
            logs.push((format.dialect.context("a log has a dialect")?, path.clone()));
        }
    }
    if logs.is_empty() {
        for dialect in Dialect::ALL {
            let directory = cli.corpora.join(dialect.name());
            let entries = fs::read_dir(&directory);
            for entry in entries.with_context(|| format!("reading {}", directory.display()))? {
                let path = entry?.path();
                if path.extension().is_some_and(|extension| extension == "log") {
                    logs.push((dialect, path));
                }
            }
        }
        logs.sort();
    }
    println!("{:<44}{:>8}{:>8}{:>16}", "log", "lines", "events", "lines/s");
    let mut is_fast = true;
    for (dialect, path) in &logs {
        let (lines, events, rate) = measure(*dialect, path)?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let name = format!("{}/{name}", dialect.name());
        println!("{name:<44}{lines:>8}{events:>8}{rate:>16}");
        is_fast &= rate >= FEWEST_PER_SECOND;
    }
    Ok(is_fast)
}

/// Lines of the log, events in them, and lines read per second.
fn measure(dialect: Dialect, path: &Path) -> Result<(usize, u64, u64)> {
    let bytes = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    let lines: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').collect();
    let mut interpreter = Interpreter::new(Some(dialect), path.display().to_string());
    let (now, begun) = (UnixMs::now(), Instant::now());
    let mut rounds = 0_u64;
    while begun.elapsed() < DURATION {
        for line in &lines {
            std::hint::black_box(interpreter.read(line, now));
        }
        rounds += 1;
    }
    let seconds = begun.elapsed().as_secs_f64();
    let stats = interpreter.stats();
    let events = stats.events.load(Ordering::Relaxed) / rounds.max(1);
    Ok((lines.len(), events, (stats.lines.load(Ordering::Relaxed) as f64 / seconds) as u64))
}
