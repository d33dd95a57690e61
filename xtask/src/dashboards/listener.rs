//! One listener: its queue and limit, who holds it, what it loses, at which step and why.

use super::model::{Dashboard, Panel};

/// A listener, or the few that were chosen.
pub fn dashboard() -> Dashboard {
    Dashboard {
        uid: "floodmark-listener",
        title: "Floodmark: listener",
        description: "A listener's queue against its limit, what it loses and why.",
        variables: &[
            ("instance", "floodmark_build_info"),
            ("netns", "floodmark_listener_info{instance=~\"$instance\"}"),
            ("listener", "floodmark_listener_info{instance=~\"$instance\", netns=~\"$netns\"}"),
        ],
        rows: vec![("Who", who()), ("Queue", queue()), ("Losses", losses()), ("SYN queue", syns())],
    }
}

fn who() -> Vec<Panel> {
    vec![
        Panel::table(
            "Owner",
            "short",
            "Who holds the socket, and which of backlog and somaxconn bounds its queue.",
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
            "Accept queue",
            "short",
            "Connections that wait for accept(2), against the limit; the highest since the last scrape \
             where the agent runs with --watch-connections.",
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
        Panel::plot("Fill", "percentunit", "The same as a share of the limit.")
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
            "How long accepted connections had waited: median and 99th percentile.",
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
            "Handshake segments dropped per second, by step, cause and whether the client was told.",
        )
        .query(
            "sum by (stage, cause, effect) (rate(floodmark_listener_drops_total{\
             instance=~\"$instance\", netns=~\"$netns\", listener=~\"$listener\"}[$__rate_interval]))",
            "{{stage}} {{cause}} ({{effect}})",
        ),
        Panel::plot(
            "Connections hit",
            "cps",
            "Connections per second that lost a segment for the first time.",
        )
        .query(
            "sum by (netns, listener) (rate(floodmark_listener_connections_hit_total{\
             instance=~\"$instance\", netns=~\"$netns\", listener=~\"$listener\"}[$__rate_interval]))",
            "{{netns}} {{listener}}",
        ),
        Panel::plot("SYN/ACKs sent again", "cps", "By what made it necessary.").query(
            "sum by (cause) (rate(floodmark_listener_synack_retransmits_total{\
             instance=~\"$instance\", netns=~\"$netns\", listener=~\"$listener\"}[$__rate_interval]))",
            "{{cause}}",
        ),
        Panel::plot("Requests given up", "cps", "Pending handshakes that expired, by cause.").query(
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
            "What else befell handshakes",
            "cps",
            "SYN cookies, deferred final ACKs, resets of pending requests.",
        )
        .query(
            "sum by (stage, cause) (rate(floodmark_listener_handshake_events_total{\
             instance=~\"$instance\", netns=~\"$netns\", listener=~\"$listener\"}[$__rate_interval]))",
            "{{stage}} {{cause}}",
        ),
    ]
}
