//! `floodmark record`: keep an incident in a file.

use std::{
    fs::File,
    io::{BufReader, Read},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, Result, anyhow};
use clap::Args;
use tokio::sync::{mpsc, watch};

use super::{
    HEALTHY, ProxyArgs, UNABLE, diagnose::duration, output::say, replay::tell_damage,
    run::stop_signal,
};
use crate::{
    agent::{Agent, AgentConfig},
    capabilities,
    record::{Damage, FileSink, Header, Reader, Recorder, Redactor, fetch, transcribe},
    time::UnixMs,
    untrusted_file,
};

/// Where the agent answers.
pub(super) const SOCKET: &str = "/run/floodmark/agent.sock";

/// Arguments of `floodmark record`.
#[derive(Debug, Args)]
pub(super) struct RecordArgs {
    /// File to write; it must not exist
    file: PathBuf,
    /// Record for this long. Default: until interrupted
    #[arg(long, value_parser = duration)]
    duration: Option<Duration>,
    /// Limit the file to this size, such as 50M or 2G; at the limit, the oldest part is deleted
    #[arg(long, default_value = "256M", value_name = "SIZE", value_parser = size)]
    max_size: u64,
    /// Replace client addresses with pseudonyms and remove log lines
    #[arg(long)]
    redact: bool,
    /// Write a redacted copy of this recording, and record nothing
    #[arg(long, value_name = "FILE", conflicts_with_all = ["duration", "from_agent"])]
    redact_from: Option<PathBuf>,
    /// Write the last minutes that the running agent keeps in memory, and record nothing
    #[arg(long, conflicts_with = "duration")]
    from_agent: bool,
    /// Connect to the running agent at this socket
    #[arg(long, default_value = SOCKET, value_name = "PATH", requires = "from_agent")]
    socket: PathBuf,
    #[command(flatten)]
    proxy: ProxyArgs,
}

impl RecordArgs {
    /// The recording that is to be written anew.
    pub(super) fn redacts(&self) -> Option<&Path> {
        self.redact_from.as_deref()
    }
}

/// Writes the recording at `from` anew, redacted.
pub(super) fn redact(from: &Path, args: &RecordArgs) -> Result<ExitCode> {
    take_over(open(from)?, &args.file, true)
}

/// Records, or takes over what the agent recorded.
pub(super) async fn record(args: RecordArgs) -> Result<ExitCode> {
    if args.from_agent {
        let reader = Reader::open(fetch(&args.socket)?).context("reading the agent's answer")?;
        return take_over(reader, &args.file, args.redact);
    }
    let stop = stop_signal()?;
    let redactor = args.redact.then(Redactor::default);
    let header = Header::here(UnixMs::now(), args.redact);
    // Before the kernel is touched: a file that is there already should cost nothing.
    let sink = FileSink::create(&args.file, &header, Some(args.max_size))?;
    let config =
        AgentConfig { watch_causes: true, watch_connections: true, ..args.proxy.config()? };
    let mut agent = Agent::start(&config)?;
    agent.record(Recorder::new(Box::new(sink), redactor));
    let (file, duration) = (args.file.display(), args.duration);
    match duration {
        Some(duration) => say(&format!("recording to {file} for {} s", duration.as_secs())),
        None => say(&format!("recording to {file} until interrupted")),
    }
    let enough = async {
        let over = async {
            match duration {
                Some(duration) => tokio::time::sleep(duration).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = over => {}
            () = stop => {}
        }
    };
    let (snapshots, _latest) = watch::channel(None);
    let (_no_changes, changes) = mpsc::channel(1);
    agent.run(&snapshots, enough, changes, |_| {}).await?;
    let size = std::fs::metadata(&args.file).map_or(0, |metadata| metadata.len());
    say(&format!("wrote {size} bytes; to diagnose it: floodmark replay {file}"));
    Ok(ExitCode::from(HEALTHY))
}

fn take_over<R: Read>(mut from: Reader<R>, to: &Path, redacts: bool) -> Result<ExitCode> {
    let damage = transcribe(&mut from, to, redacts.then(Redactor::default))?;
    let mut words = String::new();
    tell_damage(&mut words, &damage)?;
    words.lines().for_each(say);
    say(&format!("wrote {0}; to diagnose it: floodmark replay {0}", to.display()));
    let is_whole =
        Damage { has_end: true, ..damage } == Damage { has_end: true, ..Damage::default() };
    Ok(ExitCode::from(if is_whole { HEALTHY } else { UNABLE }))
}

/// Opens a recording, which anybody may have made: from then on this process holds no capabilities. To be
/// called while it has one thread.
pub(super) fn open(path: &Path) -> Result<Reader<BufReader<File>>> {
    let file = untrusted_file::open(path).with_context(|| path.display().to_string())?;
    capabilities::drop_all()?;
    Reader::open(BufReader::new(file)).with_context(|| path.display().to_string())
}

fn size(text: &str) -> Result<u64> {
    let wrong = || anyhow!("not a size; write it like 50M or 2G");
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "" => 1,
        "k" | "K" => 1 << 10,
        "m" | "M" => 1 << 20,
        "g" | "G" => 1 << 30,
        _ => return Err(wrong()),
    };
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    let size = number.checked_mul(unit).filter(|size| *size >= 1 << 20);
    size.context("the size must be at least 1M")
}
