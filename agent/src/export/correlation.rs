//! What `floodmark correlate` serves.

use std::{
    collections::BTreeMap,
    net::TcpListener,
    sync::{Arc, atomic::Ordering},
};

use anyhow::{Context, Result};
use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::sync::watch;

use super::{
    Web, families::Families, http::PROMETHEUS_TEXT, outlets::about_outlet, proxies::about_verdicts,
    server,
};
use crate::{
    across::{HostState, OutletStats, Refusal, Refusals},
    verdict::VerdictKind,
};

/// Hosts exported at most.
const HOSTS_EXPORTED: usize = 1000;

/// What a reader knows of its work.
#[derive(Clone, Debug, Default)]
pub struct Correlation {
    /// The hosts that tell.
    pub hosts: Vec<HostState>,
    /// Events that wait for their verdict.
    pub pending: usize,
    /// Messages that did not count.
    pub refusals: Refusals,
    /// Parts of messages that had no room.
    pub left_out: u64,
    /// Messages of the stream that were not read.
    pub skipped: u64,
    /// Messages that wait in the stream.
    pub waiting: u64,
    /// How reading goes.
    pub reading: Option<Arc<OutletStats>>,
    /// Verdicts on their way.
    pub publishing: Option<Arc<OutletStats>>,
    /// Verdicts that this reader was the first to publish.
    pub verdicts: BTreeMap<VerdictKind, u64>,
}

impl Correlation {
    fn is_connected(&self) -> bool {
        self.reading.as_ref().is_some_and(|stats| stats.is_connected.load(Ordering::Relaxed))
    }
}

type Latest = watch::Receiver<Correlation>;

/// Serves until `stop` turns true.
///
/// # Errors
///
/// When the socket fails.
pub async fn serve_correlation(
    listener: TcpListener,
    latest: Latest,
    web: Web,
    stop: watch::Receiver<bool>,
) -> Result<()> {
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .with_state(latest);
    server::serve(listener, router, web, stop).await
}

async fn metrics(State(latest): State<Latest>) -> Response {
    let correlation = latest.borrow().clone();
    match render(&correlation) {
        Ok(text) => ([(header::CONTENT_TYPE, PROMETHEUS_TEXT)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}\n")).into_response(),
    }
}

async fn ready(State(latest): State<Latest>) -> Response {
    let correlation = latest.borrow().clone();
    if correlation.is_connected() {
        (StatusCode::OK, format!("ready\n{} hosts publish\n", correlation.hosts.len()))
            .into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready: no connection to the NATS server\n")
            .into_response()
    }
}

pub(super) fn render(correlation: &Correlation) -> Result<String> {
    let mut families = Families::default();
    let mut gauge = |name, help, value| families.gauge(name, help, &[], value);
    gauge(
        "floodmark_correlate_connected",
        "Whether messages are read from the NATS server: 1 or 0.",
        f64::from(u8::from(correlation.is_connected())),
    );
    gauge(
        "floodmark_correlate_messages_waiting",
        "Messages in the NATS stream that are not read yet.",
        correlation.waiting as f64,
    );
    gauge(
        "floodmark_correlate_events_pending",
        "Proxy events that wait for their verdict.",
        correlation.pending as f64,
    );
    gauge(
        "floodmark_correlate_hosts",
        "Hosts that publish evidence.",
        correlation.hosts.len() as f64,
    );
    let refused = Refusal::ALL.into_iter().map(|refusal| {
        (refusal.name(), correlation.refusals.get(&refusal).copied().unwrap_or_default())
    });
    for (reason, count) in refused.chain([("skipped", correlation.skipped)]) {
        families.counter(
            "floodmark_correlate_messages_not_taken_total",
            "Messages of the NATS stream that were not used, by reason: the reader did not \
             receive them (skipped), or a check rejected them.",
            &[("reason", reason)],
            count,
        );
    }
    families.counter(
        "floodmark_correlate_parts_left_out_total",
        "Listeners, addresses, events and losses in messages that were not used because they \
         exceed the limits of one host or their timestamps are out of range.",
        &[],
        correlation.left_out,
    );
    correlation
        .hosts
        .iter()
        .take(HOSTS_EXPORTED)
        .for_each(|host| about_a_host(&mut families, host));
    if let Some(stats) = &correlation.publishing {
        about_outlet(&mut families, "verdicts", stats);
    }
    about_verdicts(&mut families, &correlation.verdicts);
    families.encode().context("rendering the metrics")
}

fn about_a_host(families: &mut Families, host: &HostState) {
    let labels = [("host", host.name.as_str())];
    let mut gauge = |name, help, value| families.gauge(name, help, &labels, value);
    gauge(
        "floodmark_correlate_host_silent_seconds",
        "Time, in seconds, since a host's last message while other hosts published.",
        host.silent_ms as f64 / 1000.0,
    );
    gauge(
        "floodmark_correlate_host_clock_offset_seconds",
        "Offset, in seconds, to add to a host's clock to get the NATS server's clock.",
        host.ahead_ms as f64 / 1000.0,
    );
    gauge(
        "floodmark_correlate_host_clock_error_seconds",
        "Uncertainty of the host's clock offset, in seconds.",
        host.error_ms as f64 / 1000.0,
    );
    families.counter(
        "floodmark_correlate_host_messages_missing_total",
        "Messages of a host that never arrived: its outbox was full, or the stream deleted them \
         before they were read.",
        &labels,
        host.missing,
    );
}

/// One host, and verdicts on their way.
#[cfg(test)]
pub(super) fn example() -> Correlation {
    let host = HostState {
        name: "app1".to_owned(),
        ahead_ms: -2500,
        error_ms: 3,
        silent_ms: 12_000,
        missing: 4,
    };
    let publishing = Some(Arc::default());
    Correlation { hosts: vec![host], publishing, ..Correlation::default() }
}

#[cfg(test)]
mod tests;
