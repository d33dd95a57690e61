//! Whether connections to upstreams are used more than once.

use crate::lint::{
    finding::{Facts, Finding, Fix, Format, Level, Rule, Version},
    nginx::{
        fixes,
        model::{Context, Group, Model, Pass},
        rules::by_server,
        tree::Directive,
    },
};

/// From here on groups keep 32 connections, by HTTP/1.1, without a `Connection` header.
const REUSES_BY_DEFAULT: Version = Version(1, 29, 7);

pub static WITHOUT_KEEPALIVE: Rule = Rule {
    id: "nginx-upstream-without-keepalive",
    format: Format::Nginx,
    level: Level::Warning,
    title: "every request opens a connection to the upstream",
    why: "Each request then costs the application a place in its accept queue, and a burst of \
          requests is a burst of handshakes: once the queue is full the kernel drops them without a \
          word, and nginx marks its peers. The side that closes first collects TIME_WAIT by the \
          hundred thousand until ports run out. `keepalive` counts connections per worker.",
    versions: "before 1.29.7; from there on only `keepalive 0`",
};

pub static WITHOUT_HTTP11: Rule = Rule {
    id: "nginx-keepalive-without-http11",
    format: Format::Nginx,
    level: Level::Warning,
    title: "keepalive has no effect: the request goes out by HTTP/1.0",
    why: "By HTTP/1.0 a connection ends with its response, so `keepalive` keeps nothing.",
    versions: "before 1.29.7; from there on only `proxy_http_version 1.0`",
};

pub static CONNECTION_CLOSE: Rule = Rule {
    id: "nginx-keepalive-connection-close",
    format: Format::Nginx,
    level: Level::Warning,
    title: "keepalive has no effect: the request says \"Connection: close\"",
    why: "The application closes whatever says so. The header has to be cleared where the request is \
          passed on: a block with a `proxy_set_header` of its own inherits none from the blocks \
          around it.",
    versions: "before 1.29.7; from there on only where the header is set to `close`",
};

pub static BEFORE_BALANCER: Rule = Rule {
    id: "nginx-keepalive-before-balancer",
    format: Format::Nginx,
    level: Level::Warning,
    title: "keepalive has no effect: it stands before the balancing method",
    why: "The method written after it takes its place; nginx says no more than \"load balancing \
          method redefined\".",
    versions: "before 1.29.7",
};

pub static KEEP_CONN_OFF: Rule = Rule {
    id: "nginx-keepalive-without-keep-conn",
    format: Format::Nginx,
    level: Level::Warning,
    title: "keepalive has no effect: FastCGI servers are asked to close",
    why: "Without `fastcgi_keep_conn on` nginx asks the server to close after each request.",
    versions: "all",
};

/// Balancing methods whose `init` replaces that of `keepalive`.
const BALANCERS: [&str; 5] = ["least_conn", "ip_hash", "hash", "random", "least_time"];

pub fn check(model: &Model<'_>, facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (group, passes) in model.used_groups() {
        if group.context != Context::Http {
            continue;
        }
        if group.keepalive().is_some_and(|kept| kept > 0) {
            findings.extend(before_balancer(model, facts, group));
            findings.extend(keep_conn_off(model, group, &passes));
        }
        let passes: Vec<_> = passes.into_iter().filter(|pass| pass.prefix() == "proxy_").collect();
        if passes.is_empty() {
            continue;
        }
        match without_keepalive(model, facts, group, &passes) {
            Some(finding) => findings.push(finding),
            None => findings.extend(in_vain(model, facts, group, &passes)),
        }
    }
    findings
}

fn without_keepalive(
    model: &Model<'_>,
    facts: &Facts,
    group: &Group<'_>,
    passes: &[&Pass<'_>],
) -> Option<Finding> {
    let name = group.name();
    let finding = |place, message| {
        let mut finding = Finding::new(&WITHOUT_KEEPALIVE, place, message);
        if let Some(pass) = passes.first() {
            let message = format!("each request passed to \"{name}\" opens a connection");
            finding = finding.also(pass.directive.place.clone(), message);
        }
        finding
    };
    match group.find("keepalive") {
        Some(keepalive) if group.keepalive() == Some(0) => {
            let message = format!("\"{name}\" keeps no connection");
            let fix = keepalive.args.first().map(|word| fixes::replaced(word, "32"));
            Some(finding(keepalive.place.clone(), message).fixed(fix))
        }
        None if facts.is_before(REUSES_BY_DEFAULT) => {
            let message = format!("\"{name}\" keeps no connection: there is no `keepalive`");
            let keepalive = fixes::last_in(model.texts, group.directive, "keepalive 32;");
            let found = finding(group.directive.place.clone(), message).fixed([keepalive]);
            let reuse = passes.iter().flat_map(|pass| what_reuse_needs(model, facts, pass));
            Some(found.fixed(reuse))
        }
        _ => None,
    }
}

/// What is missing where the request is passed on.
pub fn what_reuse_needs(model: &Model<'_>, facts: &Facts, pass: &Pass<'_>) -> Vec<Fix> {
    let http11 = http10(facts, pass).map(|_| http11(model, pass));
    let connection = closes(model, facts, pass).map(|closing| closing.fix(model, pass));
    http11.into_iter().chain(connection).collect()
}

/// `keepalive` is there; what makes it vain?
fn in_vain(
    model: &Model<'_>,
    facts: &Facts,
    group: &Group<'_>,
    passes: &[&Pass<'_>],
) -> Vec<Finding> {
    let kept = |finding: Finding| match group.find("keepalive") {
        Some(keepalive) => {
            finding.also(keepalive.place.clone(), "the connections to be kept".to_owned())
        }
        None => finding,
    };
    let mut findings = Vec::new();
    for passes in by_server(passes) {
        let by_http10: Vec<_> = passes.iter().filter(|p| http10(facts, p).is_some()).collect();
        if let Some(first) = by_http10.first() {
            let directive = http10(facts, first).flatten().unwrap_or(first.directive);
            let message = more("HTTP/1.0, at which every connection ends", by_http10.len());
            let fixes = by_http10.iter().map(|pass| http11(model, pass));
            let finding = Finding::new(&WITHOUT_HTTP11, directive.place.clone(), message);
            findings.push(kept(finding.fixed(fixes)));
        }
        let closing: Vec<_> =
            passes.iter().filter_map(|pass| Some((pass, closes(model, facts, pass)?))).collect();
        if let Some((first, how)) = closing.first() {
            let mut finding = how.finding(first, closing.len());
            for (pass, how) in &closing {
                finding = finding.fixed([how.fix(model, pass)]);
            }
            findings.push(kept(finding));
        }
    }
    findings
}

fn more(what: &str, count: usize) -> String {
    match count {
        0 | 1 => what.to_owned(),
        _ => format!("{what}; {} more in this server", count - 1),
    }
}

/// Whether requests go out by HTTP/1.0, and by which directive.
fn http10<'a>(facts: &Facts, pass: &Pass<'a>) -> Option<Option<&'a Directive>> {
    match pass.only("proxy_http_version") {
        None => facts.is_before(REUSES_BY_DEFAULT).then_some(None),
        Some(directive) => (directive.arg(0) == Some("1.0")).then_some(Some(directive)),
    }
}

fn http11(model: &Model<'_>, pass: &Pass<'_>) -> Fix {
    match pass.only("proxy_http_version").and_then(|directive| directive.args.first()) {
        Some(word) => fixes::replaced(word, "1.1"),
        None => match pass.server() {
            Some(server) => fixes::first_in(model.texts, server, "proxy_http_version 1.1;"),
            None => fixes::after(model.texts, pass.directive, "proxy_http_version 1.1;"),
        },
    }
}

/// How a request comes to say "Connection: close".
enum Closing<'a> {
    /// By nginx's default.
    Default,
    /// By a `proxy_set_header`.
    Set(&'a Directive),
    /// By this entry of a `map`, for requests that are no upgrade.
    Mapped(&'a Directive, &'a Directive),
}

fn closes<'a>(model: &Model<'a>, facts: &Facts, pass: &Pass<'a>) -> Option<Closing<'a>> {
    let headers = pass.effective("proxy_set_header");
    let is_connection =
        |d: &&&Directive| d.arg(0).is_some_and(|name| name.eq_ignore_ascii_case("connection"));
    let Some(header) = headers.iter().rfind(is_connection).copied() else {
        return facts.is_before(REUSES_BY_DEFAULT).then_some(Closing::Default);
    };
    let value = header.arg(1)?;
    if value.eq_ignore_ascii_case("close") {
        return Some(Closing::Set(header));
    }
    // The idiom for WebSocket: map $http_upgrade $connection_upgrade { default upgrade; '' close; }
    let map = model.maps.iter().find(|map| map.arg(1) == Some(value))?;
    let entry = |key: &str| map.inner().iter().find(|entry| entry.is(key));
    let entry = entry("").or_else(|| entry("default"))?;
    let is_close = entry.arg(0).is_some_and(|value| value.eq_ignore_ascii_case("close"));
    is_close.then_some(Closing::Mapped(header, entry))
}

impl Closing<'_> {
    fn finding(&self, pass: &Pass<'_>, count: usize) -> Finding {
        match self {
            Self::Default => {
                let message = more("\"Connection: close\" goes out with it by default", count);
                let finding =
                    Finding::new(&CONNECTION_CLOSE, pass.directive.place.clone(), message);
                let hidden = pass.hidden("proxy_set_header").into_iter().find(|header| {
                    header.arg(0).is_some_and(|name| name.eq_ignore_ascii_case("connection"))
                });
                match (hidden, pass.effective("proxy_set_header").first()) {
                    (Some(hidden), Some(own)) => finding
                        .also(hidden.place.clone(), "cleared here, but not inherited ...")
                        .also(own.place.clone(), "... because this block sets headers of its own"),
                    _ => finding,
                }
            }
            Self::Set(header) => {
                let message = "this closes every connection after one request";
                Finding::new(&CONNECTION_CLOSE, header.place.clone(), message)
            }
            Self::Mapped(header, entry) => {
                let message = "for every request that is no upgrade the header says \"close\"";
                Finding::new(&CONNECTION_CLOSE, entry.place.clone(), message)
                    .also(header.place.clone(), "used here")
            }
        }
    }

    fn fix(&self, model: &Model<'_>, pass: &Pass<'_>) -> Fix {
        const CLEARED: &str = "proxy_set_header Connection \"\";";
        match self {
            Self::Set(header) => match header.args.get(1) {
                Some(word) => fixes::replaced(word, "\"\""),
                None => fixes::after(model.texts, header, CLEARED),
            },
            Self::Mapped(_, entry) => match entry.args.first() {
                Some(word) => fixes::replaced(word, "''"),
                None => fixes::after(model.texts, entry, CLEARED),
            },
            // Beside the headers in force, for one further in would hide them.
            Self::Default => match pass.effective("proxy_set_header").last() {
                Some(last) => fixes::after(model.texts, last, CLEARED),
                None => fixes::after(model.texts, pass.directive, CLEARED),
            },
        }
    }
}

fn before_balancer(model: &Model<'_>, facts: &Facts, group: &Group<'_>) -> Option<Finding> {
    let inner = group.directive.inner();
    let keepalive = inner.iter().position(|directive| directive.is("keepalive"))?;
    let balancer = inner[keepalive..]
        .iter()
        .find(|directive| BALANCERS.contains(&directive.name.value.as_str()))?;
    let keepalive = &inner[keepalive];
    let message = format!("`{}` further down replaces it", balancer.name.value);
    let text = model.texts.slice(&keepalive.place);
    let fixes = [
        fixes::removed(model.texts, keepalive),
        fixes::last_in(model.texts, group.directive, text),
    ];
    facts.is_before(REUSES_BY_DEFAULT).then(|| {
        Finding::new(&BEFORE_BALANCER, keepalive.place.clone(), message)
            .also(balancer.place.clone(), "the balancing method")
            .fixed(fixes)
    })
}

fn keep_conn_off(model: &Model<'_>, group: &Group<'_>, passes: &[&Pass<'_>]) -> Vec<Finding> {
    let is_off = |pass: &&&Pass<'_>| {
        let keep_conn = pass.only("fastcgi_keep_conn");
        pass.prefix() == "fastcgi_" && keep_conn.is_none_or(|keep| keep.arg(0) != Some("on"))
    };
    let found = passes.iter().filter(is_off).map(|pass| {
        let message = format!("\"{}\" keeps connections, but each is asked to close", group.name());
        let fix = match pass.only("fastcgi_keep_conn").and_then(|keep| keep.args.first()) {
            Some(word) => fixes::replaced(word, "on"),
            None => fixes::after(model.texts, pass.directive, "fastcgi_keep_conn on;"),
        };
        Finding::new(&KEEP_CONN_OFF, pass.directive.place.clone(), message).fixed([fix])
    });
    found.collect()
}
