//! What the agent tells of itself: rungs, canary, losses of its own.

use floodmark_common::CountingMap;

use super::families::Families;
use crate::{agent::Snapshot, inventory::Lookups};

pub(super) fn about_health(families: &mut Families, snapshot: &Snapshot) {
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
    families.counter(
        "floodmark_clock_steps_total",
        "Steps of the host's wall clock since the agent started.",
        &[],
        snapshot.clock_steps,
    );
    families.gauge(
        "floodmark_tick_duration_seconds",
        "Time the last reading of the kernel's counts and its evaluation took.",
        &[],
        snapshot.tick.as_secs_f64(),
    );
    families.gauge(
        "floodmark_tick_lateness_seconds",
        "Time between when the last tick was due and when it started.",
        &[],
        snapshot.lateness.last.as_secs_f64(),
    );
    families.fractional_counter(
        "floodmark_tick_late_seconds_total",
        "Sum of the lateness of all ticks since start.",
        &[],
        snapshot.lateness.total.as_secs_f64(),
    );
    let Lookups { timed_out, skipped, cut, stuck } = snapshot.lookups;
    for (reason, count) in [("timeout", timed_out), ("skipped", skipped), ("cut", cut)] {
        families.counter(
            "floodmark_owner_lookups_failed_total",
            "Processes with listening sockets that were not looked at, or only in part: they did not \
             answer in time, were skipped since they or too many others did not lately, or have more \
             descriptors, arguments or mappings than the limit.",
            &[("reason", reason)],
            count,
        );
    }
    families.gauge(
        "floodmark_owner_lookups_stuck",
        "Threads that wait for a process's files without an end; the agent starts at most 8.",
        &[],
        stuck as f64,
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
             (recursion_misses), or the CPU was in another kprobe (missed, since Linux 6.7); what it \
             would have seen is not counted.",
            &[("program", program)],
            *count,
        );
    }
    let mut failed = |labels: &[(&str, &str)], count| {
        families.counter(
            "floodmark_attribution_failures_total",
            "Counts in the kernel that could not be given to a listener or service; where a map had no \
             room for them, which.",
            labels,
            count,
        );
    };
    for (map, name) in CountingMap::ALL {
        failed(&[("reason", "map_full"), ("map", name)], totals.map_full[map as usize]);
    }
    failed(&[("reason", "nested")], totals.nested);
    failed(&[("reason", "orphan_exit")], totals.orphan_exits);
}
