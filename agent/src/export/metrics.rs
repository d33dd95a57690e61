//! The Prometheus text of a snapshot. Families are built anew from the snapshot at each scrape, so
//! what no longer exists is no longer exported, and no label outlives its listener.

use std::sync::LazyLock;

use anyhow::Result;
use prometheus::{core::Collector, process_collector::ProcessCollector};

use super::{
    families::Families,
    flows::about_flows,
    health::about_health,
    listeners::{about_listeners, about_stalls},
    losses::{
        about_losses, about_namespaces, about_namespaces_left_out, about_overflows, about_services,
    },
    outlets::about_outlet,
    proxies::{about_cycles, about_proxies, about_sources},
};
use crate::agent::Snapshot;

/// What every Prometheus client says of its own process: memory, descriptors, CPU, start.
static PROCESS: LazyLock<ProcessCollector> = LazyLock::new(ProcessCollector::for_self);

/// Renders a snapshot as Prometheus text.
///
/// # Errors
///
/// When the encoder refuses a family.
pub fn render(snapshot: &Snapshot) -> Result<String> {
    families(snapshot).encode()
}

/// Renders a snapshot as Prometheus protobuf messages, which carry native histograms as well.
///
/// # Errors
///
/// As for [`render`].
pub fn render_protobuf(snapshot: &Snapshot) -> Result<Vec<u8>> {
    families(snapshot).encode_protobuf()
}

fn families(snapshot: &Snapshot) -> Families {
    let mut families = Families::default();
    families.extend(PROCESS.collect());
    about_health(&mut families, snapshot);
    let exported = snapshot.losers().take(snapshot.listeners_exported);
    exported.for_each(|listener| about_losses(&mut families, listener));
    families.gauge(
        "floodmark_listener_losses_not_exported",
        "Listeners with losses that exceed the export limit. Those with most losses are exported.",
        &[],
        snapshot.losers().skip(snapshot.listeners_exported).count() as f64,
    );
    about_overflows(&mut families, snapshot);
    about_listeners(&mut families, &snapshot.view);
    about_stalls(&mut families, &snapshot.report);
    about_flows(&mut families, &snapshot.view);
    about_namespaces(&mut families, snapshot);
    about_namespaces_left_out(&mut families, snapshot);
    about_services(&mut families, snapshot);
    about_proxies(&mut families, snapshot);
    about_cycles(&mut families, &snapshot.report.proxy.cycles);
    about_sources(&mut families, snapshot);
    for (name, stats) in &snapshot.outlets {
        about_outlet(&mut families, name, stats);
    }
    families
}

#[cfg(test)]
mod tests;
