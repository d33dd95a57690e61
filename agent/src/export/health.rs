//! What the agent tells of itself: rungs, canary, losses of its own.

use floodmark_common::CountingMap;

use super::families::Families;
use crate::{agent::Snapshot, inventory::Lookups};

pub(super) fn about_health(families: &mut Families, snapshot: &Snapshot) {
    families.gauge(
        "floodmark_build_info",
        "Version of the agent, in the label `version`. Always 1.",
        &[("version", env!("CARGO_PKG_VERSION"))],
        1.0,
    );
    families.gauge(
        "floodmark_config_last_reload_successful",
        "Whether the last configuration reload succeeded completely: 1 or 0.",
        &[],
        f64::from(u8::from(snapshot.configuration.is_in_force)),
    );
    families.gauge(
        "floodmark_config_last_reload_success_timestamp_seconds",
        "Unix time, in seconds, of the last complete configuration reload or start.",
        &[],
        snapshot.configuration.since.0 as f64 / 1000.0,
    );
    for standing in &snapshot.standings {
        families.gauge(
            "floodmark_signal_rung_info",
            "Rung in use for a signal, in the label `rung`. Always 1.",
            &[("signal", standing.signal.name()), ("rung", standing.rung.name())],
            1.0,
        );
    }
    for (signal, heard) in &snapshot.canary {
        families.gauge(
            "floodmark_canary_heard",
            "Whether the self-test at the start saw every injected drop on this signal: 1 or 0. A \
             signal that saw none uses a lower rung.",
            &[("signal", signal.name())],
            f64::from(u8::from(heard.is_exact())),
        );
    }
    families.gauge(
        "floodmark_last_sample_timestamp_seconds",
        "Unix time, in seconds, of the last sample of the kernel's counters. An old value means \
         that the agent is stuck.",
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
        "Duration of the last tick in seconds: sampling the kernel's counters and evaluating them.",
        &[],
        snapshot.tick.as_secs_f64(),
    );
    families.gauge(
        "floodmark_tick_lateness_seconds",
        "Delay between the planned and the actual start of the last tick, in seconds.",
        &[],
        snapshot.lateness.last.as_secs_f64(),
    );
    families.fractional_counter(
        "floodmark_tick_late_seconds_total",
        "Total delay of all ticks since the agent started, in seconds.",
        &[],
        snapshot.lateness.total.as_secs_f64(),
    );
    let Lookups { timed_out, skipped, cut, stuck } = snapshot.lookups;
    for (reason, count) in [("timeout", timed_out), ("skipped", skipped), ("cut", cut)] {
        families.counter(
            "floodmark_owner_lookups_failed_total",
            "Owner lookups that failed or are incomplete: the process did not answer in time \
             (timeout), lookups are paused after earlier timeouts (skipped), or its descriptors, \
             arguments or mappings exceed the limit (cut).",
            &[("reason", reason)],
            count,
        );
    }
    families.gauge(
        "floodmark_owner_lookups_stuck",
        "Lookup threads that are blocked on a process's files; at most 8.",
        &[],
        stuck as f64,
    );
    let totals = &snapshot.health.totals;
    for (what, count) in
        [("ring_full", totals.ring_full), ("undecodable", snapshot.health.undecodable)]
    {
        families.counter(
            "floodmark_events_lost_total",
            "Detail events lost between kernel and agent. Counters are unaffected.",
            &[("reason", what)],
            count,
        );
    }
    for (program, count) in &snapshot.health.misses {
        families.counter(
            "floodmark_program_misses_total",
            "Program runs that the kernel skipped, because another program ran on the CPU \
             (recursion_misses) or the CPU was in another kprobe (missed, since Linux 6.7). Their \
             losses are not attributed.",
            &[("program", program)],
            *count,
        );
    }
    let mut failed = |labels: &[(&str, &str)], count| {
        families.counter(
            "floodmark_attribution_failures_total",
            "Counts that could not be attributed to a listener or service, by reason. For \
             map_full, the label `map` names the full map.",
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
