//! One listener: its queue and limit, who holds it, what it loses, at which step and why.

use super::model::{Dashboard, Panel};

/// A listener, or the few that were chosen.
pub fn dashboard() -> Dashboard {
    Dashboard {
        uid: "floodmark-listener",
        title: "Floodmark: listener",
        description: "A listener's queue and limit, its losses and their causes.",
        variables: &[
            ("instance", "floodmark_build_info"),
            ("netns", "floodmark_listener_info{instance=~\"$instance\"}"),
            ("listener", "floodmark_listener_info{instance=~\"$instance\", netns=~\"$netns\"}"),
        ],
        rows: vec![
            ("Owner", who()),
            ("Queue", queue()),
            ("Losses", losses()),
            ("SYN queue", syns()),
        ],
    }
}

fn who() -> Vec<Panel> {
    vec![
        Panel::table(
            "Owner",
            "short",
            "Process that holds the socket, and which of backlog and somaxconn limits its queue.",
        )
        .query(
            "listener:floodmark_owner:info{instance=~\"$instance\", netns=~\"$netns\", \
             listener=~\"$listener\"}",
            "",
        ),
    ]
}

fn queue() -> Vec<Panel> {
    vec![
        Panel::plot(
            "Why nobody accepts",
            "percentunit",
            "Share of samples in which an impediment kept the processes of a stalled listener from \
             accepting.",
        )
        .query(
            "max by (netns, listener, impediment) \
             (floodmark_listener_impediment_ratio{instance=~\"$instance\", netns=~\"$netns\", \
             listener=~\"$listener\"})",
            "{{netns}} {{listener}} {{impediment}}",
        ),
        Panel::plot(
            "Accept queue",
            "short",
            "Connections that wait for accept(2), and the limit. With --watch-connections also \
             the maximum since the last scrape.",
        )
        .query(
            "floodmark_listener_accept_queue_length{instance=~\"$instance\", netns=~\"$netns\", \
             listener=~\"$listener\"}",
            "{{netns}} {{listener}} now",
        )
        .query(
            "floodmark_listener_accept_queue_high_since_scrape{instance=~\"$instance\", \
             netns=~\"$netns\", listener=~\"$listener\"}",
            "{{netns}} {{listener}} high",
        )
        .query(
            "floodmark_listener_accept_queue_limit{instance=~\"$instance\", netns=~\"$netns\", \
             listener=~\"$listener\"}",
            "{{netns}} {{listener}} limit",
        ),
        Panel::plot("Fill", "percentunit", "Used share of the accept queue.")
            .query(
                "listener:floodmark_accept_queue_fill:ratio{instance=~\"$instance\", netns=~\"$netns\", \
                 listener=~\"$listener\"}",
                "{{netns}} {{listener}}",
            )
            .yellow_from(0.8)
            .red_from(1.0)
            .up_to(1.0),
        Panel::plot(
            "Time in queue",
            "s",
            "Time that accepted connections waited in the queue: median and 99th percentile.",
        )
        .query(
            "histogram_quantile(0.5, sum by (le, netns, listener) (rate(\
             floodmark_listener_accept_wait_seconds_bucket{instance=~\"$instance\", netns=~\"$netns\", \
             listener=~\"$listener\"}[$__rate_interval])))",
            "{{netns}} {{listener}} median",
        )
        .query(
            "histogram_quantile(0.99, sum by (le, netns, listener) (rate(\
             floodmark_listener_accept_wait_seconds_bucket{instance=~\"$instance\", netns=~\"$netns\", \
             listener=~\"$listener\"}[$__rate_interval])))",
            "{{netns}} {{listener}} 99 %",
        ),
        Panel::plot("Accepted", "cps", "Connections taken out of the queue per second.").query(
            "sum by (netns, listener) (rate(floodmark_listener_accept_wait_seconds_count{\
             instance=~\"$instance\", netns=~\"$netns\", listener=~\"$listener\"}[$__rate_interval]))",
            "{{netns}} {{listener}}",
        ),
    ]
}

fn losses() -> Vec<Panel> {
    vec![
        Panel::plot(
            "Drops",
            "cps",
            "Handshake segments dropped per second, by stage, cause and effect (silent or reset).",
        )
        .query(
            "sum by (stage, cause, effect) (rate(floodmark_listener_drops_total{\
             instance=~\"$instance\", netns=~\"$netns\", listener=~\"$listener\"}[$__rate_interval]))",
            "{{stage}} {{cause}} ({{effect}})",
        ),
        Panel::plot(
            "Affected connections",
            "cps",
            "Connections per second that lost a segment for the first time.",
        )
        .query(
            "sum by (netns, listener) (rate(floodmark_listener_connections_hit_total{\
             instance=~\"$instance\", netns=~\"$netns\", listener=~\"$listener\"}[$__rate_interval]))",
            "{{netns}} {{listener}}",
        ),
        Panel::plot("SYN/ACK retransmits", "cps", "Retransmits per second by cause.").query(
            "sum by (cause) (rate(floodmark_listener_synack_retransmits_total{\
             instance=~\"$instance\", netns=~\"$netns\", listener=~\"$listener\"}[$__rate_interval]))",
            "{{cause}}",
        ),
        Panel::plot("Expired handshakes", "cps", "Pending handshakes that expired per second, by cause.").query(
            "sum by (cause) (rate(floodmark_listener_requests_expired_total{\
             instance=~\"$instance\", netns=~\"$netns\", listener=~\"$listener\"}[$__rate_interval]))",
            "{{cause}}",
        ),
    ]
}

fn syns() -> Vec<Panel> {
    vec![
        Panel::plot("SYN queue", "short", "Handshakes that wait for their final ACK.").query(
            "floodmark_listener_syn_queue_length{instance=~\"$instance\", netns=~\"$netns\", \
             listener=~\"$listener\"}",
            "{{netns}} {{listener}}",
        ),
        Panel::plot(
            "Other handshake events",
            "cps",
            "SYN cookies, deferred final ACKs and resets of pending handshakes per second.",
        )
        .query(
            "sum by (stage, cause) (rate(floodmark_listener_handshake_events_total{\
             instance=~\"$instance\", netns=~\"$netns\", listener=~\"$listener\"}[$__rate_interval]))",
            "{{stage}} {{cause}}",
        ),
    ]
}
