//! What it takes for nginx to give up on a peer.

use crate::lint::{
    finding::{Facts, Finding, Format, Level, Rule},
    nginx::{
        fixes,
        model::{Context, Group, Model},
    },
};

pub static ONE_FAILURE: Rule = Rule {
    id: "nginx-one-failure-marks",
    format: Format::Nginx,
    level: Level::Warning,
    title: "one failed attempt takes a server out for ten seconds",
    why: "`max_fails` is 1 by default: a single handshake lost to a full queue marks the peer, its \
          requests go to the others, whose queues fill in turn, and in the end there are \"no live \
          upstreams\" although every one is healthy. After `fail_timeout` all come back at once.",
    versions: "all",
};

pub static PER_WORKER: Rule = Rule {
    id: "nginx-marks-per-worker",
    format: Format::Nginx,
    level: Level::Note,
    title: "each worker counts failures for itself",
    why: "Without a `zone` a peer that one worker has marked goes on failing for the others, and \
          `max_fails` is as many failures per worker. With one, the failures of all count together.",
    versions: "1.9.0 and later",
};

pub static SINGLE_SERVER: Rule = Rule {
    id: "nginx-single-server",
    format: Format::Nginx,
    level: Level::Note,
    title: "there is only one server",
    why: "nginx never marks the only server of a group, and has no other to try: each lost handshake is \
          a 504 or 502. No marking tells of it; failed attempts do.",
    versions: "all",
};

pub static APPLICATION_ERRORS: Rule = Rule {
    id: "nginx-application-errors-mark",
    format: Format::Nginx,
    level: Level::Warning,
    title: "the application's own errors mark its peers",
    why: "An answer of 5xx or 429 is no failure of the connection. Counted as one it takes the peer \
          out, gives its load to the others and repeats the request there: an error of the application \
          becomes \"no live upstreams\". (403 and 404 do not mark.)",
    versions: "all",
};

pub fn check(model: &Model<'_>, _: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (group, _) in model.used_groups() {
        if group.is_lua() {
            continue;
        }
        findings.extend(one_failure(group));
        findings.extend(per_worker(model, group));
        findings.extend(single_server(group));
    }
    findings.extend(application_errors(model));
    findings
}

fn one_failure(group: &Group<'_>) -> Option<Finding> {
    let servers = group.servers();
    let is_one = |value: &str| value == "1";
    let fragile: Vec<_> = servers
        .iter()
        .filter(|server| server.parameter("max_fails").is_none_or(|(value, _)| is_one(value)))
        .collect();
    let first = fragile.first().filter(|_| group.can_be_marked())?;
    let message = match fragile.len() {
        1 => "one failure within `fail_timeout` marks it".to_owned(),
        several => format!("one failure within `fail_timeout` marks it; {several} such servers"),
    };
    let fixes = fragile.iter().map(|server| match server.parameter("max_fails") {
        Some((_, word)) => fixes::replaced(word, "max_fails=3"),
        None => fixes::argument(server.directive, "max_fails=3"),
    });
    Some(Finding::new(&ONE_FAILURE, first.directive.place.clone(), message).fixed(fixes))
}

fn per_worker(model: &Model<'_>, group: &Group<'_>) -> Option<Finding> {
    let is_shared = group.find("zone").is_some();
    if is_shared || !group.can_be_marked() || !model.has_workers() {
        return None;
    }
    let name = group.name();
    let message = format!("each worker marks the peers of \"{name}\" for itself");
    let fix = fixes::first_in(model.texts, group.directive, &format!("zone {name} 64k;"));
    Some(Finding::new(&PER_WORKER, group.directive.place.clone(), message).fixed([fix]))
}

fn single_server(group: &Group<'_>) -> Option<Finding> {
    let servers = group.servers();
    let [only] = &servers[..] else { return None };
    let message = format!("the only server of \"{}\"", group.name());
    (!only.may_be_several())
        .then(|| Finding::new(&SINGLE_SERVER, only.directive.place.clone(), message))
}

fn application_errors(model: &Model<'_>) -> Vec<Finding> {
    let is_error = |word: &str| word.starts_with("http_5") || word == "http_429";
    let markable = model.passes.iter().filter(|pass| {
        pass.context == Context::Http
            && model.group_of(pass).is_some_and(|group| group.can_be_marked())
    });
    let found = markable.filter_map(|pass| {
        let directive = pass.only(&format!("{}next_upstream", pass.prefix()))?;
        let words = || directive.args.iter().map(|word| word.value.as_str());
        let errors: Vec<_> = words().filter(|word| is_error(word)).collect();
        let rest: Vec<_> = words().filter(|word| !is_error(word)).collect();
        let (first, last) = (directive.args.first()?, directive.args.last()?);
        let rest = if rest.is_empty() { "error timeout".to_owned() } else { rest.join(" ") };
        let mut place = first.place.clone();
        place.end = last.place.end;
        let fix = crate::lint::finding::Fix { place, text: rest };
        let message = format!("{} count as failures of the peer", errors.join(", "));
        let finding = Finding::new(&APPLICATION_ERRORS, directive.place.clone(), message);
        (!errors.is_empty()).then(|| finding.fixed([fix]))
    });
    found.collect()
}
