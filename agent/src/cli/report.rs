//! `floodmark report`: one page of HTML about an incident.

use std::{
    io::Read,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, Result};
use clap::{ArgGroup, Args};
use tokio::sync::{mpsc, watch};

use super::{
    ProxyArgs,
    diagnose::{duration, status_of},
    output::{print, say},
    record::open,
    run::stop_signal,
};
use crate::{
    agent::{Agent, AgentConfig},
    new_file::Unfinished,
    record::{Bounds, Header, Hindsight, Reader, Recorder, Redactor, replay},
    report::{Timeline, render},
    time::UnixMs,
    verdict::Diagnosis,
};

/// Memory for what is watched live; the oldest goes when it is used up.
const MEMORY: usize = 256 << 20;

/// Arguments of `floodmark report`.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("what").required(true).args(["file", "duration"])))]
pub(super) struct ReportArgs {
    /// Recording of `floodmark record`
    file: Option<PathBuf>,
    /// Watch this host for this long instead
    #[arg(long, value_parser = duration)]
    duration: Option<Duration>,
    /// Write the page to this file, which must not exist. Default: standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Replace client addresses with pseudonyms
    #[arg(long, requires = "duration")]
    redact: bool,
    #[command(flatten)]
    proxy: ProxyArgs,
}

impl ReportArgs {
    /// The recording that is to be reported on.
    pub(super) fn recording(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// The file for the page. Created before anything else: where it cannot be, that should cost no
    /// watching.
    fn create(&self) -> Result<Option<Unfinished>> {
        let create = |path: &PathBuf| {
            Unfinished::create(path).with_context(|| format!("--output {}", path.display()))
        };
        self.output.as_ref().map(create).transpose()
    }
}

/// Reports on a recording. Exit status as of `floodmark diagnose`.
pub(super) fn report_on(file: &Path, args: &ReportArgs) -> Result<ExitCode> {
    let output = args.create()?;
    let written = write(open(file)?).with_context(|| file.display().to_string())?;
    put(output, written)
}

/// Reports on what happens from now on. Exit status as of `floodmark diagnose`.
pub(super) async fn report(args: ReportArgs) -> Result<ExitCode> {
    let duration = args.duration.context("a recording or --duration is required")?;
    let output = args.create()?;
    let pieces = watch_for(duration, &args).await?;
    put(output, write(Reader::open(pieces.concat().as_slice())?)?)
}

fn put(output: Option<Unfinished>, (page, status): (String, ExitCode)) -> Result<ExitCode> {
    match output {
        Some(output) => output.finish(page.as_bytes()).context("writing the page")?,
        None => print(&page)?,
    }
    Ok(status)
}

fn write(recording: Reader<impl Read>) -> Result<(String, ExitCode)> {
    let mut timeline = Timeline::default();
    let mut peers = Vec::new();
    let replay = replay(recording, |tick, state| {
        timeline.add(tick, state);
        if tick.changes.peers.is_some() {
            peers.clone_from(&state.peers);
        }
    })?;
    timeline.shift(replay.clock.shift_ms);
    let status = status_of(&Diagnosis::of(&replay.report, None));
    Ok((render(&replay, &timeline, &peers), status))
}

/// A recording of what happens from now on, kept in memory.
async fn watch_for(duration: Duration, args: &ReportArgs) -> Result<Vec<bytes::Bytes>> {
    let stop = stop_signal()?;
    let config =
        AgentConfig { watch_causes: true, watch_connections: true, ..args.proxy.config()? };
    let mut agent = Agent::start(&config)?;
    let header = Header::here(UnixMs::now(), args.redact);
    let bounds = Bounds { period: 2 * duration, bytes: MEMORY };
    let kept = Hindsight::new(header, bounds);
    let redactor = args.redact.then(Redactor::default);
    agent.record(Recorder::new(Box::new(kept.clone()), redactor));
    say(&format!("watching for {} s", duration.as_secs()));
    let enough = async {
        tokio::select! {
            () = tokio::time::sleep(duration) => {}
            () = stop => {}
        }
    };
    let (snapshots, _latest) = watch::channel(None);
    let (_no_changes, changes) = mpsc::channel(1);
    agent.run(&snapshots, enough, changes, |_| {}).await?;
    Ok(kept.kept())
}
