use std::{
    collections::BTreeSet,
    io::Write,
    path::Path,
    process::{Command, Stdio},
};

use super::{
    super::fixture::{listener, snapshot},
    *,
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
fn exports_no_more_listeners_than_it_may_and_says_how_many_are_missing() {
    let mut snapshot = snapshot();
    snapshot.report.listeners = (1..=203).map(|port| listener(port, "app")).collect();
    let text = render(&snapshot).unwrap();
    let exported = values(&text, "floodmark_listener_info", &[]).len();
    assert_eq!(exported, LISTENERS_EXPORTED);
    assert_eq!(values(&text, "floodmark_listeners_not_exported", &[]), [3.0]);
    // Worst first, as the report has them.
    assert!(text.contains("10.0.0.2:200\"") && !text.contains("10.0.0.2:201\""));
}

/// Members of a SO_REUSEPORT group share everything but the inode.
#[test]
fn no_series_is_there_twice() {
    let mut snapshot = snapshot();
    let mut twin = listener(8000, "app");
    twin.listener.id.inode += 1;
    snapshot.report.listeners.push(twin);
    let text = render(&snapshot).unwrap();
    let samples: Vec<&str> = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.rsplit_once(' ').unwrap().0)
        .collect();
    assert_eq!(samples.iter().collect::<BTreeSet<_>>().len(), samples.len(), "{text}");
}

/// The rules that join the metrics of proxies' hosts with those of their peers' hosts.
#[test]
fn promtool_finds_the_rules_across_hosts_right() {
    let rules = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/prometheus");
    let promtool = Command::new("promtool")
        .args(["test", "rules", "across-hosts.test.yml"])
        .current_dir(rules)
        .output();
    match promtool {
        Ok(outcome) => {
            let said = String::from_utf8_lossy(&outcome.stderr);
            assert!(outcome.status.success(), "{said}");
        }
        Err(error) => {
            eprintln!("skipped: promtool (package prometheus) cannot be run: {error}");
        }
    }
}
