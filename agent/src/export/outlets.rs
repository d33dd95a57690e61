//! Metrics of those who are told: what reached them and what waits.

use std::sync::atomic::{AtomicU64, Ordering};

use super::families::Families;
use crate::across::OutletStats;

/// One outlet's.
pub(super) fn about_outlet(families: &mut Families, outlet: &str, stats: &OutletStats) {
    let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let labels = [("outlet", outlet)];
    families.gauge(
        "floodmark_outlet_connected",
        "1 where the last attempt to hand something over succeeded.",
        &labels,
        f64::from(u8::from(stats.is_connected.load(Ordering::Relaxed))),
    );
    for (name, help, count) in [
        ("floodmark_outlet_sent_total", "Messages handed over and acknowledged.", &stats.sent),
        (
            "floodmark_outlet_dropped_total",
            "Messages thrown away: the outbox was full, or the receiver would not have them.",
            &stats.dropped,
        ),
        ("floodmark_outlet_errors_total", "Failed attempts to hand over.", &stats.errors),
    ] {
        families.counter(name, help, &labels, read(count));
    }
    for (name, help, count) in [
        ("floodmark_outlet_waiting", "Messages that wait to be handed over.", &stats.waiting),
        ("floodmark_outlet_waiting_bytes", "The size of those.", &stats.waiting_bytes),
    ] {
        families.gauge(name, help, &labels, read(count) as f64);
    }
}
