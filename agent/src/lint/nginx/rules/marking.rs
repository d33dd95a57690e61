//! What it takes for nginx to give up on a peer.

use crate::lint::{
    finding::{Facts, Finding, Format, Level, Rule},
    nginx::{
        fixes,
        model::{Context, Group, Model, Pass, Server, is_localhost},
    },
};

pub static ONE_FAILURE: Rule = Rule {
    id: "nginx-one-failure-marks",
    format: Format::Nginx,
    level: Level::Warning,
    title: "one failed attempt takes a server out",
    why: "`max_fails` is 1 by default: a single handshake lost to a full queue marks the peer for \
          `fail_timeout`, 10 s by default. Its requests go to the others, whose queues fill in turn, and \
          in the end there are \"no live upstreams\" although every one is healthy. nginx counts every \
          address of a name as a peer, and servers that are `down` or `backup` too: it marks the only \
          server that takes requests if there is a second address or server.",
    versions: "all",
};

pub static PER_WORKER: Rule = Rule {
    id: "nginx-marks-per-worker",
    format: Format::Nginx,
    level: Level::Note,
    title: "each worker counts failures for itself",
    why: "Without a `zone`, a peer that one worker has marked still fails for the others, and \
          `max_fails` counts per worker. With a `zone`, the failures in all workers count together.",
    versions: "1.9.0 and later",
};

pub static SINGLE_SERVER: Rule = Rule {
    id: "nginx-single-server",
    format: Format::Nginx,
    level: Level::Note,
    title: "there is only one server",
    why: "nginx never marks the only server of a group and has no other to try: each lost handshake ends \
          as a 504 or 502. The error log shows failed attempts and no marking.",
    versions: "all",
};

pub static APPLICATION_ERRORS: Rule = Rule {
    id: "nginx-application-errors-mark",
    format: Format::Nginx,
    level: Level::Warning,
    title: "the application's own errors mark its peers",
    why: "A response with 5xx or 429 is not a failure of the connection. If it counts as one, nginx takes \
          the peer out and repeats the request on the others: an error of the application becomes \"no \
          live upstreams\". (403 and 404 do not mark.)",
    versions: "all",
};

pub fn check(model: &Model<'_>, _: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (group, _) in model.used_groups() {
        if group.is_lua() || group.has_unread() {
            continue;
        }
        findings.extend(one_failure(group));
        findings.extend(per_worker(model, group));
        findings.extend(single_server(group));
    }
    findings.extend(model.passes.iter().filter_map(|pass| bare_localhost(model, pass)));
    findings.extend(application_errors(model));
    findings
}

fn one_failure(group: &Group<'_>) -> Option<Finding> {
    let servers = group.servers();
    let is_fragile = |server: &&Server<'_>| server.max_fails().unwrap_or(1) == 1;
    let fragile: Vec<_> = servers.iter().filter(is_fragile).collect();
    let first = fragile.first().filter(|_| group.can_be_marked())?;
    let time = duration(first.fail_timeout());
    let peers = match servers.len() {
        1 if is_localhost(first.address()) => {
            "; `localhost` counts as several where it is 127.0.0.1 and ::1"
        }
        1 => "; a server that is `down` counts, so this is not the only one for nginx",
        _ => "",
    };
    let message = match fragile.len() {
        1 => format!("one failure marks it for {time}{peers}"),
        several => format!("one failure marks it for {time}; {several} such servers"),
    };
    let fixes = fragile.iter().map(|server| match server.parameter("max_fails") {
        Some((_, word)) => fixes::replaced(word, "max_fails=3"),
        None => fixes::argument(server.directive, "max_fails=3"),
    });
    Some(Finding::new(&ONE_FAILURE, first.directive.place.clone(), message).fixed(fixes))
}

/// nginx compares whole seconds, so `fail_timeout=0` holds for the rest of the second
/// (`ngx_http_upstream_get_peer`).
fn duration(seconds: f64) -> String {
    if seconds < 1.0 { "less than a second".to_owned() } else { format!("{seconds} s") }
}

/// Without an `upstream`, nginx makes a group of all addresses of the name, with `max_fails=1`.
fn bare_localhost(model: &Model<'_>, pass: &Pass<'_>) -> Option<Finding> {
    let is_bare = pass.directive.arg(0).is_some_and(|url| !url.contains('$'))
        && pass.target().is_some_and(is_localhost)
        && model.group_of(pass).is_none();
    let message = "one failure marks an address for 10 s where `localhost` is 127.0.0.1 and ::1; with both \
                   marked there are \"no live upstreams\"";
    is_bare.then(|| Finding::new(&ONE_FAILURE, pass.directive.place.clone(), message))
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
    let only = group.only_server()?;
    let message = format!("the only server of \"{}\"", group.name());
    Some(Finding::new(&SINGLE_SERVER, only.directive.place.clone(), message))
}

fn application_errors(model: &Model<'_>) -> Vec<Finding> {
    let is_error = |word: &str| word.starts_with("http_5") || word == "http_429";
    let markable = model.passes.iter().filter(|pass| {
        pass.context == Context::Http
            && model.group_of(pass).is_some_and(|group| group.can_be_marked())
    });
    let found = markable.filter_map(|pass| {
        let name = format!("{}next_upstream", pass.prefix());
        let directive = pass.only(&name).filter(|_| pass.knows(&name))?;
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
