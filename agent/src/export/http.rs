//! The agent's HTTP server.

use std::{
    fmt::Write,
    future::IntoFuture,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use anyhow::{Context, Result};
use axum::{
    Json, Router,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{Html, IntoResponse, Response},
    routing::get,
};
use tokio::{net::TcpListener, sync::watch, time::sleep};

use super::{
    metrics::{render, render_protobuf},
    protobuf,
};
use crate::{agent::Snapshot, kernel::Rung, time::UnixMs};

type Latest = watch::Receiver<Option<Arc<Snapshot>>>;

/// How long a request may go on after the agent was told to stop.
const GRACE: Duration = Duration::from_millis(500);
/// A snapshot older than this means that sampling has come to a halt.
const STALE: Duration = Duration::from_secs(15);
/// The media type of Prometheus text.
pub(super) const PROMETHEUS_TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
/// What Prometheus accepts first where it takes native histograms.
const PROTOBUF: &str = "application/vnd.google.protobuf";

/// Takes the address.
///
/// # Errors
///
/// When it is taken already or not to be had, with what to do about it.
pub async fn bind(addr: SocketAddr) -> Result<TcpListener> {
    let remedy = "choose another address with --listen";
    TcpListener::bind(addr).await.with_context(|| format!("cannot listen on {addr}; {remedy}"))
}

/// Serves until `stop` turns true, then lets running requests end, though not for long: a client
/// that never ends its request must not keep the agent from stopping.
///
/// # Errors
///
/// When the socket fails.
pub async fn serve(
    listener: TcpListener,
    latest: Latest,
    stop: watch::Receiver<bool>,
) -> Result<()> {
    let router = Router::new()
        .route("/", get(landing))
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/api/v1/report", get(report))
        .route("/api/v1/listeners", get(listeners))
        .with_state(latest);
    until(stop, listener, router).await
}

/// Serves until `stop` turns true, then lets running requests end, though not for long.
pub(super) async fn until(
    stop: watch::Receiver<bool>,
    listener: TcpListener,
    router: Router,
) -> Result<()> {
    let serving = axum::serve(listener, router).with_graceful_shutdown(stopped(stop.clone()));
    let overdue = async {
        stopped(stop).await;
        sleep(GRACE).await;
    };
    tokio::select! {
        served = serving.into_future() => served.context("serving HTTP"),
        () = overdue => Ok(()),
    }
}

async fn stopped(mut stop: watch::Receiver<bool>) {
    // The sender gone is a stop as well.
    let _ = stop.wait_for(|stop| *stop).await;
}

fn current(latest: &Latest) -> Option<Arc<Snapshot>> {
    latest.borrow().clone()
}

fn not_yet() -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, "not ready: nothing sampled yet\n").into_response()
}

/// Text, or protobuf for a Prometheus that takes native histograms and so asks for it.
async fn metrics(State(latest): State<Latest>, headers: HeaderMap) -> Response {
    let Some(snapshot) = current(&latest) else { return not_yet() };
    snapshot.scraped.tell();
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    let rendered = if accept.is_some_and(|accept| accept.contains(PROTOBUF)) {
        render_protobuf(&snapshot).map(|bytes| (protobuf::MEDIA_TYPE, bytes))
    } else {
        render(&snapshot).map(|text| (PROMETHEUS_TEXT, text.into_bytes()))
    };
    match rendered {
        Ok((kind, body)) => ([(header::CONTENT_TYPE, kind)], body).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}\n")).into_response(),
    }
}

async fn ready(State(latest): State<Latest>) -> Response {
    let Some(snapshot) = current(&latest) else { return not_yet() };
    let (status, mut text) = readiness(&snapshot, UnixMs::now());
    for standing in &snapshot.standings {
        let heard = snapshot.canary.get(&standing.signal).map(|heard| match heard.is_exact() {
            true => " heard the canary",
            false => " did not hear all of the canary",
        });
        let (signal, rung) = (standing.signal.name(), standing.rung);
        let _ = writeln!(text, "{signal} {rung}{}", heard.unwrap_or_default());
    }
    if let Some(why) = &snapshot.no_canary {
        let _ = writeln!(text, "{why}");
    }
    for (name, stats) in &snapshot.outlets {
        let state = if stats.is_connected.load(Ordering::Relaxed) { "is told" } else { "is away" };
        let waiting = stats.waiting.load(Ordering::Relaxed);
        let _ = writeln!(text, "{name} {state}, {waiting} messages wait");
    }
    (status, text).into_response()
}

fn readiness(snapshot: &Snapshot, now: UnixMs) -> (StatusCode, String) {
    let sampled = snapshot.report.window.to;
    if snapshot.standings.iter().all(|standing| standing.rung == Rung::None) {
        let text = "not ready: no signal can be had, see `floodmark doctor`\n";
        return (StatusCode::SERVICE_UNAVAILABLE, text.to_owned());
    }
    if sampled.later(STALE) < now {
        let age = (now.0 - sampled.0) / 1000;
        let text = format!("not ready: last sampled {age} s ago\n");
        return (StatusCode::SERVICE_UNAVAILABLE, text);
    }
    (StatusCode::OK, "ready\n".to_owned())
}

async fn report(State(latest): State<Latest>) -> Response {
    let Some(snapshot) = current(&latest) else { return not_yet() };
    Json(&snapshot.report).into_response()
}

async fn listeners(State(latest): State<Latest>) -> Response {
    let Some(snapshot) = current(&latest) else { return not_yet() };
    Json(&snapshot.view).into_response()
}

async fn landing(State(latest): State<Latest>) -> Html<String> {
    let mut rows = String::new();
    if let Some(snapshot) = current(&latest) {
        for report in snapshot.report.listeners.iter().take(10) {
            let owner = report.listener.owners.first().map_or("", |owner| &owner.command);
            let _ = writeln!(
                rows,
                "<tr><td>{}<td>{}<td>{}<td>{} / {}<td>{}",
                report.listener.id.addr,
                escaped(&report.listener.netns_name),
                escaped(owner),
                report.queue_high,
                report.listener.queue.limit,
                report.tally.drops()
            );
        }
    }
    if rows.is_empty() {
        rows.push_str("<tr><td colspan=5>none");
    }
    let page = include_str!("landing.html");
    Html(page.replace("{version}", env!("CARGO_PKG_VERSION")).replace("{rows}", &rows))
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests;
