//! Whether as many connections are kept, and for as long, as are needed.

use crate::lint::{
    finding::{Facts, Finding, Format, Level, Rule, Version},
    nginx::{
        fixes,
        model::{Context, Group, Model, seconds},
    },
};

pub static TOO_FEW: Rule = Rule {
    id: "nginx-keepalive-too-small",
    format: Format::Nginx,
    level: Level::Warning,
    title: "fewer connections are kept than are used",
    why: "What does not fit into `keepalive` is closed after its response and opened anew. It counts \
          per worker and for all servers of the group together. Rule of thumb: 10 to 30 % of the \
          requests under way at once (rate times latency), shared among the workers, and no less than \
          there are servers. `--rate` and `--latency` say what is under way.",
    versions: "all",
};

pub static FEW_REQUESTS: Rule = Rule {
    id: "nginx-keepalive-requests-100",
    format: Format::Nginx,
    level: Level::Note,
    title: "kept connections are closed after 100 requests",
    why: "At some thousand requests per second this opens dozens of connections per second, and does \
          so in bursts, since connections opened together come to their end together.",
    versions: "1.15.3 to 1.19.9 by default; later where it is set so low",
};

pub static OUTLIVES_APPLICATION: Rule = Rule {
    id: "nginx-keepalive-outlives-application",
    format: Format::Nginx,
    level: Level::Warning,
    title: "idle connections are kept longer than the application keeps them",
    why: "A request sent on a connection that the application is just closing fails, and marks the \
          peer although nothing is wrong with it. Whoever opens connections has to close the idle ones \
          first. `--app-idle-timeout` says how long the application keeps them (gunicorn 2 s, uvicorn \
          and Node.js 5 s by default).",
    versions: "1.15.3 and later",
};

/// Here `keepalive_requests` and `keepalive_timeout` came to groups.
const LIMITS_CAME: Version = Version(1, 15, 3);
/// Here the default of `keepalive_requests` rose from 100 to 1000.
const REQUESTS_ROSE: Version = Version(1, 19, 10);
/// nginx's default for `keepalive_timeout`, in seconds.
const DEFAULT_TIMEOUT: f64 = 60.0;

pub fn check(model: &Model<'_>, facts: &Facts) -> Vec<Finding> {
    let kept = |group: &Group<'_>| group.context == Context::Http && group.keepalive() != Some(0);
    let groups = model.used_groups().map(|(group, _)| group).filter(|group| kept(group));
    let mut findings = Vec::new();
    for group in groups.filter(|group| group.find("keepalive").is_some()) {
        findings.extend(too_few(model, facts, group));
        if facts.version.is_none_or(|version| version >= LIMITS_CAME) {
            findings.extend(few_requests(model, facts, group));
            findings.extend(outlives_application(model, facts, group));
        }
    }
    findings
}

fn too_few(model: &Model<'_>, facts: &Facts, group: &Group<'_>) -> Option<Finding> {
    let (directive, kept) = (group.find("keepalive")?, group.keepalive()?);
    let word = directive.args.first()?;
    let per_worker = || Some(facts.concurrency()? / model.workers(facts.processors)? as f64);
    let servers = group.servers().len() as u64;
    let (message, enough) = match per_worker() {
        Some(under_way) if (kept as f64) < 0.1 * under_way => {
            let message = format!(
                "{kept} are kept for about {under_way:.0} requests under way in each worker"
            );
            (message, (0.3 * under_way).ceil() as u64)
        }
        _ if kept < servers => (format!("{kept} are kept for {servers} servers"), 32),
        _ => return None,
    };
    let fix = fixes::replaced(word, enough.max(servers).to_string());
    Some(Finding::new(&TOO_FEW, directive.place.clone(), message).fixed([fix]))
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
    let place = directive.or_else(|| group.find("keepalive"))?;
    let message = format!("kept idle for {kept} s, while the application closes after {idle} s");
    // A fifth less leaves time for a request on its way.
    let less = format!("{}ms", (idle * 800.0).max(1.0) as u64);
    let fix = match word {
        Some(word) => fixes::replaced(word, less),
        None => fixes::after(model.texts, place, &format!("keepalive_timeout {less};")),
    };
    Some(Finding::new(&OUTLIVES_APPLICATION, place.place.clone(), message).fixed([fix]))
}
