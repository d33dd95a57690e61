//! The page for people who come by with a browser.

use std::sync::LazyLock;

use axum::{
    http::header::CONTENT_SECURITY_POLICY as CSP,
    response::{Html, IntoResponse, Response},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use maud::{DOCTYPE, PreEscaped, html};
use ring::digest::{SHA256, digest};

use super::server::CONTENT_SECURITY_POLICY;
use crate::{
    agent::Snapshot,
    printable::{printable, printable_lines},
};

/// Listeners shown at most.
const ROWS: usize = 10;
const STYLE: &str = include_str!("landing.css");
/// The page's own style and nothing else.
static POLICY: LazyLock<String> = LazyLock::new(|| {
    let hash = BASE64_STANDARD.encode(digest(&SHA256, STYLE.as_bytes()));
    format!("{CONTENT_SECURITY_POLICY}; style-src 'sha256-{hash}'")
});

/// The page, with what is known by now.
pub(super) fn page(snapshot: Option<&Snapshot>) -> Response {
    let listeners = snapshot.map_or(&[][..], |snapshot| &snapshot.report.listeners);
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width";
                title { "Floodmark" }
                style { (PreEscaped(STYLE)) }
            }
            body {
                h1 { "Floodmark" }
                p.sub { "version " (env!("CARGO_PKG_VERSION")) ": connections that the kernel drops silently, by listener and cause, and the peers that proxies mark as down" }
                nav {
                    a href="metrics" { "metrics" } " " a href="readyz" { "readiness" } " "
                    a href="healthz" { "health" } " " a href="api/v1/report" { "report (JSON)" }
                }
                h2 { "Listeners with losses since the agent started" }
                table {
                    tr { th { "listener" } th { "network namespace" } th { "owner" } th { "queue high / limit" } th { "dropped" } }
                    @for report in listeners.iter().take(ROWS) { tr {
                        td { (report.listener.id.addr) }
                        td { (printable(&report.listener.netns_name)) }
                        td { (report.listener.owners.first().map(|owner| printable(&owner.command)).unwrap_or_default()) }
                        td { (report.queue_high) " / " (report.listener.queue.limit) }
                        td { (report.tally.drops()) }
                    } }
                    @if listeners.is_empty() { tr { td colspan="5" { "none" } } }
                }
            }
        }
    };
    ([(CSP, POLICY.as_str())], Html(printable_lines(&page.into_string()).into_owned()))
        .into_response()
}
