//! `cargo xtask fuzz`: whatever others write is read without a fault.

use std::{
    env, fs,
    path::PathBuf,
    process::{Command, ExitCode},
    time::Duration,
};

use anyhow::{Context, Result};

use crate::{
    place,
    setup::{self, Group, fuzz},
    step,
};

/// Run the fuzz targets: one for each dialect, framing and envelope.
#[derive(clap::Args)]
pub struct Args {
    /// Duration of each target.
    #[arg(long, default_value_t = 600)]
    seconds: u32,
    /// Run only these targets.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
}

/// The targets, each with the folder of `tests/corpora` that it begins with.
const TARGETS: [(&str, Option<&str>); 15] = [
    ("nginx", Some("nginx")),
    ("records", Some("nginx")),
    ("haproxy", Some("haproxy")),
    ("log_format", None),
    ("envoy", Some("envoy")),
    ("caddy", Some("caddy")),
    ("apache", Some("apache")),
    ("traefik", None),
    ("carrier", None),
    ("framing", None),
    ("file", None),
    ("lint", None),
    ("recording", Some("recording")),
    ("bus", Some("bus")),
    ("elf", None),
];

/// Runs the verb.
///
/// # Errors
///
/// When something needed cannot be installed, or no target bears a name that was asked for.
pub fn main(args: &Args) -> Result<ExitCode> {
    setup::ensure(&[Group::Build, Group::Fuzz])?;
    let wanted = |name: &str| args.only.is_empty() || args.only.iter().any(|only| only == name);
    let targets: Vec<_> = TARGETS.iter().filter(|(name, _)| wanted(name)).collect();
    anyhow::ensure!(!targets.is_empty(), "no target is called {}", args.only.join(", "));
    let mut failed = Vec::new();
    for (name, corpus) in targets {
        let seeds = corpus.map(|corpus| seeds(name, corpus)).transpose()?;
        let mut command = cargo_fuzz()?;
        command.args(["run", "--fuzz-dir", ".", name]);
        command.args(seeds).arg("--");
        command.arg(format!("-max_total_time={}", args.seconds));
        command.args([
            "-max_len=8192",
            "-rss_limit_mb=2048",
            "-timeout=10",
            "-print_final_stats=1",
        ]);
        // It is built first.
        let limit = step::LIMIT + Duration::from_secs(args.seconds.into());
        let ended = step::run(&format!("fuzz {name} for {} s", args.seconds), limit, &mut command)?;
        if ended.ok {
            for line in ended.output.lines().filter(|line| line.starts_with("stat::number_of_ex")) {
                println!("{name}: {line}");
            }
        } else {
            eprintln!("{}", ended.tail());
            failed.push(*name);
        }
    }
    if failed.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("failed: {}", failed.join(", "));
    Ok(ExitCode::FAILURE)
}

fn cargo_fuzz() -> Result<Command> {
    let mut command = Command::new("rustup");
    command.args(["run", "nightly", "cargo", "fuzz"]);
    command.current_dir(place::workspace().join("tests/fuzz")).env("PATH", fuzz::path()?);
    // Cargo hands its own settings down to what it runs, this program included.
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("RUST") && text != "RUSTUP_HOME"
            || text.starts_with("CARGO_") && text != "CARGO_HOME"
        {
            command.env_remove(&name);
        }
    }
    Ok(command)
}

/// The target's own corpus, with each line of the real logs in it, and other seeds as they are.
fn seeds(target: &str, corpus: &str) -> Result<PathBuf> {
    let to = place::workspace().join("tests/fuzz/corpus").join(target);
    fs::create_dir_all(&to).with_context(|| format!("make {}", to.display()))?;
    let logs = fs::read_dir(place::workspace().join("tests/corpora").join(corpus))?;
    for log in logs {
        let path = log?.path();
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let bytes = fs::read(&path)?;
        let extension = path.extension().unwrap_or_default().to_string_lossy();
        if ["fmr", "messages"].contains(&extension.as_ref()) {
            fs::write(to.join(&stem), &bytes)?;
        }
        if extension != "log" {
            continue;
        }
        for (number, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
            fs::write(to.join(format!("{stem}-{number}")), line)?;
        }
    }
    Ok(to)
}
