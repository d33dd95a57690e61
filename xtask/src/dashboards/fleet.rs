//! All hosts: who loses connections, which proxies give up on whom, what runs out.

use super::model::{Dashboard, Panel};

/// The overview.
pub fn dashboard() -> Dashboard {
    Dashboard {
        uid: "floodmark-fleet",
        title: "Floodmark: fleet",
        description: "Listeners that lose connections, peers that proxies mark as down with the \
                      causes, and tables that fill up.",
        variables: &[("instance", "floodmark_build_info")],
        rows: vec![
            ("Now", now()),
            ("Listeners", listeners()),
            ("Proxies", proxies()),
            ("Ports and TIME_WAIT", ports()),
        ],
    }
}

fn now() -> Vec<Panel> {
    vec![
        Panel::stat("Agents up", "short", "Agents whose last scrape succeeded.")
            .query("sum(up{job=~\".*floodmark.*\", instance=~\"$instance\"})", "agents"),
        Panel::stat(
            "Overflowing listeners",
            "short",
            "Listeners whose accept queue was full within the last 5 minutes.",
        )
        .query(
            "count(listener:floodmark_overflows:increase5m{instance=~\"$instance\"} > 0) or \
             vector(0)",
            "listeners",
        )
        .red_from(1.0),
        Panel::stat(
            "Groups without a live peer",
            "short",
            "Groups for which a proxy reported no live peer within the last 2 minutes.",
        )
        .query(
            "count(time() - floodmark_last_verdict_timestamp_seconds{event=\"no_live_peers\", \
             instance=~\"$instance\"} < 120) or vector(0)",
            "groups",
        )
        .red_from(1.0),
        Panel::stat("Alerts", "short", "Firing Floodmark alerts.")
            .query(
                "count(ALERTS{alertname=~\"Floodmark.*\", alertstate=\"firing\", \
                 instance=~\"$instance\"}) or vector(0)",
                "alerts",
            )
            .red_from(1.0),
    ]
}

fn listeners() -> Vec<Panel> {
    vec![
        Panel::table(
            "Overflowing listeners",
            "short",
            "Handshake segments that found the accept queue full in 5 minutes, with the \
             listener's owner and the setting that limits its queue.",
        )
        .query("topk(20, listener:floodmark_overflows:increase5m{instance=~\"$instance\"} > 0)", ""),
        Panel::plot(
            "Overflows by host",
            "cps",
            "Handshake segments per second that found an accept queue full: ListenOverflows.",
        )
        .query(
            "sum by (instance) (rate(floodmark_listener_overflows_total{instance=~\"$instance\"}\
             [$__rate_interval]))",
            "{{instance}}",
        ),
        Panel::plot(
            "Drops by cause",
            "cps",
            "Handshake segments per second that were dropped at listeners, by cause: ListenDrops.",
        )
        .query(
            "sum by (cause) (rate(floodmark_listener_drops_total{instance=~\"$instance\"}\
             [$__rate_interval]))",
            "{{cause}}",
        ),
        Panel::plot(
            "Fullest accept queues",
            "percentunit",
            "Used share of the accept queue; with --watch-connections, the maximum since the last \
             scrape. At 100 % the next connection is lost.",
        )
        .query(
            "topk(10, listener:floodmark_accept_queue_fill:ratio{instance=~\"$instance\"})",
            "{{instance}} {{netns}} {{listener}} {{owner}}",
        )
        .yellow_from(0.8)
        .red_from(1.0)
        .up_to(1.0),
        Panel::plot(
            "SYN/ACK retransmits",
            "cps",
            "Retransmits per second by cause; own_drop: this host dropped the final ACK.",
        )
        .query(
            "sum by (cause) (rate(floodmark_listener_synack_retransmits_total{instance=~\"$instance\"}\
             [$__rate_interval]))",
            "{{cause}}",
        ),
    ]
}

fn proxies() -> Vec<Panel> {
    vec![
        Panel::plot("Markings by cause", "cps", "Markings per second by cause of the verdict.").query(
            "sum by (cause) (rate(floodmark_verdicts_total{event=\"peer_marked\", \
             instance=~\"$instance\"}[$__rate_interval]))",
            "{{cause}}",
        ),
        Panel::plot("Markings by peer", "cps", "Markings per second by peer.").query(
            "topk(10, sum by (upstream, peer) (rate(floodmark_verdicts_total{event=\"peer_marked\", \
             instance=~\"$instance\"}[$__rate_interval])))",
            "{{upstream}} {{peer}}",
        ),
        Panel::plot(
            "Time without a live peer",
            "percentunit",
            "Share of time without a live peer during the last outages of a group.",
        )
        .query(
            "floodmark_upstream_without_peer_ratio{instance=~\"$instance\"}",
            "{{instance}} {{proxy}} {{upstream}}",
        )
        .up_to(1.0),
        Panel::plot("Outages", "short", "Times that a group ran out of peers since the agent started.").query(
            "floodmark_upstream_outages_total{instance=~\"$instance\"}",
            "{{instance}} {{proxy}} {{upstream}}",
        ),
    ]
}

fn ports() -> Vec<Panel> {
    vec![
        Panel::plot(
            "TIME_WAIT tables",
            "percentunit",
            "Used share of net.ipv4.tcp_max_tw_buckets; the fullest ten.",
        )
        .query(
            "topk(10, netns:floodmark_time_wait_fill:ratio{instance=~\"$instance\"})",
            "{{instance}} {{netns}}",
        )
        .yellow_from(0.8)
        .red_from(1.0),
        Panel::plot(
            "Ephemeral ports",
            "percentunit",
            "Used share of the ports from one address to one destination; the fullest ten.",
        )
        .query(
            "topk(10, destination:floodmark_ports_fill:ratio{instance=~\"$instance\"})",
            "{{instance}} {{source}} to {{destination}}",
        )
        .yellow_from(0.9)
        .red_from(1.0),
    ]
}
