//! The agent's HTTP server.

use std::{fmt::Write, net::SocketAddr, sync::Arc};

use anyhow::{Context, Result};
use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::{Html, IntoResponse, Response},
    routing::get,
};
use tokio::{net::TcpListener, sync::watch};

use super::metrics::render;
use crate::agent::Snapshot;

type Latest = watch::Receiver<Option<Arc<Snapshot>>>;

/// The media type of Prometheus text.
const PROMETHEUS_TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Takes the address.
///
/// # Errors
///
/// When it is taken already or not to be had, with what to do about it.
pub async fn bind(addr: SocketAddr) -> Result<TcpListener> {
    let remedy = "choose another address with --listen";
    TcpListener::bind(addr).await.with_context(|| format!("cannot listen on {addr}; {remedy}"))
}

/// Serves until `stop` turns true, then lets running requests end.
///
/// # Errors
///
/// When the socket fails.
pub async fn serve(
    listener: TcpListener,
    latest: Latest,
    mut stop: watch::Receiver<bool>,
) -> Result<()> {
    let router = Router::new()
        .route("/", get(landing))
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/api/v1/report", get(report))
        .with_state(latest);
    let stopped = async move {
        // The sender gone is a stop as well.
        let _ = stop.wait_for(|stop| *stop).await;
    };
    axum::serve(listener, router).with_graceful_shutdown(stopped).await.context("serving HTTP")
}

fn current(latest: &Latest) -> Option<Arc<Snapshot>> {
    latest.borrow().clone()
}

fn not_yet() -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, "not ready: nothing sampled yet\n").into_response()
}

async fn metrics(State(latest): State<Latest>) -> Response {
    let Some(snapshot) = current(&latest) else { return not_yet() };
    match render(&snapshot) {
        Ok(text) => ([(header::CONTENT_TYPE, PROMETHEUS_TEXT)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}\n")).into_response(),
    }
}

async fn ready(State(latest): State<Latest>) -> Response {
    let Some(snapshot) = current(&latest) else { return not_yet() };
    let mut text = "ready\n".to_owned();
    for standing in &snapshot.standings {
        let _ = writeln!(text, "{} {}", standing.signal.name(), standing.rung);
    }
    text.into_response()
}

async fn report(State(latest): State<Latest>) -> Response {
    let Some(snapshot) = current(&latest) else { return not_yet() };
    Json(&snapshot.report).into_response()
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
