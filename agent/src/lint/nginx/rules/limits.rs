//! Limits of nginx itself: descriptors, its own accept queue, connections to a server, names.

use crate::lint::{
    finding::{Facts, Finding, Format, Level, Rule},
    nginx::{
        fixes,
        model::{Context, Model},
    },
};

pub static FEW_DESCRIPTORS: Rule = Rule {
    id: "nginx-worker-connections-exceed-files",
    format: Format::Nginx,
    level: Level::Warning,
    title: "a worker has fewer file descriptors than connections",
    why: "Every connection takes a descriptor, those to clients and those to upstreams alike. At \
          `worker_rlimit_nofile` a connect fails with \"Too many open files\", and nginx answers 500 or \
          502 although the upstreams are healthy.",
    versions: "all",
};

pub static SHORT_BACKLOG: Rule = Rule {
    id: "nginx-listen-backlog-short",
    format: Format::Nginx,
    level: Level::Note,
    title: "nginx's own accept queue is shorter than by default",
    why: "On Linux nginx asks for 511 places by default, limited by net.core.somaxconn. A burst of clients \
          fills a shorter queue, and the kernel drops their handshakes.",
    versions: "all",
};

pub static MAX_CONNS_PER_WORKER: Rule = Rule {
    id: "nginx-max-conns-per-worker",
    format: Format::Nginx,
    level: Level::Warning,
    title: "each worker counts `max_conns` for itself",
    why: "Without a `zone`, a server gets up to `max_conns` connections from each worker, which may be more \
          than its accept queue and its processes hold.",
    versions: "1.11.5 and later",
};

pub static COMPUTED_HOST: Rule = Rule {
    id: "nginx-computed-host",
    format: Format::Nginx,
    level: Level::Note,
    title: "the address is computed for each request",
    why: "A host in a variable that is no group's name is looked up by `resolver` at request time, and no \
          connection to it is kept in any version. If a name has several addresses, nginx marks none of \
          them for longer than the request. An `upstream` with `server NAME resolve` (1.27.3 and later) \
          does both.",
    versions: "all",
};

pub static NO_RESOLVER: Rule = Rule {
    id: "nginx-resolver-missing",
    format: Format::Nginx,
    level: Level::Warning,
    title: "no resolver is set for a computed name",
    why: "nginx answers 502 and logs \"no resolver defined to resolve\" for each request, unless the \
          variable holds an IP address.",
    versions: "all",
};

/// What nginx asks for by default on Linux (NGX_LISTEN_BACKLOG).
const DEFAULT_BACKLOG: u64 = 511;

pub fn check(model: &Model<'_>, _: &Facts) -> Vec<Finding> {
    let checks = [few_descriptors, short_backlog, max_conns, computed_host];
    checks.iter().flat_map(|check| check(model)).collect()
}

fn few_descriptors(model: &Model<'_>) -> Vec<Finding> {
    let find = || {
        let limit = model.top.iter().find(|it| it.is("worker_rlimit_nofile"))?;
        let events = model.top.iter().find(|it| it.is("events"))?;
        let connections = events.inner().iter().find(|it| it.is("worker_connections"))?;
        let number = |text: Option<&str>| text?.parse::<u64>().ok();
        let (files, wanted) = (number(limit.arg(0))?, number(connections.arg(0))?);
        let message = format!("{files} descriptors for {wanted} connections");
        let fix = fixes::replaced(limit.args.first()?, (2 * wanted).to_string());
        (files < wanted).then(|| {
            Finding::new(&FEW_DESCRIPTORS, limit.place.clone(), message)
                .also(connections.place.clone(), "the connections of each worker")
                .fixed([fix])
        })
    };
    find().into_iter().collect()
}

fn short_backlog(model: &Model<'_>) -> Vec<Finding> {
    let listens = model.servers.iter().flat_map(|server| server.inner());
    let found = listens.filter(|it| it.is("listen")).filter_map(|listen| {
        let word = listen.args.iter().find(|word| word.value.starts_with("backlog="))?;
        let backlog: u64 = word.value.strip_prefix("backlog=")?.parse().ok()?;
        let message = format!("{backlog} places, where the default is {DEFAULT_BACKLOG}");
        let fix = fixes::replaced(word, "backlog=4096");
        (backlog < DEFAULT_BACKLOG)
            .then(|| Finding::new(&SHORT_BACKLOG, listen.place.clone(), message).fixed([fix]))
    });
    found.collect()
}

fn max_conns(model: &Model<'_>) -> Vec<Finding> {
    let groups = model.used_groups().map(|(group, _)| group);
    let unshared = groups.filter(|group| group.find("zone").is_none() && !group.has_unread());
    let found = unshared.filter(|_| model.has_workers()).filter_map(|group| {
        let servers = group.servers();
        let limited = servers
            .iter()
            .find(|it| it.parameter("max_conns").is_some_and(|(value, _)| value != "0"))?;
        let (value, _) = limited.parameter("max_conns")?;
        let message = format!("{value} connections from each worker");
        let zone = format!("zone {} 64k;", group.name());
        let fix = fixes::first_in(model.texts, group.directive, &zone);
        Some(
            Finding::new(&MAX_CONNS_PER_WORKER, limited.directive.place.clone(), message)
                .fixed([fix]),
        )
    });
    found.collect()
}

fn computed_host(model: &Model<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for pass in &model.passes {
        let target = pass.target().unwrap_or_default();
        let is_computed = target.contains('$') && pass.prefix() == "proxy_";
        if !is_computed || pass.context != Context::Http || model.leads_to_a_group(pass) {
            continue;
        }
        if model.may_have_more_groups() {
            continue;
        }
        let place = pass.directive.place.clone();
        let message = format!("{target} is no group of this configuration");
        findings.push(Finding::new(&COMPUTED_HOST, place.clone(), message));
        if pass.only("resolver").is_none() && pass.knows("resolver") {
            let message = "no `resolver` is set for it";
            findings.push(Finding::new(&NO_RESOLVER, place, message));
        }
    }
    findings
}
