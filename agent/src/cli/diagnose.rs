//! `floodmark diagnose`: watch for a while, then tell.

use std::{
    io::{IsTerminal, stderr},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, anyhow};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use jiff::SignedDuration;
use tokio::sync::{mpsc, watch};

use super::{HEALTHY, ProxyArgs, TROUBLE, run::stop_signal, story};
use crate::{
    agent::{Agent, AgentConfig, Snapshot},
    kernel::Counter,
    verdict::Report,
};

/// Arguments of `floodmark diagnose`.
#[derive(Debug, Args)]
pub(super) struct DiagnoseArgs {
    /// How long to watch; an interrupt ends it early and tells what was seen
    #[arg(long, default_value = "30s", value_parser = duration)]
    duration: Duration,
    /// Print one JSON object instead of the story
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    proxy: ProxyArgs,
}

/// Exit status 0 where nothing was lost and no peer marked, 1 where something was.
pub(super) async fn diagnose(args: DiagnoseArgs) -> Result<ExitCode> {
    let stop = stop_signal()?;
    let config =
        AgentConfig { watch_causes: true, watch_connections: true, ..args.proxy.config()? };
    let agent = Agent::start(&config)?;
    let (snapshots, latest) = watch::channel(None);
    let bar = progress(args.duration);
    let enough = async {
        tokio::select! {
            () = tokio::time::sleep(args.duration) => {}
            () = stop => {}
        }
    };
    let (_, no_changes) = mpsc::channel(1);
    let advance = advance(bar.clone(), latest.clone());
    tokio::select! {
        result = agent.run(&snapshots, enough, no_changes, |_| {}) => result?,
        () = advance => {}
    }
    bar.finish_and_clear();
    let snapshot = latest.borrow().clone().context("the agent came to no end")?;
    let report = &snapshot.report;
    if args.json {
        println!("{}", serde_json::to_string_pretty(report)?);
    } else {
        print!("{}", story::tell(report, &snapshot.standings));
    }
    Ok(ExitCode::from(if is_trouble(report) { TROUBLE } else { HEALTHY }))
}

/// Whether anything was lost, or any peer marked.
pub(super) fn is_trouble(report: &Report) -> bool {
    let lost = report.namespaces.iter().any(|netns| netns.kernel[Counter::ListenDrops] > 0);
    lost || report.proxy.markings > 0 || report.proxy.no_live_peers > 0
}

/// A bar on a terminal, a line elsewhere; both on standard error.
fn progress(duration: Duration) -> ProgressBar {
    if !stderr().is_terminal() {
        eprintln!("watching for {} s", duration.as_secs());
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(duration.as_secs());
    let style = ProgressStyle::with_template("watching {bar:30} {pos}/{len} s  {msg}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}

/// Moves the bar along with what has been found so far; never ends by itself.
async fn advance(bar: ProgressBar, mut latest: watch::Receiver<Option<Arc<Snapshot>>>) {
    while latest.changed().await.is_ok() {
        if let Some(snapshot) = latest.borrow().as_ref() {
            let report = &snapshot.report;
            let lost: u64 = report.listeners.iter().map(|l| l.tally.drops()).sum();
            bar.set_position(report.window.length().as_secs());
            bar.set_message(format!("{lost} dropped, {} markings", report.proxy.markings));
        }
    }
    std::future::pending().await
}

/// A duration on the command line.
pub(super) fn duration(text: &str) -> Result<Duration> {
    let parsed: SignedDuration =
        text.parse().map_err(|_| anyhow!("not a duration; write it like 30s, 5m or 1h30m"))?;
    let duration = Duration::try_from(parsed).map_err(|_| anyhow!("a duration is not negative"))?;
    (!duration.is_zero()).then_some(duration).context("must be more than nothing")
}
