//! The agents themselves: what they see, what they lose, what they cost.

use super::model::{Dashboard, Panel};

/// Agents' health.
pub fn dashboard() -> Dashboard {
    Dashboard {
        uid: "floodmark-agent",
        title: "Floodmark: agents",
        description: "State of the agents: samples, rungs, missed losses and cost.",
        variables: &[("instance", "floodmark_build_info")],
        rows: vec![("State", watching()), ("Evidence", evidence()), ("Cost", cost())],
    }
}

fn watching() -> Vec<Panel> {
    vec![
        Panel::stat("Up", "short", "Whether the last scrape succeeded: 1 or 0.")
            .query("up{job=~\".*floodmark.*\", instance=~\"$instance\"}", "{{instance}}")
            .red_below(1.0),
        Panel::stat("Last sample", "s", "Time since the kernel's counters were last read.")
            .query(
                "time() - floodmark_last_sample_timestamp_seconds{instance=~\"$instance\"}",
                "{{instance}}",
            )
            .red_from(60.0),
        Panel::stat(
            "Configuration",
            "short",
            "Whether the last configuration reload succeeded: 1 or 0.",
        )
        .query("floodmark_config_last_reload_successful{instance=~\"$instance\"}", "{{instance}}")
        .red_below(1.0),
        Panel::stat("Version", "short", "Agents by version.").query(
            "count by (version) (floodmark_build_info{instance=~\"$instance\"})",
            "{{version}}",
        ),
        Panel::table("Rungs", "short", "Rung in use for each signal.")
            .query("floodmark_signal_rung_info{instance=~\"$instance\"}", "")
            .wide(12),
        Panel::table(
            "Self-test",
            "short",
            "Whether the self-test at the start saw every injected drop on this signal: 1 or 0.",
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
            "Growth of kernel counters that is not attributed. ListenOverflows and ListenDrops \
             must be 0.",
        )
        .query(
            "sum by (instance, mib) \
             (abs(floodmark_kernel_mib_unattributed{instance=~\"$instance\"}))",
            "{{instance}} {{mib}}",
        ),
        Panel::plot("Kernel counters", "cps", "Growth per second, summed over all namespaces.").query(
            "sum by (mib) (rate(floodmark_kernel_mib_total{instance=~\"$instance\"}\
             [$__rate_interval]))",
            "{{mib}}",
        ),
        Panel::plot("Lost", "cps", "Lost detail events and failed attributions per second.")
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
        Panel::plot("Not exported", "short", "Listeners beyond the export limit.")
            .query(
                "floodmark_listeners_not_exported{instance=~\"$instance\"}",
                "{{instance}} {{kind}}",
            )
            .query(
                "floodmark_listener_losses_not_exported{instance=~\"$instance\"}",
                "{{instance}} with losses",
            ),
        Panel::plot(
            "Log problems",
            "cps",
            "Failed reads, lines that are too long, and dropped syslog messages per second.",
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
        Panel::plot("Tick duration", "s", "Duration of sampling and evaluation, once a second.")
            .query("floodmark_tick_duration_seconds{instance=~\"$instance\"}", "{{instance}}"),
        Panel::plot("Samples per scrape", "short", "Number of series that an agent exports.")
            .query(
                "scrape_samples_scraped{job=~\".*floodmark.*\", instance=~\"$instance\"}",
                "{{instance}}",
            ),
        Panel::plot("Scrape duration", "s", "Duration of a scrape.").query(
            "scrape_duration_seconds{job=~\".*floodmark.*\", instance=~\"$instance\"}",
            "{{instance}}",
        ),
    ]
}
