//! The pages that the agent serves.

use std::{
    fmt::Write,
    net::TcpListener,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use anyhow::Result;
use axum::{
    Router,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    middleware::from_fn_with_state,
    response::{IntoResponse, Response},
    routing::get,
};
use bytes::Bytes;
use tokio::sync::watch;

use super::{
    landing,
    metrics::{render, render_protobuf},
    protobuf,
    rendered::Rendered,
    server,
    web::{Web, authorised},
};
use crate::{
    agent::Snapshot,
    kernel::Rung,
    printable::{json, printable},
};

type Latest = watch::Receiver<Option<Arc<Snapshot>>>;

/// A snapshot older than this means that sampling has come to a halt.
const STALE: Duration = Duration::from_secs(15);
/// One older than this, that it will not go on by itself.
const DEAD: Duration = Duration::from_secs(60);
/// The media type of Prometheus text.
pub(super) const PROMETHEUS_TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
const JSON: &str = "application/json";
/// What Prometheus accepts first where it takes native histograms.
const PROTOBUF: &str = "application/vnd.google.protobuf";

/// Serves until `stop` turns true. Whether the agent is well may be asked by anybody, for whoever
/// probes has no password; it says nothing of what the agent saw.
///
/// # Errors
///
/// When the socket fails.
pub async fn serve(
    listener: TcpListener,
    latest: Latest,
    web: Web,
    stop: watch::Receiver<bool>,
) -> Result<()> {
    let pages = Arc::new(Pages::of(latest.clone()));
    let guarded = Router::new()
        .route("/metrics", get(metrics))
        .route("/api/v1/report", get(report))
        .route("/api/v1/listeners", get(listeners))
        .with_state(pages)
        .route("/", get(landing))
        .layer(from_fn_with_state(Arc::clone(&web.users), authorised));
    let open = Router::new().route("/healthz", get(healthy)).route("/readyz", get(ready));
    server::serve(listener, open.merge(guarded).with_state(latest), web, stop).await
}

fn current(latest: &Latest) -> Option<Arc<Snapshot>> {
    latest.borrow().clone()
}

fn not_yet() -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, "not ready: nothing sampled yet\n").into_response()
}

/// The newest snapshot, in each form in which programs read it.
struct Pages {
    latest: Latest,
    text: Rendered,
    protobuf: Rendered,
    report: Rendered,
    listeners: Rendered,
}

impl Pages {
    fn of(latest: Latest) -> Self {
        let new = Rendered::default;
        Self { latest, text: new(), protobuf: new(), report: new(), listeners: new() }
    }
}

fn page(kind: &'static str, rendered: Result<Bytes>) -> Response {
    match rendered {
        Ok(body) => ([(header::CONTENT_TYPE, kind)], body).into_response(),
        Err(error) => {
            let error = printable(&format!("{error:#}")).into_owned();
            (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response()
        }
    }
}

/// Text, or protobuf for a Prometheus that takes native histograms and so asks for it.
async fn metrics(State(pages): State<Arc<Pages>>, headers: HeaderMap) -> Response {
    let Some(snapshot) = current(&pages.latest) else { return not_yet() };
    snapshot.scraped.tell();
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    if accept.is_some_and(|accept| accept.contains(PROTOBUF)) {
        return page(protobuf::MEDIA_TYPE, pages.protobuf.of(&snapshot, render_protobuf).await);
    }
    let text = |snapshot: &Snapshot| render(snapshot).map(String::into_bytes);
    page(PROMETHEUS_TEXT, pages.text.of(&snapshot, text).await)
}

/// Alive is who samples; a supervisor should start anew who has not for long.
async fn healthy(State(latest): State<Latest>) -> Response {
    match current(&latest) {
        Some(snapshot) if is_dead(snapshot.taken.elapsed()) => {
            (StatusCode::SERVICE_UNAVAILABLE, "no recent sample: the agent is stuck\n")
                .into_response()
        }
        _ => "ok\n".into_response(),
    }
}

fn is_dead(age: Duration) -> bool {
    age > DEAD
}

async fn ready(State(latest): State<Latest>) -> Response {
    let Some(snapshot) = current(&latest) else { return not_yet() };
    let (status, mut text) = readiness(&snapshot, snapshot.taken.elapsed());
    for standing in &snapshot.standings {
        let heard = snapshot.canary.get(&standing.signal).map(|heard| match heard.is_exact() {
            true => " self-test ok",
            false => " self-test FAILED",
        });
        let (signal, rung) = (standing.signal.name(), standing.rung);
        let _ = writeln!(text, "{signal} {rung}{}", heard.unwrap_or_default());
    }
    if let Some(why) = &snapshot.no_canary {
        let _ = writeln!(text, "{}", printable(why));
    }
    for (name, stats) in &snapshot.outlets {
        let state =
            if stats.is_connected.load(Ordering::Relaxed) { "connected" } else { "not connected" };
        let waiting = stats.waiting.load(Ordering::Relaxed);
        let _ = writeln!(text, "{name} {state}, {waiting} messages waiting");
    }
    (status, text).into_response()
}

fn readiness(snapshot: &Snapshot, age: Duration) -> (StatusCode, String) {
    if snapshot.standings.iter().all(|standing| standing.rung == Rung::None) {
        let text = "not ready: no signal is available, see `floodmark doctor`\n";
        return (StatusCode::SERVICE_UNAVAILABLE, text.to_owned());
    }
    if age > STALE {
        let text = format!("not ready: last sampled {} s ago\n", age.as_secs());
        return (StatusCode::SERVICE_UNAVAILABLE, text);
    }
    (StatusCode::OK, "ready\n".to_owned())
}

async fn report(State(pages): State<Arc<Pages>>) -> Response {
    let Some(snapshot) = current(&pages.latest) else { return not_yet() };
    let render = |snapshot: &Snapshot| json(&snapshot.report).map(String::into_bytes);
    page(JSON, pages.report.of(&snapshot, render).await)
}

async fn listeners(State(pages): State<Arc<Pages>>) -> Response {
    let Some(snapshot) = current(&pages.latest) else { return not_yet() };
    let render = |snapshot: &Snapshot| json(&snapshot.view).map(String::into_bytes);
    page(JSON, pages.listeners.of(&snapshot, render).await)
}

async fn landing(State(latest): State<Latest>) -> Response {
    landing::page(current(&latest).as_deref())
}

#[cfg(test)]
mod tests;
