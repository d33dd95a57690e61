//! One proxy: what it says of its peers, why, and what its own host has left.

use super::model::{Dashboard, Panel};

/// A proxy, or the few that were chosen.
pub fn dashboard() -> Dashboard {
    Dashboard {
        uid: "floodmark-proxy",
        title: "Floodmark: proxy",
        description: "What a proxy says of its peers, the causes found, and the ports it has left.",
        variables: &[
            ("instance", "floodmark_build_info"),
            ("proxy", "floodmark_proxy_events_total{instance=~\"$instance\"}"),
            ("upstream", "floodmark_verdicts_total{instance=~\"$instance\", proxy=~\"$proxy\"}"),
        ],
        rows: vec![
            ("What it says", says()),
            ("Groups", groups()),
            ("Its connections", connections()),
            ("Its log", log()),
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
        Panel::plot("Causes", "cps", "Events per second by the cause found for them.").query(
            "sum by (event, cause) (rate(floodmark_verdicts_total{instance=~\"$instance\", \
             proxy=~\"$proxy\", upstream=~\"$upstream\"}[$__rate_interval]))",
            "{{event}}: {{cause}}",
        ),
        Panel::table(
            "Verdicts",
            "short",
            "Since the agent began: each peer, event and cause with how sure that is.",
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
        Panel::plot("Outages", "short", "Times a group ran out of peers, since the agent began.")
            .query(
                "floodmark_upstream_outages_total{instance=~\"$instance\", proxy=~\"$proxy\", \
             upstream=~\"$upstream\"}",
                "{{upstream}}",
            ),
        Panel::plot(
            "Time without a live peer",
            "percentunit",
            "Share of the time, over the last outages of a group, in which it had none.",
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
            "Ephemeral ports in use from this host to a destination, TIME_WAIT included.",
        )
        .query(
            "topk(10, floodmark_destination_ports_in_use{instance=~\"$instance\"})",
            "{{source}} to {{destination}}",
        ),
        Panel::plot("Ports left", "short", "Ephemeral ports left towards a destination.").query(
            "bottomk(10, floodmark_destination_ports_headroom{instance=~\"$instance\"})",
            "{{source}} to {{destination}}",
        ),
        Panel::plot(
            "New connections",
            "cps",
            "Connections opened per second, by port and peer; with keepalive they are few.",
        )
        .query(
            "topk(10, sum by (port, side, peer) (rate(floodmark_peer_connections_opened_total{\
             instance=~\"$instance\"}[$__rate_interval])))",
            "{{side}} {{peer}} {{port}}",
        ),
        Panel::plot(
            "Who closes first",
            "cps",
            "Connections ended per second by who closed; whoever does keeps the TIME_WAIT.",
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
        Panel::plot("Lines", "cps", "Lines read per second, and those that told of an upstream.")
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
        Panel::plot("Behind", "bytes", "What of a log is written and not read yet.")
            .query("floodmark_source_lag_bytes{instance=~\"$instance\"}", "{{source}}"),
    ]
}
