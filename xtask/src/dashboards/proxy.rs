//! One proxy: what it says of its peers, why, and what its own host has left.

use super::model::{Dashboard, Panel};

/// A proxy, or the few that were chosen.
pub fn dashboard() -> Dashboard {
    Dashboard {
        uid: "floodmark-proxy",
        title: "Floodmark: proxy",
        description: "Events of a proxy's peers, their causes, and the proxy's free ports.",
        variables: &[
            ("instance", "floodmark_build_info"),
            ("proxy", "floodmark_proxy_events_total{instance=~\"$instance\"}"),
            ("upstream", "floodmark_verdicts_total{instance=~\"$instance\", proxy=~\"$proxy\"}"),
        ],
        rows: vec![
            ("Events", says()),
            ("Groups", groups()),
            ("Connections", connections()),
            ("Log", log()),
        ],
    }
}

fn says() -> Vec<Panel> {
    vec![
        Panel::plot(
            "Events",
            "cps",
            "Failed attempts, markings, peers back, and requests that found no live peer.",
        )
        .query(
            "sum by (event) (rate(floodmark_proxy_events_total{instance=~\"$instance\", \
             proxy=~\"$proxy\"}[$__rate_interval]))",
            "{{event}}",
        ),
        Panel::plot("Causes", "cps", "Events per second by cause of the verdict.").query(
            "sum by (event, cause) (rate(floodmark_verdicts_total{instance=~\"$instance\", \
             proxy=~\"$proxy\", upstream=~\"$upstream\"}[$__rate_interval]))",
            "{{event}}: {{cause}}",
        ),
        Panel::table(
            "Verdicts",
            "short",
            "Verdicts since the agent started, by peer, event, cause and confidence.",
        )
        .query(
            "sort_desc(floodmark_verdicts_total{instance=~\"$instance\", proxy=~\"$proxy\", \
             upstream=~\"$upstream\"})",
            "",
        ),
    ]
}

fn groups() -> Vec<Panel> {
    vec![
        Panel::plot(
            "Outages",
            "short",
            "Times that a group ran out of peers since the agent started.",
        )
        .query(
            "floodmark_upstream_outages_total{instance=~\"$instance\", proxy=~\"$proxy\", \
             upstream=~\"$upstream\"}",
            "{{upstream}}",
        ),
        Panel::plot(
            "Time without a live peer",
            "percentunit",
            "Share of time without a live peer during the last outages of a group.",
        )
        .query(
            "floodmark_upstream_without_peer_ratio{instance=~\"$instance\", proxy=~\"$proxy\", \
             upstream=~\"$upstream\"}",
            "{{upstream}}",
        )
        .up_to(1.0),
    ]
}

fn connections() -> Vec<Panel> {
    vec![
        Panel::plot(
            "Ports in use",
            "short",
            "Ephemeral ports in use from this host to a destination, including TIME_WAIT.",
        )
        .query(
            "topk(10, floodmark_destination_ports_in_use{instance=~\"$instance\"})",
            "{{source}} to {{destination}}",
        ),
        Panel::plot("Ports left", "short", "Free ephemeral ports to a destination.").query(
            "bottomk(10, floodmark_destination_ports_headroom{instance=~\"$instance\"})",
            "{{source}} to {{destination}}",
        ),
        Panel::plot(
            "New connections",
            "cps",
            "Connections opened per second, by port and peer. Keepalive reduces them.",
        )
        .query(
            "topk(10, sum by (port, side, peer) (rate(floodmark_peer_connections_opened_total{\
             instance=~\"$instance\"}[$__rate_interval])))",
            "{{side}} {{peer}} {{port}}",
        ),
        Panel::plot(
            "Who closes first",
            "cps",
            "Connections that ended per second, by the side that closed first. That side keeps \
             the TIME_WAIT socket.",
        )
        .query(
            "sum by (port, side, by) (rate(floodmark_peer_connections_closed_total{\
             instance=~\"$instance\"}[$__rate_interval]))",
            "{{side}} {{port}} {{by}}",
        ),
        Panel::plot("TIME_WAIT", "short", "Sockets in TIME_WAIT by namespace.")
            .query("topk(10, floodmark_netns_time_wait{instance=~\"$instance\"})", "{{netns}}"),
        Panel::plot(
            "Lifetime of connections",
            "s",
            "Median lifetime of the connections that ended in the last 15 seconds.",
        )
        .query(
            "topk(10, floodmark_peer_connection_lifetime_median_seconds{instance=~\"$instance\"})",
            "{{side}} {{peer}} {{port}}",
        ),
    ]
}

fn log() -> Vec<Panel> {
    vec![
        Panel::plot("Lines", "cps", "Lines read per second, and events among them.")
            .query(
                "sum by (source) (rate(floodmark_source_lines_total{instance=~\"$instance\"}\
                 [$__rate_interval]))",
                "{{source}} lines",
            )
            .query(
                "sum by (source) (rate(floodmark_source_events_total{instance=~\"$instance\"}\
                 [$__rate_interval]))",
                "{{source}} events",
            ),
        Panel::plot("Lag", "bytes", "Bytes of a log that are not read yet.")
            .query("floodmark_source_lag_bytes{instance=~\"$instance\"}", "{{source}}"),
    ]
}
