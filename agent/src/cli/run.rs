//! `floodmark run`: the agent.

use std::{net::SocketAddr, process::ExitCode, sync::Arc};

use anyhow::{Context, Result};
use clap::Args;
use log::info;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

use super::{HEALTHY, ProxyArgs, outlets::OutletArgs};
use crate::{
    agent::{Agent, AgentConfig, LISTENERS_EXPORTED},
    export,
    verdict::Verdict,
};

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
    /// Export at most so many listeners, those in trouble and the busiest first
    #[arg(long, default_value_t = LISTENERS_EXPORTED, value_name = "N")]
    listeners: usize,
    /// Have high-water marks of queues, time in queue and connections by peer, by programs that run
    /// for every connection; without, queue lengths are looked at each second
    #[arg(long)]
    watch_connections: bool,
    /// Have time in queue and refused Unix connects even where neither fentry nor kprobes are
    /// allowed, at the price of making every system call of the host take longer
    #[arg(long)]
    trace_system_calls: bool,
    #[command(flatten)]
    proxy: ProxyArgs,
    #[command(flatten)]
    outlets: OutletArgs,
}

/// Runs until SIGINT or SIGTERM.
pub(super) async fn run(args: RunArgs) -> Result<ExitCode> {
    let stop = stop_signal()?;
    let (snapshots, latest) = watch::channel(None);
    // Before the kernel is touched: a port in use should cost nothing.
    let listener = export::bind(args.listen).await?;
    let mut agent = Agent::start(&AgentConfig {
        watch_causes: args.watch_causes,
        listeners_exported: args.listeners,
        trace_system_calls: args.trace_system_calls,
        watch_connections: args.watch_connections,
        ..args.proxy.config()?
    })?;
    let outlets = args.outlets.open(&mut agent).await?;
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
    outlets.flush().await;
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
