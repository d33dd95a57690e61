//! `docs/metrics.md`, made of what is really exported: each family of a snapshot in which everything
//! happened, and the taxonomy with the kernel's counters.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    fs,
    path::{Path, PathBuf},
};

use floodmark_common::Class;

use super::{
    correlation,
    fixture::{everything, snapshot},
    render,
};
use crate::kernel::{
    Tally,
    class::meaning_of,
    service::{self, ServiceClass},
};

/// Set, the documentation is written instead of compared.
const WRITE: &str = "FLOODMARK_WRITE_DOCS";

/// What of the kernel's own counters a family adds up to, or where else the same can be read.
const KERNEL_SIDE: [(&str, &str); 21] = [
    ("floodmark_listener_drops_total", "`ListenDrops` of the namespace, summed over its listeners"),
    (
        "floodmark_listener_overflows_total",
        "`ListenOverflows` of the namespace, summed over its listeners",
    ),
    (
        "floodmark_listener_synack_retransmits_total",
        "`TCPSynRetrans`, together with `syn_repeated` of floodmark_connection_events_total",
    ),
    (
        "floodmark_listener_handshake_events_total",
        "one counter per cause, see the table of handshakes below",
    ),
    ("floodmark_listener_accept_queue_length", "`Recv-Q` of `ss -lt`"),
    ("floodmark_listener_accept_queue_limit", "`Send-Q` of `ss -lt`"),
    ("floodmark_listener_syn_queue_length", "sockets of `ss -t state syn-recv` with its address"),
    ("floodmark_unix_listener_queue_length", "`Recv-Q` of `ss -lx`"),
    ("floodmark_unix_listener_queue_limit", "`Send-Q` of `ss -lx`"),
    ("floodmark_kernel_mib_total", "the counter itself, in /proc/net/netstat of the namespace"),
    ("floodmark_kernel_mib_unattributed", "the counter minus the attributed counts"),
    ("floodmark_netns_sysctl", "the setting itself, in /proc/sys of the namespace"),
    ("floodmark_netns_time_wait", "`tw` in /proc/net/sockstat of the namespace"),
    ("floodmark_netns_ephemeral_ports", "net.ipv4.ip_local_port_range, less reserved ports"),
    ("floodmark_destination_ports_in_use", "local ports of `ss -tan` with that destination"),
    ("floodmark_connection_events_total", "see the table of connections below"),
    (
        "floodmark_program_misses_total",
        "`recursion_misses` of `bpftool prog show`, plus `missed` of `bpftool link show`",
    ),
    ("process_resident_memory_bytes", "`VmRSS` in /proc/PID/status"),
    ("process_open_fds", "entries of /proc/PID/fd"),
    ("process_threads", "`Threads` in /proc/PID/status"),
    ("floodmark_listener_backlog", "the argument of listen(2)"),
];

/// A family as it was exported.
#[derive(Default)]
struct Family {
    kind: String,
    help: String,
    labels: BTreeSet<String>,
}

fn families(text: &str) -> BTreeMap<String, Family> {
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    for line in text.lines() {
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|l| l.split_once(' ')) {
            families.entry(name.to_owned()).or_default().help = help.to_owned();
        } else if let Some((name, kind)) =
            line.strip_prefix("# TYPE ").and_then(|l| l.split_once(' '))
        {
            families.entry(name.to_owned()).or_default().kind = kind.to_owned();
        } else if let Some((name, labels)) = line.split_once('{') {
            let suffixes = ["_bucket", "_sum", "_count"];
            let base = suffixes.iter().find_map(|s| name.strip_suffix(s)).unwrap_or(name);
            let family = if families.contains_key(name) { name } else { base };
            let found = families.get_mut(family).expect("a sample follows its family's header");
            found.labels.extend(label_names(labels));
        }
    }
    families
}

/// Names before `="`, outside of values.
fn label_names(labels: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut rest = labels;
    while let Some((name, after)) = rest.split_once("=\"") {
        names.push(name.trim_start_matches([',', ' ']).to_owned());
        let unescaped = after.replace("\\\\", "__").replace("\\\"", "__");
        let Some(end) = unescaped.find('"') else { break };
        rest = &after[end + 1..];
    }
    names.retain(|name| name != "le");
    names
}

/// What the agent and what `floodmark correlate` export.
fn exported() -> String {
    render(&everything()).unwrap() + &correlation::render(&correlation::example()).unwrap()
}

fn page() -> String {
    let text = exported();
    let kernel_side: BTreeMap<&str, &str> = KERNEL_SIDE.into();
    let mut page = String::from(include_str!("reference.md"));
    for (name, Family { kind, help, labels }) in families(&text) {
        let labels: Vec<String> = labels.iter().map(|label| format!("`{label}`")).collect();
        let labels = if labels.is_empty() { "none".to_owned() } else { labels.join(", ") };
        let _ = write!(page, "\n### {name}\n\n{kind}; labels: {labels}\n\n{help}\n");
        if let Some(kernel) = kernel_side.get(name.as_str()) {
            let _ = write!(page, "\nIn the kernel: {kernel}.\n");
        }
    }
    page.push_str(&handshakes());
    page.push_str(&connections());
    page
}

/// The families whose samples stand for classes.
const OF_CLASSES: [&str; 5] =
    ["drops", "synack_retransmits", "unaccepted_resets", "requests_expired", "handshake_events"];

fn handshakes() -> String {
    let mut table = String::from(
        "\n## Handshake classes and kernel counters\n\nEach count in a row increments each kernel \
         counter in that row by one.\n\n| metric | stage | cause | effect | kernel counters |\n| \
         --- | --- | --- | --- | --- |\n",
    );
    for class in Class::ALL {
        let mut only = snapshot();
        only.report.listeners[0].tally = Tally::of(&[(class, 1)]);
        let text = render(&only).unwrap();
        let is_it = |line: &&str| {
            OF_CLASSES
                .iter()
                .any(|of| line.starts_with(&format!("floodmark_listener_{of}_total{{")))
                && line.ends_with(" 1")
        };
        let found: Vec<&str> = text.lines().filter(is_it).collect();
        assert_eq!(found.len(), 1, "{class:?} is one sample: {found:?}");
        let (metric, _) = found[0].split_once('{').unwrap();
        let meaning = meaning_of(class);
        let counters: Vec<String> =
            meaning.counters.iter().map(|counter| format!("`{}`", counter.name())).collect();
        let counters = if counters.is_empty() { "none".to_owned() } else { counters.join(", ") };
        let (stage, cause, effect) = (meaning.stage, meaning.cause, meaning.effect.name());
        let _ = writeln!(table, "| {metric} | {stage} | {cause} | {effect} | {counters} |");
    }
    table
}

fn connections() -> String {
    let mut table = String::from(
        "\n## Connection events and kernel counters\n\nValues of the label `event` of \
         floodmark_connection_events_total. Before Linux 5.18, the kernel counts TIME_WAIT when \
         it ends.\n\n| event | kernel counter | before 5.18 |\n| --- | --- | --- |\n",
    );
    for class in ServiceClass::ALL {
        let counter = |at_expiry| {
            let counter = service::counter_of(class, at_expiry);
            counter.map_or("none".to_owned(), |counter| format!("`{}`", counter.name()))
        };
        let (event, now, before) = (service::word(class), counter(false), counter(true));
        let _ = writeln!(table, "| {event} | {now} | {before} |");
    }
    table
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

#[test]
fn the_documentation_of_metrics_is_what_is_exported() {
    let file = repository().join("docs/metrics.md");
    let page = page();
    if std::env::var_os(WRITE).is_some() {
        fs::write(&file, page).unwrap();
        return;
    }
    let written = fs::read_to_string(&file).unwrap_or_default();
    assert!(written == page, "docs/metrics.md is out of date: run `cargo xtask docs`");
}

/// Names of metrics in `text`, without what the histograms' samples add.
fn metrics_in(text: &str) -> BTreeSet<String> {
    let is_part = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let words = text.split(|c: char| !is_part(c) && c != ':');
    let mut names: BTreeSet<String> =
        words.filter(|word| word.starts_with("floodmark_")).map(str::to_owned).collect();
    names.retain(|name| !name.contains(':'));
    names
}

#[test]
fn everything_exported_by_the_code_is_documented() {
    let exported = families(&exported());
    for code in [
        include_str!("correlation.rs"),
        include_str!("flows.rs"),
        include_str!("listeners.rs"),
        include_str!("health.rs"),
        include_str!("losses.rs"),
        include_str!("metrics.rs"),
        include_str!("proxies.rs"),
        include_str!("outlets.rs"),
    ] {
        let quoted = code.split('"').filter(|word| word.starts_with("floodmark_"));
        for name in quoted.filter(|word| !word.contains(' ')) {
            assert!(exported.contains_key(name), "the fixture lacks what makes {name}");
        }
    }
    for (name, _) in KERNEL_SIDE {
        assert!(exported.contains_key(name), "{name} is not exported");
    }
}

#[test]
fn rules_dashboards_and_pages_name_only_metrics_that_there_are() {
    let exported = families(&exported());
    let is_there = |name: &str| {
        let base = ["_bucket", "_sum", "_count"].iter().find_map(|s| name.strip_suffix(s));
        exported.contains_key(name) || base.is_some_and(|base| exported.contains_key(base))
    };
    for directory in ["deploy/prometheus", "deploy/grafana", "docs"] {
        for entry in fs::read_dir(repository().join(directory)).unwrap() {
            let path = entry.unwrap().path();
            let Ok(text) = fs::read_to_string(&path) else { continue };
            for name in metrics_in(&text) {
                // A family of names, as in `floodmark_source_*`.
                let is_prefix = text.contains(&format!("{name}*"));
                assert!(is_prefix || is_there(&name), "{}: {name}", path.display());
            }
        }
    }
}

#[test]
fn every_alert_has_a_runbook_and_every_runbook_an_alert() {
    let page = fs::read_to_string(repository().join("docs/alerts.md")).unwrap();
    let described: BTreeSet<&str> =
        page.lines().filter_map(|line| line.strip_prefix("## Floodmark")).collect();
    let mut alerts = BTreeSet::new();
    let mut urls = 0;
    let rules = ["floodmark.rules.yml", "across-hosts.rules.yml"]
        .map(|file| fs::read_to_string(repository().join("deploy/prometheus").join(file)).unwrap());
    for line in rules.iter().flat_map(|text| text.lines()).map(str::trim) {
        if let Some(alert) = line.strip_prefix("- alert: Floodmark") {
            alerts.insert(alert);
        } else if let Some(url) = line.strip_prefix("runbook_url: ") {
            let (_, anchor) = url.split_once("docs/alerts.md#floodmark").unwrap();
            let newest = alerts.iter().find(|alert| alert.to_lowercase() == anchor);
            assert!(newest.is_some(), "{url} leads to no alert above it");
            urls += 1;
        }
    }
    assert_eq!(alerts, described);
    assert_eq!(urls, alerts.len());
}
