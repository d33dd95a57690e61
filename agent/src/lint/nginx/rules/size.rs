//! Whether as many connections are kept, and for as long, as are needed.

use crate::lint::{
    finding::{Facts, Finding, Fix, Format, Level, Rule, Version},
    nginx::{
        fixes,
        model::{Context, Group, Model, seconds},
        rules::reuse::REUSES_BY_DEFAULT,
    },
};

pub static TOO_FEW: Rule = Rule {
    id: "nginx-keepalive-too-small",
    format: Format::Nginx,
    level: Level::Warning,
    title: "fewer connections are kept than are used",
    why: "Connections that do not fit into `keepalive` are closed after their response and opened again. \
          The number counts per worker and for all servers of the group together. Rule of thumb: 10 to \
          30 % of the concurrent requests (rate times latency), divided by the workers, and at least as \
          many as there are servers. `--rate` and `--latency` give the concurrency. From 1.29.7 on the \
          default is `keepalive 32 local`.",
    versions: "all",
};

pub static FEW_REQUESTS: Rule = Rule {
    id: "nginx-keepalive-requests-100",
    format: Format::Nginx,
    level: Level::Note,
    title: "kept connections are closed after 100 requests",
    why: "At some thousand requests per second this opens dozens of connections per second, in bursts, \
          since connections that were opened together end together.",
    versions: "1.15.3 to 1.19.9 by default; later where it is set so low",
};

pub static OUTLIVES_APPLICATION: Rule = Rule {
    id: "nginx-keepalive-outlives-application",
    format: Format::Nginx,
    level: Level::Warning,
    title: "idle connections are kept longer than the application keeps them",
    why: "A request on a connection that the application is just closing fails, and marks a healthy \
          peer. The side that opens connections must close the idle ones first. `--app-idle-timeout` \
          gives the application's timeout (gunicorn 2 s, uvicorn and Node.js 5 s by default). nginx's \
          default is 60 s.",
    versions: "1.15.3 and later",
};

/// Here `keepalive_requests` and `keepalive_timeout` came to groups.
const LIMITS_CAME: Version = Version(1, 15, 3);
/// Here the default of `keepalive_requests` rose from 100 to 1000.
const REQUESTS_ROSE: Version = Version(1, 19, 10);
/// nginx's default for `keepalive_timeout`, in seconds.
const DEFAULT_TIMEOUT: f64 = 60.0;

pub fn check(model: &Model<'_>, facts: &Facts) -> Vec<Finding> {
    let groups = model.used_groups().map(|(group, _)| group);
    let known = groups.filter(|group| group.context == Context::Http && !group.has_unread());
    let mut findings = Vec::new();
    for group in known.filter(|group| kept(facts, group) > 0) {
        findings.extend(too_few(model, facts, group));
        if facts.version.is_none_or(|version| version >= LIMITS_CAME) {
            findings.extend(few_requests(model, facts, group));
            findings.extend(outlives_application(model, facts, group));
        }
    }
    findings
}

/// How many connections a worker keeps, set or by default.
fn kept(facts: &Facts, group: &Group<'_>) -> u64 {
    let default = if facts.is_before(REUSES_BY_DEFAULT) { 0 } else { 32 };
    match group.find("keepalive") {
        Some(_) => group.keepalive().unwrap_or_default(),
        None => default,
    }
}

/// A setting beside `keepalive`, or at the end of a group that keeps connections by default.
fn beside_keepalive(model: &Model<'_>, group: &Group<'_>, text: &str) -> Fix {
    match group.find("keepalive") {
        Some(keepalive) => fixes::after(model.texts, keepalive, text),
        None => fixes::last_in(model.texts, group.directive, text),
    }
}

fn too_few(model: &Model<'_>, facts: &Facts, group: &Group<'_>) -> Option<Finding> {
    let kept = kept(facts, group);
    let per_worker = || Some(facts.concurrency()? / model.workers(facts.processors)? as f64);
    let servers = group.servers().len() as u64;
    let (message, enough) = match per_worker() {
        Some(under_way) if (kept as f64) < 0.1 * under_way => {
            let message = format!(
                "{kept} are kept for about {under_way:.0} concurrent requests in each worker"
            );
            (message, (0.3 * under_way).ceil() as u64)
        }
        _ if kept < servers => (format!("{kept} are kept for {servers} servers"), 32),
        _ => return None,
    };
    let enough = enough.max(servers).to_string();
    let directive = group.find("keepalive");
    let fix = match directive.and_then(|directive| directive.args.first()) {
        Some(word) => fixes::replaced(word, enough),
        None => beside_keepalive(model, group, &format!("keepalive {enough};")),
    };
    let place = directive.unwrap_or(group.directive).place.clone();
    Some(Finding::new(&TOO_FEW, place, message).fixed([fix]))
}

fn few_requests(model: &Model<'_>, facts: &Facts, group: &Group<'_>) -> Option<Finding> {
    let Some(directive) = group.find("keepalive_requests") else {
        let is_old = facts.version.is_some_and(|version| version < REQUESTS_ROSE);
        let keepalive = group.find("keepalive")?;
        let message = "each is closed after 100 requests, the default of this version";
        let fix = fixes::after(model.texts, keepalive, "keepalive_requests 1000;");
        let finding = Finding::new(&FEW_REQUESTS, keepalive.place.clone(), message).fixed([fix]);
        return is_old.then_some(finding);
    };
    let word = directive.args.first()?;
    let requests: u64 = word.value.parse().ok()?;
    let message = format!("each is closed after {requests} requests");
    let finding = Finding::new(&FEW_REQUESTS, directive.place.clone(), message);
    (requests <= 100).then(|| finding.fixed([fixes::replaced(word, "1000")]))
}

fn outlives_application(model: &Model<'_>, facts: &Facts, group: &Group<'_>) -> Option<Finding> {
    let idle = facts.idle_timeout?;
    let directive = group.find("keepalive_timeout");
    let word = directive.and_then(|directive| directive.args.first());
    let kept = word.map_or(Some(DEFAULT_TIMEOUT), |word| seconds(&word.value))?;
    if kept < idle {
        return None;
    }
    let place = directive.or_else(|| group.find("keepalive")).unwrap_or(group.directive);
    let message = format!("kept idle for {kept} s, while the application closes after {idle} s");
    // A fifth less leaves time for a request on its way.
    let less = format!("{}ms", (idle * 800.0).max(1.0) as u64);
    let fix = match word {
        Some(word) => fixes::replaced(word, less),
        None => beside_keepalive(model, group, &format!("keepalive_timeout {less};")),
    };
    Some(Finding::new(&OUTLIVES_APPLICATION, place.place.clone(), message).fixed([fix]))
}
