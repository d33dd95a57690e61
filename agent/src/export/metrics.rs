//! The Prometheus text of a snapshot. Families are built anew from the snapshot at each scrape, so
//! what no longer exists is no longer exported, and no label outlives its listener.

use std::{
    collections::BTreeMap,
    sync::{LazyLock, atomic::Ordering},
};

use anyhow::Result;
use prometheus::{core::Collector, process_collector::ProcessCollector};

use super::{
    families::Families, flows::about_flows, listeners::about_listeners, outlets::about_outlet,
};
use crate::{
    agent::Snapshot,
    inventory::Listener,
    kernel::{
        Class, Counter, ListenerId, NetnsId,
        class::{Meaning, meaning_of},
    },
    verdict::{Cycle, ListenerReport, VerdictKind},
};

/// Services exported at most, busiest first; and destinations without a port.
const SERVICES_EXPORTED: usize = 200;

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
    about_the_agent(&mut families, snapshot);
    let losers = &snapshot.report.listeners;
    let exported = &losers[..losers.len().min(snapshot.listeners_exported)];
    exported.iter().for_each(|listener| about_losses(&mut families, listener));
    families.gauge(
        "floodmark_listener_losses_not_exported",
        "Listeners with losses left out of this scrape, beyond those that lost most.",
        &[],
        (losers.len() - exported.len()) as f64,
    );
    about_overflows(&mut families, snapshot);
    about_listeners(&mut families, &snapshot.view);
    about_flows(&mut families, &snapshot.view);
    about_namespaces(&mut families, snapshot);
    about_services(&mut families, snapshot);
    about_proxies(&mut families, snapshot);
    about_cycles(&mut families, &snapshot.report.proxy.cycles);
    about_sources(&mut families, snapshot);
    for (name, stats) in &snapshot.outlets {
        about_outlet(&mut families, name, stats);
    }
    families
}

fn about_the_agent(families: &mut Families, snapshot: &Snapshot) {
    families.gauge(
        "floodmark_build_info",
        "Always 1; the version is in its label.",
        &[("version", env!("CARGO_PKG_VERSION"))],
        1.0,
    );
    families.gauge(
        "floodmark_config_last_reload_successful",
        "1 where all of the configuration that was read last is in force, 0 where not.",
        &[],
        f64::from(u8::from(snapshot.configuration.is_in_force)),
    );
    families.gauge(
        "floodmark_config_last_reload_success_timestamp_seconds",
        "When a configuration last came into force as a whole.",
        &[],
        snapshot.configuration.since.0 as f64 / 1000.0,
    );
    for standing in &snapshot.standings {
        families.gauge(
            "floodmark_signal_rung_info",
            "Always 1; the rung of the ladder from which a signal is had.",
            &[("signal", standing.signal.name()), ("rung", standing.rung.name())],
            1.0,
        );
    }
    for (signal, heard) in &snapshot.canary {
        families.gauge(
            "floodmark_canary_heard",
            "1 where a signal told of every handshake that the agent lost on purpose at its start, \
             0 where it did not; if it told of none it went down a rung.",
            &[("signal", signal.name())],
            f64::from(u8::from(heard.is_exact())),
        );
    }
    families.gauge(
        "floodmark_last_sample_timestamp_seconds",
        "When the kernel's counts were last read. Long ago, the agent is stuck.",
        &[],
        snapshot.report.window.to.0 as f64 / 1000.0,
    );
    families.gauge(
        "floodmark_tick_duration_seconds",
        "Time the last reading of the kernel's counts and its evaluation took.",
        &[],
        snapshot.tick.as_secs_f64(),
    );
    let totals = &snapshot.health.totals;
    for (what, count) in
        [("ring_full", totals.ring_full), ("undecodable", snapshot.health.undecodable)]
    {
        families.counter(
            "floodmark_events_lost_total",
            "Detail events lost between kernel and agent; counts do not suffer from it.",
            &[("reason", what)],
            count,
        );
    }
    for (program, count) in &snapshot.health.misses {
        families.counter(
            "floodmark_program_misses_total",
            "How often the kernel skipped a program because one was running on the CPU already \
             (recursion_misses); what it would have seen is not counted.",
            &[("program", program)],
            *count,
        );
    }
    for (what, count) in [
        ("map_full", totals.map_full),
        ("nested", totals.nested),
        ("orphan_exit", totals.orphan_exits),
    ] {
        families.counter(
            "floodmark_attribution_failures_total",
            "Counts in the kernel that could not be given to a listener or service.",
            &[("reason", what)],
            count,
        );
    }
}

fn about_losses(families: &mut Families, report: &ListenerReport) {
    let listener = &report.listener;
    let (netns, addr) = (&listener.netns_name, listener.id.addr.to_string());
    let inode = listener.id.inode.to_string();
    let base = [("netns", netns.as_str()), ("listener", &addr), ("inode", &inode)];
    for class in Class::ALL {
        about_a_class(families, &base, class, report.tally[class]);
    }
    families.counter(
        "floodmark_listener_connections_hit_total",
        "Connections that lost a handshake segment, each counted at its first. An upper bound \
         where thousands are hit at once.",
        &base,
        report.tally.connections,
    );
    families.gauge(
        "floodmark_listener_accept_queue_high_at_drop",
        "Deepest accept queue of a listener seen at a drop since the agent started.",
        &base,
        f64::from(report.queue_high),
    );
}

/// Every listener is there from its first scrape on, at 0, so that the first overflow is an increase.
fn about_overflows(families: &mut Families, snapshot: &Snapshot) {
    let losers = snapshot.report.listeners.iter().take(snapshot.listeners_exported);
    let listeners: BTreeMap<ListenerId, &Listener> =
        losers.map(|lost| &lost.listener).chain(&snapshot.view.listeners).map(by_id).collect();
    let overflows: BTreeMap<ListenerId, u64> =
        snapshot.report.listeners.iter().map(|l| (l.listener.id, l.tally.overflows())).collect();
    for (id, listener) in listeners {
        families.counter(
            "floodmark_listener_overflows_total",
            "Handshake segments that found a listener's accept queue full: its \
             floodmark_listener_drops_total of cause accept_queue_full, at 0 from the start.",
            &[
                ("netns", &listener.netns_name),
                ("listener", &listener.id.addr.to_string()),
                ("inode", &listener.id.inode.to_string()),
            ],
            overflows.get(&id).copied().unwrap_or(0),
        );
    }
}

fn by_id(listener: &Listener) -> (ListenerId, &Listener) {
    (listener.id, listener)
}

/// Drops, retransmits and the rest are families of their own, so that a sum over one makes sense.
fn about_a_class(families: &mut Families, base: &[(&str, &str); 3], class: Class, count: u64) {
    let Meaning { stage, cause, effect, counters } = meaning_of(class);
    let [netns, listener, inode] = *base;
    let labels = [netns, listener, inode, ("stage", stage), ("cause", cause)];
    if counters.contains(&Counter::ListenDrops) {
        families.counter(
            "floodmark_listener_drops_total",
            "Handshake segments dropped at a listener. Summed over listeners it is the growth of \
             the namespace's ListenDrops, and of ListenOverflows for cause accept_queue_full.",
            &[labels[0], labels[1], labels[2], labels[3], labels[4], ("effect", effect.name())],
            count,
        );
    } else if counters.contains(&Counter::SynRetrans) {
        families.counter(
            "floodmark_listener_synack_retransmits_total",
            "SYN/ACKs sent again by a listener (tcp_rtx_synack), by what made it necessary.",
            &[netns, listener, inode, ("cause", cause)],
            count,
        );
    } else if class == Class::UnacceptedListenerClosed {
        families.counter(
            "floodmark_listener_unaccepted_resets_total",
            "Connections reset in the accept queue because their listener closed \
             (inet_child_forget).",
            base,
            count,
        );
    } else if counters.is_empty() {
        families.counter(
            "floodmark_listener_requests_expired_total",
            "Pending requests given up by their timer (reqsk_timer_handler).",
            &[netns, listener, inode, ("cause", cause)],
            count,
        );
    } else {
        families.counter(
            "floodmark_listener_handshake_events_total",
            "What else befell handshakes at a listener: SYN cookies, deferred ACKs, resets.",
            &labels,
            count,
        );
    }
}

/// Every namespace is there from the start, at 0: what appears with its first drops already counted
/// has no increase that a query could see.
fn about_namespaces(families: &mut Families, snapshot: &Snapshot) {
    for (netns, (name, kernel)) in &snapshot.namespaces {
        let report = snapshot.report.namespaces.iter().find(|report| report.netns == *netns);
        for counter in Counter::reconciled() {
            let labels = [("netns", name.as_str()), ("mib", counter.name())];
            families.counter(
                "floodmark_kernel_mib_total",
                "Growth of the kernel's own counters (TcpExt) of a namespace since the agent \
                 started.",
                &labels,
                kernel[counter],
            );
            let rest = report.and_then(|report| report.unattributed.get(counter.name()));
            families.gauge(
                "floodmark_kernel_mib_unattributed",
                "Growth of a counter minus what was attributed to listeners; may be negative. \
                 Other than 0 for longer than a scrape, something is not seen.",
                &labels,
                rest.copied().unwrap_or(0) as f64,
            );
        }
    }
}

fn about_services(families: &mut Families, snapshot: &Snapshot) {
    let name_of = |netns: NetnsId| {
        let known = snapshot.namespaces.get(&netns);
        known.map_or_else(|| format!("net:[{netns}]"), |(name, _)| name.clone())
    };
    for service in snapshot.report.services.iter().take(SERVICES_EXPORTED) {
        let (netns, port) = (name_of(service.netns), service.port.to_string());
        let side = if service.is_local { "service" } else { "client" };
        for (event, count) in &service.counts {
            families.counter(
                "floodmark_connection_events_total",
                "Connections that entered TIME_WAIT or FIN_WAIT2, how those ended, and SYNs sent \
                 again, by the service's port (the lower one) and the side this host is on.",
                &[("netns", &netns), ("port", &port), ("side", side), ("event", event)],
                *count,
            );
        }
    }
    for no_port in snapshot.report.no_port.iter().take(SERVICES_EXPORTED) {
        families.counter(
            "floodmark_connect_no_port_total",
            "Connects that failed with EADDRNOTAVAIL: no ephemeral port left towards the \
             destination.",
            &[
                ("netns", &name_of(no_port.netns)),
                ("destination", &no_port.destination.to_string()),
                ("pid", &no_port.pid.to_string()),
                ("command", &no_port.command),
            ],
            no_port.failures,
        );
    }
}

fn about_proxies(families: &mut Families, snapshot: &Snapshot) {
    for ((proxy, event), count) in &snapshot.proxy_events {
        families.counter(
            "floodmark_proxy_events_total",
            "What proxies said of their upstreams.",
            &[("proxy", proxy.name()), ("event", event)],
            *count,
        );
    }
    about_verdicts(families, &snapshot.verdicts);
    for ((proxy, upstream, event, cause), at) in &snapshot.last_verdicts {
        families.gauge(
            "floodmark_last_verdict_timestamp_seconds",
            "When the newest proxy event with a cause was, by the proxy's clock.",
            &[
                ("proxy", proxy.name()),
                ("upstream", upstream),
                ("event", event),
                ("cause", cause.name()),
            ],
            at.0 as f64 / 1000.0,
        );
    }
}

/// Verdicts by kind; whoever counts them bounds the kinds.
pub(super) fn about_verdicts(families: &mut Families, verdicts: &BTreeMap<VerdictKind, u64>) {
    for (kind, count) in verdicts {
        families.counter(
            "floodmark_verdicts_total",
            "Proxy events by the cause found for them.",
            &[
                ("proxy", kind.proxy.name()),
                ("upstream", &kind.upstream),
                ("peer", &kind.peer),
                ("event", kind.event),
                ("cause", kind.cause.name()),
                ("confidence", kind.confidence.name()),
            ],
            *count,
        );
    }
}

/// Groups that ran out of live peers.
fn about_cycles(families: &mut Families, cycles: &[Cycle]) {
    for cycle in cycles.iter().take(SERVICES_EXPORTED) {
        let labels = [
            ("proxy", cycle.proxy.name()),
            ("source", cycle.source.as_str()),
            ("upstream", cycle.group.as_str()),
        ];
        families.counter(
            "floodmark_upstream_outages_total",
            "Times a group of peers had none left, by the proxy's word.",
            &labels,
            cycle.outages,
        );
        families.gauge(
            "floodmark_upstream_without_peer_ratio",
            "Share of the time without a live peer, over the last outages.",
            &labels,
            cycle.share_without_peer,
        );
        if let Some(period) = cycle.period_ms {
            families.gauge(
                "floodmark_upstream_outage_period_seconds",
                "Mean interval between outages that come at intervals alike.",
                &labels,
                period as f64 / 1000.0,
            );
        }
    }
}

fn about_sources(families: &mut Families, snapshot: &Snapshot) {
    for (source, stats) in &snapshot.sources {
        let read = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        let labels = [("source", source.as_str())];
        let mut count = |name, help, value| families.counter(name, help, &labels, value);
        count("floodmark_source_lines_total", "Lines read from a proxy's log.", read(&stats.lines));
        count(
            "floodmark_source_events_total",
            "Lines of a proxy's log that told of an upstream.",
            read(&stats.events),
        );
        count(
            "floodmark_source_lines_too_long_total",
            "Lines of a proxy's log thrown away for their length.",
            read(&stats.lines_too_long),
        );
        count(
            "floodmark_source_lines_cut_total",
            "Lines the proxy itself had cut; one that lost its upstream is no event.",
            read(&stats.lines_cut),
        );
        count(
            "floodmark_source_lines_dropped_total",
            "Syslog messages the kernel threw away because the socket's buffer was full, and \
             connections refused because there were too many.",
            read(&stats.dropped),
        );
        count(
            "floodmark_source_rotations_total",
            "Rotations of a proxy's log that were followed.",
            read(&stats.rotations),
        );
        count(
            "floodmark_source_errors_total",
            "Failed reads and opens of a proxy's log.",
            read(&stats.errors),
        );
        families.gauge(
            "floodmark_source_lag_bytes",
            "Bytes of a proxy's log written and not read yet.",
            &labels,
            read(&stats.lag_bytes) as f64,
        );
    }
}

#[cfg(test)]
mod tests;
