//! Metrics of those who are told: what reached them and what waits.

use std::sync::atomic::{AtomicU64, Ordering};

use super::families::Families;
use crate::across::OutletStats;

pub(super) fn about_outlet(families: &mut Families, outlet: &str, stats: &OutletStats) {
    let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let labels = [("outlet", outlet)];
    families.gauge(
        "floodmark_outlet_connected",
        "Whether the last attempt to send succeeded: 1 or 0.",
        &labels,
        f64::from(u8::from(stats.is_connected.load(Ordering::Relaxed))),
    );
    for (name, help, count) in [
        ("floodmark_outlet_sent_total", "Messages sent and acknowledged.", &stats.sent),
        (
            "floodmark_outlet_dropped_total",
            "Messages dropped because the outbox was full or the receiver rejected them.",
            &stats.dropped,
        ),
        ("floodmark_outlet_errors_total", "Failed attempts to send.", &stats.errors),
    ] {
        families.counter(name, help, &labels, read(count));
    }
    for (name, help, count) in [
        (
            "floodmark_outlet_waiting",
            "Messages in the outbox that wait to be sent.",
            &stats.waiting,
        ),
        (
            "floodmark_outlet_waiting_bytes",
            "Size of the messages in the outbox, in bytes.",
            &stats.waiting_bytes,
        ),
    ] {
        families.gauge(name, help, &labels, read(count) as f64);
    }
}
