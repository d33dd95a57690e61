//! The agents themselves: what they see, what they lose, what they cost.

use super::model::{Dashboard, Panel};

/// Agents' health.
pub fn dashboard() -> Dashboard {
    Dashboard {
        uid: "floodmark-agent",
        title: "Floodmark: agents",
        description: "Whether agents watch, from which rung, what escapes them and what they cost.",
        variables: &[("instance", "floodmark_build_info")],
        rows: vec![("Watching", watching()), ("Evidence", evidence()), ("Cost", cost())],
    }
}

fn watching() -> Vec<Panel> {
    vec![
        Panel::stat("Up", "short", "1 where the last scrape succeeded.")
            .query("up{job=~\".*floodmark.*\", instance=~\"$instance\"}", "{{instance}}")
            .red_below(1.0),
        Panel::stat("Last sample", "s", "How long ago the kernel's counts were last read.")
            .query(
                "time() - floodmark_last_sample_timestamp_seconds{instance=~\"$instance\"}",
                "{{instance}}",
            )
            .red_from(60.0),
        Panel::stat("Configuration", "short", "1 where the configuration that was read last is in force.")
            .query(
                "floodmark_config_last_reload_successful{instance=~\"$instance\"}",
                "{{instance}}",
            )
            .red_below(1.0),
        Panel::stat("Version", "short", "Agents by version.").query(
            "count by (version) (floodmark_build_info{instance=~\"$instance\"})",
            "{{version}}",
        ),
        Panel::table("Rungs", "short", "From which rung of the ladder each signal is had.")
            .query("floodmark_signal_rung_info{instance=~\"$instance\"}", "")
            .wide(12),
        Panel::table(
            "Canary",
            "short",
            "1 where a signal told of every handshake that was lost on purpose when the agent began.",
        )
        .query("floodmark_canary_heard{instance=~\"$instance\"}", "")
        .wide(12)
        .red_below(1.0),
    ]
}

fn evidence() -> Vec<Panel> {
    vec![
        Panel::plot(
            "Unattributed",
            "short",
            "What of the kernel's counters belongs to nobody. ListenOverflows and ListenDrops must be 0.",
        )
        .query(
            "sum by (instance, mib) (abs(floodmark_kernel_mib_unattributed{instance=~\"$instance\"}))",
            "{{instance}} {{mib}}",
        ),
        Panel::plot("The kernel's counters", "cps", "Their growth per second, over all namespaces.").query(
            "sum by (mib) (rate(floodmark_kernel_mib_total{instance=~\"$instance\"}\
             [$__rate_interval]))",
            "{{mib}}",
        ),
        Panel::plot("Lost", "cps", "Detail events and attributions that were lost, per second.")
            .query(
                "sum by (instance, reason) (rate(floodmark_events_lost_total{instance=~\"$instance\"}\
                 [$__rate_interval]))",
                "{{instance}} events: {{reason}}",
            )
            .query(
                "sum by (instance, reason) (rate(floodmark_attribution_failures_total{\
                 instance=~\"$instance\"}[$__rate_interval]))",
                "{{instance}} attributions: {{reason}}",
            ),
        Panel::plot("Left out", "short", "Listeners beyond the number that is exported.")
            .query(
                "floodmark_listeners_not_exported{instance=~\"$instance\"}",
                "{{instance}} {{kind}}",
            )
            .query(
                "floodmark_listener_losses_not_exported{instance=~\"$instance\"}",
                "{{instance}} with losses",
            ),
        Panel::plot(
            "Troubles with logs",
            "cps",
            "Failed reads, lines too long or cut, syslog messages thrown away; per second.",
        )
        .query(
            "sum by (instance, source) (rate(floodmark_source_errors_total{instance=~\"$instance\"}\
             [$__rate_interval]))",
            "{{source}} errors",
        )
        .query(
            "sum by (instance, source) (rate(floodmark_source_lines_too_long_total{\
             instance=~\"$instance\"}[$__rate_interval]))",
            "{{source}} too long",
        )
        .query(
            "sum by (instance, source) (rate(floodmark_source_lines_dropped_total{\
             instance=~\"$instance\"}[$__rate_interval]))",
            "{{source}} dropped",
        ),
    ]
}

fn cost() -> Vec<Panel> {
    vec![
        Panel::plot("Memory", "bytes", "Resident memory.").query(
            "process_resident_memory_bytes{job=~\".*floodmark.*\", instance=~\"$instance\"}",
            "{{instance}}",
        ),
        Panel::plot("CPU", "percentunit", "Share of one CPU.").query(
            "rate(process_cpu_seconds_total{job=~\".*floodmark.*\", instance=~\"$instance\"}\
             [$__rate_interval])",
            "{{instance}}",
        ),
        Panel::plot("Descriptors", "short", "Open file descriptors.").query(
            "process_open_fds{job=~\".*floodmark.*\", instance=~\"$instance\"}",
            "{{instance}}",
        ),
        Panel::plot("Time of a tick", "s", "How long reading and judging takes, each second.")
            .query("floodmark_tick_duration_seconds{instance=~\"$instance\"}", "{{instance}}"),
        Panel::plot("Samples per scrape", "short", "How many series an agent exports.").query(
            "scrape_samples_scraped{job=~\".*floodmark.*\", instance=~\"$instance\"}",
            "{{instance}}",
        ),
        Panel::plot("Time of a scrape", "s", "How long a scrape takes.").query(
            "scrape_duration_seconds{job=~\".*floodmark.*\", instance=~\"$instance\"}",
            "{{instance}}",
        ),
    ]
}
