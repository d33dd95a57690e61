//! The rules for Envoy.

use super::yaml::Node;
use crate::lint::{
    finding::{Facts, Finding, Fix, Format, Level, Rule},
    text::{Place, Texts},
};

static CLOSES: Rule = Rule {
    id: "envoy-one-request-per-connection",
    format: Format::Envoy,
    level: Level::Warning,
    title: "every request opens a connection to the upstream",
    why: "Each request then needs a place in the application's accept queue, and a burst of requests is a \
          burst of handshakes. 0 means no limit, and is the default.",
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
    why: "The kernel repeats a SYN after one second (RFC 6298). With a shorter timeout, as in many examples \
          with 0.25s, each lost segment is a failure of the host, and outlier detection counts it.",
    versions: "all",
};

static ONE_FAILURE: Rule = Rule {
    id: "envoy-one-failure-ejects",
    format: Format::Envoy,
    level: Level::Warning,
    title: "one failure takes a host out",
    why: "One handshake lost in a burst takes the host out, and its load goes to the others. The default of \
          outlier detection is 5. Limits that are not enforced are left out: those of gateway failures \
          are not by default, those of local origin failures only with \
          `split_external_local_origin_errors`.",
    versions: "all",
};

static NO_PANIC: Rule = Rule {
    id: "envoy-no-panic",
    format: Format::Envoy,
    level: Level::Warning,
    title: "if every host is out, no upstream is left",
    why: "By default Envoy uses all hosts again once fewer than half are healthy. With a panic threshold \
          of 0 (also written `{}`) it answers \"no healthy upstream\", although every one may be up.",
    versions: "all",
};

static SILENT: Rule = Rule {
    id: "envoy-outlier-log-absent",
    format: Format::Envoy,
    level: Level::Warning,
    title: "no log shows that a host is ejected",
    why: "Envoy reports ejections to `event_log_path` or `event_service` of \
          `cluster_manager.outlier_detection` only.",
    versions: "all",
};

static SINGLE_ENDPOINT: Rule = Rule {
    id: "envoy-single-endpoint",
    format: Format::Envoy,
    level: Level::Note,
    title: "there is only one endpoint",
    why: "There is no other endpoint to try: each lost handshake that is not repaired in time is a 503.",
    versions: "all",
};

static CIRCUIT_BREAKER: Rule = Rule {
    id: "envoy-circuit-breaker-low",
    format: Format::Envoy,
    level: Level::Warning,
    title: "Envoy refuses requests that the hosts could take",
    why: "A cluster without `circuit_breakers` has 1024 connections, pending and parallel requests; what is \
          more gets a 503 with flag UO. `--rate` and `--latency` give the concurrency.",
    versions: "all",
};

static RETRY_WITHOUT_CONNECT: Rule = Rule {
    id: "envoy-retry-without-connect-failure",
    format: Format::Envoy,
    level: Level::Note,
    title: "a lost handshake is not tried again",
    why: "A connection that fails is safe to retry, since no request was sent. `connect-failure`, `reset`, \
          `5xx` and `gateway-error` in `retry_on` include it.",
    versions: "all",
};

static APPLICATION_ERRORS: Rule = Rule {
    id: "envoy-application-errors-eject",
    format: Format::Envoy,
    level: Level::Note,
    title: "the application's own errors eject its hosts",
    why: "`consecutive_5xx` counts every response with 5xx. An error of the application then becomes \"no \
          healthy upstream\". `consecutive_gateway_failure`, with `enforcing_consecutive_gateway_failure`, \
          counts only 502, 503 and 504, and `enforcing_consecutive_5xx: 0` turns the other off.",
    versions: "all",
};

/// Every rule.
pub static ALL: [&Rule; 10] = [
    &CLOSES,
    &CONNECT_LONG,
    &CONNECT_SHORT,
    &ONE_FAILURE,
    &APPLICATION_ERRORS,
    &NO_PANIC,
    &CIRCUIT_BREAKER,
    &RETRY_WITHOUT_CONNECT,
    &SILENT,
    &SINGLE_ENDPOINT,
];

/// As for nginx: longer than any handshake that was not lost thrice.
const LONGEST: f64 = 10.0;
/// The kernel's first repetition of a SYN, in seconds.
const FIRST_REPETITION: f64 = 1.0;

/// Applies every rule to a document: a bootstrap, a list of resources, or what `/config_dump` printed.
pub fn check(document: &Node, texts: &Texts, facts: &Facts) -> Vec<Finding> {
    let of_bootstrap = document.at(&["static_resources", "clusters"]);
    let clusters = clusters(document);
    let mut findings = Vec::new();
    for cluster in &clusters {
        findings.extend(closes(cluster));
        findings.extend(connect_timeout(cluster));
        findings.extend(one_failure(cluster));
        findings.extend(application_errors(cluster));
        findings.extend(no_panic(cluster));
        findings.extend(circuit_breaker(cluster, facts));
        findings.extend(single_endpoint(cluster));
    }
    retries(document, &mut findings);
    findings.extend(of_bootstrap.and_then(|_| silent(document, &clusters, texts)));
    // There is no file behind a dump to fix.
    if document.get("configs").is_some() {
        findings.iter_mut().for_each(|finding| finding.fixes.clear());
    }
    findings
}

fn clusters(document: &Node) -> Vec<&Node> {
    const LISTS: [&str; 3] =
        ["static_clusters", "dynamic_active_clusters", "dynamic_warming_clusters"];
    let dumps = document.get("configs").into_iter().flat_map(Node::list);
    let dumped = dumps.flat_map(|dump| LISTS.iter().filter_map(|list| dump.get(list)));
    let dumped = dumped.flat_map(Node::list).filter_map(|entry| entry.get("cluster"));
    let lists = [
        document.at(&["static_resources", "clusters"]),
        document.get("clusters"),
        document.get("resources"),
        Some(document),
    ];
    let is_cluster = |node: &&Node| {
        let kind = node.get("@type").and_then(Node::scalar);
        kind.is_none_or(|kind| kind.ends_with("Cluster"))
    };
    let listed = lists.into_iter().flatten().flat_map(Node::list).filter(is_cluster);
    let alone = Some(document).filter(|it| it.get("@type").is_some() && is_cluster(it));
    listed.chain(dumped).chain(alone).collect()
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

/// The limits of outlier detection that take hosts out, each with its default for how often it is
/// enforced (config.cluster.v3.OutlierDetection).
const LIMITS: [(&str, &str, f64); 3] = [
    ("consecutive_5xx", "enforcing_consecutive_5xx", 100.0),
    ("consecutive_gateway_failure", "enforcing_consecutive_gateway_failure", 0.0),
    ("consecutive_local_origin_failure", "enforcing_consecutive_local_origin_failure", 100.0),
];

/// Whether a limit of outlier detection takes hosts out.
fn is_enforced(detection: &Node, name: &str) -> bool {
    let limit = LIMITS.iter().find(|(limit, ..)| *limit == name);
    let Some((_, enforcing, default)) = limit else { return false };
    let is_split = || {
        let split = detection.get("split_external_local_origin_errors").and_then(Node::scalar);
        split == Some("true")
    };
    let percent = detection.get(enforcing).map_or(Some(*default), Node::number);
    percent.is_some_and(|percent| percent > 0.0)
        && (name != "consecutive_local_origin_failure" || is_split())
}

fn one_failure(cluster: &Node) -> Vec<Finding> {
    let detection = cluster.get("outlier_detection").into_iter();
    let limits = detection.flat_map(|detection| {
        let enforced = LIMITS.iter().filter(|(name, ..)| is_enforced(detection, name));
        enforced.filter_map(|(name, ..)| detection.get(name).map(|node| (*name, node, "5")))
    });
    let checks = cluster.get("health_checks").into_iter().flat_map(Node::list);
    let thresholds = checks.filter_map(|check| {
        check.get("unhealthy_threshold").map(|node| ("unhealthy_threshold", node, "3"))
    });
    let found = limits.chain(thresholds).filter(|(_, node, _)| node.number() == Some(1.0));
    let findings = found.map(|(name, node, fixed)| {
        let message = format!("one failure is enough: `{name}` is 1");
        Finding::new(&ONE_FAILURE, node.place.clone(), message).fixed([replaced(node, fixed)])
    });
    findings.collect()
}

fn application_errors(cluster: &Node) -> Option<Finding> {
    let detection = cluster.get("outlier_detection")?;
    let limit = detection.get("consecutive_5xx").filter(|node| node.number() != Some(1.0))?;
    let message = format!("{} responses with 5xx in a row eject a host", limit.scalar()?);
    is_enforced(detection, "consecutive_5xx")
        .then(|| Finding::new(&APPLICATION_ERRORS, limit.place.clone(), message))
}

fn circuit_breaker(cluster: &Node, facts: &Facts) -> Option<Finding> {
    const DEFAULT: f64 = 1024.0;
    let under_way = facts.concurrency()?;
    let thresholds = cluster.at(&["circuit_breakers", "thresholds"]);
    let first = thresholds.and_then(|thresholds| thresholds.list().first());
    let limits = ["max_connections", "max_pending_requests", "max_requests"];
    let lowest = limits.iter().map(|name| {
        let node = first.and_then(|first| first.get(name));
        (*name, node, node.and_then(Node::number).unwrap_or(DEFAULT))
    });
    let (name, node, limit) = lowest.min_by(|a, b| a.2.total_cmp(&b.2))?;
    let place = node.or_else(|| cluster.get("name")).unwrap_or(cluster).place.clone();
    let message = format!("`{name}` is {limit}, for about {under_way:.0} concurrent requests");
    (limit < under_way).then(|| Finding::new(&CIRCUIT_BREAKER, place, message))
}

/// Every retry policy, wherever it stands.
fn retries(node: &Node, findings: &mut Vec<Finding>) {
    const INCLUDE_IT: [&str; 4] = ["connect-failure", "reset", "5xx", "gateway-error"];
    if let Some(words) = node.at(&["retry_policy", "retry_on"])
        && let Some(text) = words.scalar().filter(|text| !text.is_empty())
        && !text.split(',').any(|word| INCLUDE_IT.contains(&word.trim()))
    {
        let message = format!("`{text}` does not include a connection that fails");
        let fix = replaced(words, &format!("\"{text},connect-failure\""));
        findings
            .push(Finding::new(&RETRY_WITHOUT_CONNECT, words.place.clone(), message).fixed([fix]));
    }
    node.values().chain(node.list()).for_each(|inner| retries(inner, findings));
}

fn no_panic(cluster: &Node) -> Option<Finding> {
    let threshold = cluster.at(&["common_lb_config", "healthy_panic_threshold"])?;
    // `{}` is a Percent of 0.
    let value = threshold.get("value").unwrap_or(threshold);
    let is_off = value.number() == Some(0.0) || threshold.is_empty_map();
    let detection = cluster.get("outlier_detection");
    let enforces = |detection: &&Node| {
        let rates = ["enforcing_success_rate", "enforcing_failure_percentage"];
        LIMITS.iter().any(|(name, ..)| is_enforced(detection, name))
            || rates.iter().any(|rate| detection.get(rate).and_then(Node::number) > Some(0.0))
    };
    let most_ejected = detection.filter(enforces).and_then(|it| it.get("max_ejection_percent"));
    let all_ejected = most_ejected.and_then(Node::number).is_some_and(|percent| percent >= 100.0);
    let may_be_empty = cluster.get("health_checks").is_some() || all_ejected;
    let message = format!("\"{}\" may be left without any host", name(cluster));
    let fixed = if threshold.is_empty_map() { "{ value: 50 }" } else { "50" };
    let fix = replaced(if threshold.is_empty_map() { threshold } else { value }, fixed);
    (is_off && may_be_empty)
        .then(|| Finding::new(&NO_PANIC, value.place.clone(), message).fixed([fix]))
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
    const MANAGER: [&str; 2] = ["cluster_manager", "outlier_detection"];
    let cluster = clusters.iter().find(|cluster| cluster.get("outlier_detection").is_some())?;
    let reports = ["event_log_path", "event_service"];
    if document.at(&MANAGER).is_some_and(|it| reports.iter().any(|name| it.get(name).is_some())) {
        return None;
    }
    let (key, _) = cluster.entry("outlier_detection")?;
    let message = format!("ejections from \"{}\" are written nowhere", name(cluster));
    let finding = Finding::new(&SILENT, key.place.clone(), message);
    let start = document.place.start;
    // JSON, and a manager with other settings, want more than a line put in front.
    let can_be_put = document.get(MANAGER[0]).is_none()
        && !texts.get(key.place.file).text[start..].starts_with('{');
    let fix = Fix {
        place: Place { start, end: start, ..key.place.clone() },
        text: "cluster_manager:\n  outlier_detection:\n    \
               event_log_path: /dev/stdout\n"
            .to_owned(),
    };
    Some(finding.fixed(can_be_put.then_some(fix)))
}
