//! The rules for Envoy.

use super::yaml::Node;
use crate::lint::{
    finding::{Finding, Fix, Format, Level, Rule},
    text::{Place, Texts},
};

static CLOSES: Rule = Rule {
    id: "envoy-one-request-per-connection",
    format: Format::Envoy,
    level: Level::Warning,
    title: "every request opens a connection to the upstream",
    why: "Each request then costs the application a place in its accept queue, and a burst of requests \
          is a burst of handshakes. 0 means no limit, as does leaving it out.",
    versions: "all",
};

static CONNECT_LONG: Rule = Rule {
    id: "envoy-connect-timeout-long",
    format: Format::Envoy,
    level: Level::Warning,
    title: "a lost handshake holds a request for a long time",
    why: "A handshake that takes seconds has been lost at least once; the default of 5 s allows for two \
          losses.",
    versions: "all",
};

static CONNECT_SHORT: Rule = Rule {
    id: "envoy-connect-timeout-short",
    format: Format::Envoy,
    level: Level::Warning,
    title: "a single lost SYN is a failed attempt",
    why: "The kernel repeats a SYN after one second (RFC 6298). Whoever waits no longer, as in many \
          examples with 0.25s, takes each lost segment for a failure of the host, and outlier \
          detection counts it.",
    versions: "all",
};

static ONE_FAILURE: Rule = Rule {
    id: "envoy-one-failure-ejects",
    format: Format::Envoy,
    level: Level::Warning,
    title: "one failure takes a host out",
    why: "One handshake lost in a burst takes the host out, and its load goes to the others. The default \
          is 5.",
    versions: "all",
};

static NO_PANIC: Rule = Rule {
    id: "envoy-no-panic",
    format: Format::Envoy,
    level: Level::Warning,
    title: "with every host out there is no upstream left",
    why: "By default Envoy uses all hosts again once fewer than half are healthy. With a panic threshold \
          of 0 it answers \"no healthy upstream\", although every one may be up.",
    versions: "all",
};

static SILENT: Rule = Rule {
    id: "envoy-outlier-log-absent",
    format: Format::Envoy,
    level: Level::Warning,
    title: "nothing tells that a host is ejected",
    why: "Ejections go to `cluster_manager.outlier_detection.event_log_path`, and nowhere else.",
    versions: "all",
};

static SINGLE_ENDPOINT: Rule = Rule {
    id: "envoy-single-endpoint",
    format: Format::Envoy,
    level: Level::Note,
    title: "there is only one endpoint",
    why: "There is no other to try: each lost handshake that is not made good in time is a 503.",
    versions: "all",
};

/// Every rule.
pub static ALL: [&Rule; 7] =
    [&CLOSES, &CONNECT_LONG, &CONNECT_SHORT, &ONE_FAILURE, &NO_PANIC, &SILENT, &SINGLE_ENDPOINT];

/// As for nginx: longer than any handshake that was not lost thrice.
const LONGEST: f64 = 10.0;
/// The kernel's first repetition of a SYN, in seconds.
const FIRST_REPETITION: f64 = 1.0;

/// Applies every rule to a document: a bootstrap, or a list of clusters.
pub fn check(document: &Node, texts: &Texts) -> Vec<Finding> {
    let of_bootstrap = document.at(&["static_resources", "clusters"]);
    let lists = [of_bootstrap, document.get("clusters"), document.get("resources")];
    let is_cluster = |node: &&Node| {
        let kind = node.get("@type").and_then(Node::scalar);
        kind.is_none_or(|kind| kind.ends_with("Cluster"))
    };
    let listed = lists.into_iter().flatten().flat_map(Node::list).filter(is_cluster);
    let clusters: Vec<&Node> = listed.collect();
    let mut findings = Vec::new();
    for cluster in &clusters {
        findings.extend(closes(cluster));
        findings.extend(connect_timeout(cluster));
        findings.extend(one_failure(cluster));
        findings.extend(no_panic(cluster));
        findings.extend(single_endpoint(cluster));
    }
    findings.extend(of_bootstrap.and_then(|_| silent(document, &clusters, texts)));
    findings
}

/// Another scalar in the place of this one.
fn replaced(node: &Node, text: &str) -> Fix {
    Fix { place: node.place.clone(), text: text.to_owned() }
}

fn name(cluster: &Node) -> &str {
    cluster.get("name").and_then(Node::scalar).unwrap_or_default()
}

fn closes(cluster: &Node) -> Option<Finding> {
    const LIMIT: &str = "max_requests_per_connection";
    let options = cluster.get("typed_extension_protocol_options");
    let common = options.into_iter().flat_map(Node::values);
    let limits = common.filter_map(|node| node.at(&["common_http_protocol_options", LIMIT]));
    let own = [cluster.get(LIMIT), cluster.at(&["common_http_protocol_options", LIMIT])];
    let limit = limits.chain(own.into_iter().flatten()).find(|node| node.number() == Some(1.0))?;
    let message = format!("connections to \"{}\" end after one request", name(cluster));
    Some(Finding::new(&CLOSES, limit.place.clone(), message).fixed([replaced(limit, "0")]))
}

fn connect_timeout(cluster: &Node) -> Option<Finding> {
    let node = cluster.get("connect_timeout")?;
    let waits: f64 = node.scalar()?.strip_suffix('s')?.parse().ok()?;
    let (rule, message) = if waits > LONGEST {
        (&CONNECT_LONG, format!("waits {waits} s for a handshake"))
    } else if waits <= FIRST_REPETITION {
        (&CONNECT_SHORT, format!("gives up after {waits} s, before a lost SYN is repeated"))
    } else {
        return None;
    };
    Some(Finding::new(rule, node.place.clone(), message).fixed([replaced(node, "\"3s\"")]))
}

fn one_failure(cluster: &Node) -> Vec<Finding> {
    let Some(detection) = cluster.get("outlier_detection") else { return Vec::new() };
    let names =
        ["consecutive_5xx", "consecutive_gateway_failure", "consecutive_local_origin_failure"];
    let found = names.iter().filter_map(|name| {
        let node = detection.get(name).filter(|node| node.number() == Some(1.0))?;
        let message = format!("one failure is enough: `{name}` is 1");
        Some(Finding::new(&ONE_FAILURE, node.place.clone(), message).fixed([replaced(node, "5")]))
    });
    found.collect()
}

fn no_panic(cluster: &Node) -> Option<Finding> {
    let value = cluster.at(&["common_lb_config", "healthy_panic_threshold", "value"])?;
    let most_ejected = cluster.at(&["outlier_detection", "max_ejection_percent"]);
    let all_ejected = most_ejected.and_then(Node::number).is_some_and(|percent| percent >= 100.0);
    let may_be_empty = cluster.get("health_checks").is_some() || all_ejected;
    let message = format!("\"{}\" may be left without any host", name(cluster));
    (value.number() == Some(0.0) && may_be_empty).then(|| {
        Finding::new(&NO_PANIC, value.place.clone(), message).fixed([replaced(value, "50")])
    })
}

fn single_endpoint(cluster: &Node) -> Option<Finding> {
    let is_static = cluster.get("type").and_then(Node::scalar).is_none_or(|kind| kind == "STATIC");
    let localities = cluster.at(&["load_assignment", "endpoints"])?.list();
    let endpoints = localities.iter().filter_map(|locality| locality.get("lb_endpoints"));
    let endpoints: Vec<_> = endpoints.flat_map(Node::list).collect();
    let [only] = &endpoints[..] else { return None };
    let message = format!("the only endpoint of \"{}\"", name(cluster));
    is_static.then(|| Finding::new(&SINGLE_ENDPOINT, only.place.clone(), message))
}

fn silent(document: &Node, clusters: &[&Node], texts: &Texts) -> Option<Finding> {
    const LOG: [&str; 3] = ["cluster_manager", "outlier_detection", "event_log_path"];
    let cluster = clusters.iter().find(|cluster| cluster.get("outlier_detection").is_some())?;
    if document.at(&LOG).is_some() {
        return None;
    }
    let (key, _) = cluster.entry("outlier_detection")?;
    let message = format!("ejections from \"{}\" are written nowhere", name(cluster));
    let finding = Finding::new(&SILENT, key.place.clone(), message);
    let start = document.place.start;
    // JSON, and a manager with other settings, want more than a line put in front.
    let can_be_put =
        document.get(LOG[0]).is_none() && !texts.get(key.place.file).text[start..].starts_with('{');
    let fix = Fix {
        place: Place { start, end: start, ..key.place.clone() },
        text: "cluster_manager:\n  outlier_detection:\n    \
               event_log_path: /var/log/envoy/outlier.log\n"
            .to_owned(),
    };
    Some(finding.fixed(can_be_put.then_some(fix)))
}
