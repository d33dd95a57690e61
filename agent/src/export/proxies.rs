//! What proxies said, where from, and what was found to be the cause.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
};

use super::families::Families;
use crate::{
    agent::Snapshot,
    verdict::{Cycle, VerdictKind},
};

/// Groups whose oscillation is exported at most.
const CYCLES_EXPORTED: usize = 200;

pub(super) fn about_proxies(families: &mut Families, snapshot: &Snapshot) {
    for ((proxy, event), count) in &snapshot.proxy_events {
        families.counter(
            "floodmark_proxy_events_total",
            "Events that proxies reported about their upstreams.",
            &[("proxy", proxy.name()), ("event", event)],
            *count,
        );
    }
    about_verdicts(families, &snapshot.verdicts);
    for ((proxy, upstream, event, cause), at) in &snapshot.last_verdicts {
        families.gauge(
            "floodmark_last_verdict_timestamp_seconds",
            "Unix time, in seconds, of the newest proxy event with this cause, by the proxy's \
             clock.",
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
            "Proxy events by cause and confidence of their verdict.",
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
pub(super) fn about_cycles(families: &mut Families, cycles: &[Cycle]) {
    for cycle in cycles.iter().take(CYCLES_EXPORTED) {
        let labels = [
            ("proxy", cycle.proxy.name()),
            ("source", cycle.source.as_str()),
            ("upstream", cycle.group.as_str()),
        ];
        families.counter(
            "floodmark_upstream_outages_total",
            "Outages of a group of peers: the proxy reported that it had no live peer left.",
            &labels,
            cycle.outages,
        );
        families.gauge(
            "floodmark_upstream_without_peer_ratio",
            "Share of time without a live peer during the last outages, from 0 to 1.",
            &labels,
            cycle.share_without_peer,
        );
        if let Some(period) = cycle.period_ms {
            families.gauge(
                "floodmark_upstream_outage_period_seconds",
                "Mean interval between periodic outages, in seconds.",
                &labels,
                period as f64 / 1000.0,
            );
        }
    }
}

pub(super) fn about_sources(families: &mut Families, snapshot: &Snapshot) {
    for (source, stats) in &snapshot.sources {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let labels = [("source", source.as_str())];
        let mut count = |name, help, value| families.counter(name, help, &labels, value);
        count("floodmark_source_lines_total", "Lines read from a proxy's log.", read(&stats.lines));
        count(
            "floodmark_source_events_total",
            "Lines of a proxy's log that contained an event about an upstream.",
            read(&stats.events),
        );
        count(
            "floodmark_source_events_unverified_total",
            "Events of a proxy's log whose writer the agent cannot verify. Their verdicts have at \
             most medium confidence.",
            read(&stats.events_unverified),
        );
        count(
            "floodmark_source_lines_foreign_total",
            "Lines that look like an event but may not be written by the proxy. They are ignored.",
            read(&stats.lines_foreign),
        );
        count(
            "floodmark_source_lines_old_total",
            "Lines that look like an event but were written more than ten minutes before they \
             were read. They are ignored.",
            read(&stats.lines_old),
        );
        count(
            "floodmark_source_lines_too_long_total",
            "Lines of a proxy's log that were ignored because they are too long.",
            read(&stats.lines_too_long),
        );
        count(
            "floodmark_source_lines_cut_total",
            "Lines that the proxy itself truncated. They are ignored if the upstream is missing.",
            read(&stats.lines_cut),
        );
        count(
            "floodmark_source_lines_dropped_total",
            "Syslog messages that the kernel dropped because the socket's buffer was full, and \
             syslog connections rejected above the limit.",
            read(&stats.dropped),
        );
        count(
            "floodmark_source_skipped_bytes_total",
            "Bytes of a proxy's log that were skipped because more than 4 GiB were unread.",
            read(&stats.skipped_bytes),
        );
        count(
            "floodmark_source_rotations_total",
            "Rotations of a proxy's log.",
            read(&stats.rotations),
        );
        count(
            "floodmark_source_errors_total",
            "Failed attempts to open or read a proxy's log.",
            read(&stats.errors),
        );
        families.gauge(
            "floodmark_source_lag_bytes",
            "Bytes of a proxy's log that are written but not read yet.",
            &labels,
            read(&stats.lag_bytes) as f64,
        );
    }
}
