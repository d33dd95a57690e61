//! `floodmark run`: the agent.

use std::{net::SocketAddr, process::ExitCode, sync::Arc};

use anyhow::{Context, Result};
use clap::Args;
use log::info;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

use super::{HEALTHY, ProxyArgs};
use crate::{agent::Agent, export, verdict::Verdict};

/// Arguments of `floodmark run`.
#[derive(Debug, Args)]
pub(super) struct RunArgs {
    /// Address to serve metrics on
    #[arg(long, default_value = "127.0.0.1:9435", value_name = "ADDR:PORT")]
    listen: SocketAddr,
    /// Write each verdict as a line of JSON to standard output
    #[arg(long)]
    verdicts: bool,
    /// Tell no memory, no route, policy and port inheritance apart from the first drop on; without,
    /// once one of them was dropped. Costs five programs more for each connection
    #[arg(long)]
    watch_causes: bool,
    #[command(flatten)]
    proxy: ProxyArgs,
}

/// Runs until SIGINT or SIGTERM.
pub(super) async fn run(args: RunArgs) -> Result<ExitCode> {
    let stop = stop_signal()?;
    let (snapshots, latest) = watch::channel(None);
    // Before the kernel is touched: a port in use should cost nothing.
    let listener = export::bind(args.listen).await?;
    let agent = Agent::start(&args.proxy.config(args.watch_causes)?)?;
    eprintln!("floodmark {} serves http://{}/", env!("CARGO_PKG_VERSION"), args.listen);
    for standing in agent.standings() {
        eprintln!("  {:<20}{}", standing.signal.name(), standing.rung);
    }
    let (stopping, stopped) = watch::channel(false);
    let server = tokio::spawn(export::serve(listener, latest, stopped));
    let print = |verdict: &Verdict| {
        info!(
            "{} {}: {} ({}), {}",
            verdict.event.kind.name(),
            verdict.event.upstream,
            verdict.cause.name(),
            verdict.confidence.name(),
            verdict.because
        );
        if args.verdicts
            && let Ok(line) = serde_json::to_string(verdict)
        {
            println!("{line}");
        }
    };
    let snapshots = Arc::new(snapshots);
    let outcome = agent.run(&snapshots, stop, print).await;
    stopping.send_replace(true);
    server.await.context("the HTTP server panicked")??;
    outcome?;
    Ok(ExitCode::from(HEALTHY))
}

/// Completes at SIGINT or SIGTERM. Takes the signals over at once, so that none is lost while the
/// agent attaches.
pub(super) fn stop_signal() -> Result<impl Future<Output = ()>> {
    let mut interrupt = signal(SignalKind::interrupt()).context("catching SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("catching SIGTERM")?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}
