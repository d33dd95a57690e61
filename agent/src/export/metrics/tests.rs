use std::{
    collections::BTreeSet,
    io::Write,
    process::{Command, Stdio},
    time::Duration,
};

use super::{
    super::fixture::{APP, listener, snapshot, view},
    *,
};
use crate::{
    inventory::{
        Backlog, Depth, Destination, Namespace, View,
        peers::{PeerCounts, PeerReport},
    },
    kernel::QueueDepth,
};

const UNATTRIBUTED: &str = "floodmark_kernel_mib_unattributed";

/// The values of all samples of `name` whose labels hold each of `labels`.
fn values(text: &str, name: &str, labels: &[&str]) -> Vec<f64> {
    text.lines()
        .filter(|line| {
            line.starts_with(&format!("{name}{{")) || line.starts_with(&format!("{name} "))
        })
        .filter(|line| labels.iter().all(|label| line.contains(label)))
        .map(|line| line.rsplit(' ').next().unwrap().parse().unwrap())
        .collect()
}

#[test]
fn promtool_finds_nothing_to_say() {
    let promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut promtool = match promtool {
        Ok(promtool) => promtool,
        Err(error) => {
            eprintln!("skipped: promtool (package prometheus) cannot be run: {error}");
            return;
        }
    };
    let text = render(&snapshot()).unwrap();
    promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let outcome = promtool.wait_with_output().unwrap();
    let said = [outcome.stdout, outcome.stderr].concat();
    assert_eq!(String::from_utf8_lossy(&said), "", "{text}");
    assert!(outcome.status.success());
}

#[test]
fn drops_of_a_listener_add_up_to_what_the_kernel_counts() {
    let text = render(&snapshot()).unwrap();
    let sum = |labels: &[&str]| -> f64 {
        values(&text, "floodmark_listener_drops_total", labels).iter().sum()
    };
    let tally = snapshot().report.listeners[0].tally;
    assert_eq!(sum(&[]), tally.drops() as f64);
    assert_eq!(sum(&["cause=\"accept_queue_full\""]), tally.overflows() as f64);
    assert_eq!(sum(&["cause=\"accept_queue_full\"", "stage=\"ack\""]), 5.0);
    assert_eq!(sum(&["cause=\"syn_queue_full\""]), 1.0);
    assert_eq!(values(&text, UNATTRIBUTED, &["app1", "\"ListenOverflows\""]), [1.0]);
    assert_eq!(values(&text, UNATTRIBUTED, &["app1", "\"ListenDrops\""]), [2.0]);
}

/// A counter that appears with its first drops in it has no increase.
#[test]
fn a_quiet_namespace_is_exported_at_zero() {
    let text = render(&snapshot()).unwrap();
    for name in ["floodmark_kernel_mib_total", UNATTRIBUTED] {
        let labels = ["net:[4026532002]", "\"ListenDrops\""];
        assert_eq!(values(&text, name, &labels), [0.0], "{name}");
    }
}

/// The first overflow of a listener must be an increase that an alert can see.
#[test]
fn a_listener_has_its_overflows_from_its_first_scrape_on() {
    let name = "floodmark_listener_overflows_total";
    let mut snapshot = snapshot();
    snapshot.view = view(&[listener(8000, "app").listener, listener(80, "nginx").listener]);
    let text = render(&snapshot).unwrap();
    assert_eq!(values(&text, name, &["10.0.0.2:80\""]), [0.0]);
    assert_eq!(values(&text, name, &["10.0.0.2:8000\""]), [15.0]);
}

#[test]
fn the_agent_tells_of_its_own_process_and_when_it_last_looked() {
    let text = render(&snapshot()).unwrap();
    for name in ["process_resident_memory_bytes", "process_open_fds", "process_start_time_seconds"]
    {
        assert!(values(&text, name, &[])[0] > 0.0, "{name}");
    }
    assert!(values(&text, "floodmark_last_sample_timestamp_seconds", &[])[0] > 1.7e9);
    let labels = ["no_live_peers", "accept_queue_overflow", "upstream=\"app\""];
    let last = values(&text, "floodmark_last_verdict_timestamp_seconds", &labels);
    assert_eq!(last, [1_700_000_000.5]);
}

#[test]
fn a_namespace_has_one_name_in_all_families() {
    let text = render(&snapshot()).unwrap();
    let name = "floodmark_connection_events_total";
    assert_eq!(values(&text, name, &["netns=\"app1\"", "side=\"service\""]), [4.0]);
    assert_eq!(values(&text, "floodmark_connect_no_port_total", &["netns=\"app1\""]), [6.0]);
}

#[test]
fn an_owner_of_any_name_stays_within_its_label() {
    let text = render(&snapshot()).unwrap();
    assert!(text.contains(r#"command="tor\"nado <&\\\n""#), "{text}");
}

#[test]
fn exports_no_more_losers_than_it_may_and_says_how_many_are_missing() {
    let mut snapshot = snapshot();
    snapshot.report.listeners = (1..=203).map(|port| listener(port, "app")).collect();
    let text = render(&snapshot).unwrap();
    let exported = values(&text, "floodmark_listener_connections_hit_total", &[]).len();
    assert_eq!(exported, snapshot.listeners_exported);
    assert_eq!(values(&text, "floodmark_listener_losses_not_exported", &[]), [3.0]);
    // Worst first, as the report has them.
    assert!(text.contains("10.0.0.2:200\"") && !text.contains("10.0.0.2:201\""));
}

/// Its last increase must be scraped, and then it is to go, whatever it lost.
#[test]
fn who_has_gone_is_exported_for_two_minutes() {
    let name = "floodmark_listener_overflows_total";
    let mut snapshot = snapshot();
    snapshot.view = View::default();
    let now = snapshot.report.window.to;
    for (ago, exported) in [(119, 1), (121, 0)] {
        snapshot.report.listeners[0].last_seen = now.earlier(Duration::from_secs(ago));
        let text = render(&snapshot).unwrap();
        assert_eq!(values(&text, name, &["10.0.0.2:8000"]).len(), exported, "{ago}");
        assert_eq!(text.contains("listener=\"10.0.0.2:8000\""), exported > 0, "{ago}");
    }
    snapshot.namespaces.remove(&APP);
    assert!(!render(&snapshot).unwrap().contains("\"app1\""));
}

#[test]
fn a_listener_shows_its_queue_its_limit_and_its_owner_and_goes_when_it_closes() {
    let mut snapshot = snapshot();
    let mut own = listener(80, "nginx").listener;
    own.queue = QueueDepth { len: 96, limit: 127 };
    own.backlog = Backlog { asked: Some(511), inferred: false, somaxconn: Some(127) };
    let mut depth = Depth { high: 128, high_since_scrape: 100, ..Depth::default() };
    (depth.waits[10], depth.waits[20], depth.waited_ns) = (3, 1, 900_000_000);
    own.depth = Some(depth);
    snapshot.view = View { listeners_left_out: 7, ..view(&[own]) };
    let text = render(&snapshot).unwrap();
    let labels = &["10.0.0.2:80\"", "app1"];
    for (name, value) in [
        ("floodmark_listener_accept_queue_length", 96.0),
        ("floodmark_listener_accept_queue_limit", 127.0),
        ("floodmark_listener_accept_queue_occupancy_ratio", 0.75),
        ("floodmark_listener_accept_queue_high", 128.0),
        ("floodmark_listener_accept_queue_high_since_scrape", 100.0),
        ("floodmark_listener_backlog", 511.0),
        ("floodmark_listener_accept_wait_seconds_count", 4.0),
        ("floodmark_listener_accept_wait_seconds_sum", 0.9),
    ] {
        assert_eq!(values(&text, name, labels), [value], "{name}");
    }
    let bucket = |le: &str| {
        values(&text, "floodmark_listener_accept_wait_seconds_bucket", &[&format!("le=\"{le}\"")])
    };
    assert_eq!(
        (bucket("0.0009765625"), bucket("0.25"), bucket("1")),
        (vec![3.0], vec![3.0], vec![4.0])
    );
    let info = ["command=\"nginx\"", "limited_by=\"somaxconn\"", "pid=\"42\""];
    assert_eq!(values(&text, "floodmark_listener_info", &info), [1.0]);
    assert_eq!(values(&text, "floodmark_listeners_not_exported", &["tcp"]), [7.0]);

    snapshot.view = View::default();
    let text = render(&snapshot).unwrap();
    assert!(!text.contains("10.0.0.2:80\""), "{text}");
}

#[test]
fn ports_and_peers_are_exported_by_name_of_their_namespace() {
    let mut snapshot = snapshot();
    let view = &mut snapshot.view;
    let mut namespace = Namespace { name: "app1".to_owned(), ..Namespace::default() };
    namespace.settings.max_tw_buckets = Some(4096);
    namespace.time_wait = Some(17);
    view.namespaces.insert(APP, namespace);
    view.destinations = vec![Destination {
        netns: APP,
        from: [10, 0, 0, 2].into(),
        to: ([10, 0, 0, 9], 5432).into(),
        ports_in_use: 28_000,
        ports: Some(28_232),
    }];
    view.peers = vec![PeerReport {
        netns: APP,
        port: 8000,
        is_local: true,
        peer: "10.0.0.7".to_owned(),
        counts: PeerCounts { opened: 9, closed_here: 8, closed_there: 1, aborted: 0 },
        opened_per_second: 0.5,
        median_lifetime: Some(0.01),
        closed_here_share: Some(8.0 / 9.0),
    }];
    let text = render(&snapshot).unwrap();
    for (name, labels, value) in [
        ("floodmark_netns_time_wait", vec!["app1"], 17.0),
        ("floodmark_netns_sysctl", vec!["tcp_max_tw_buckets"], 4096.0),
        ("floodmark_destination_ports_headroom", vec!["10.0.0.9:5432", "app1"], 232.0),
        ("floodmark_peer_connections_opened_total", vec!["10.0.0.7", "side=\"service\""], 9.0),
        ("floodmark_peer_connections_closed_total", vec!["by=\"here\""], 8.0),
        ("floodmark_peer_connection_lifetime_median_seconds", vec!["app1"], 0.01),
    ] {
        assert_eq!(values(&text, name, &labels), [value], "{name}");
    }
}

/// Members of a SO_REUSEPORT group share everything but the inode.
#[test]
fn no_series_is_there_twice() {
    let mut snapshot = snapshot();
    let mut twin = listener(8000, "app");
    twin.listener.id.inode += 1;
    snapshot.view.listeners.push(twin.listener.clone());
    snapshot.report.listeners.push(twin);
    let text = render(&snapshot).unwrap();
    let samples: Vec<&str> = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.rsplit_once(' ').unwrap().0)
        .collect();
    assert_eq!(samples.iter().collect::<BTreeSet<_>>().len(), samples.len(), "{text}");
}
