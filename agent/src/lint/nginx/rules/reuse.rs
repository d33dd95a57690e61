//! Whether connections to upstreams are used more than once.

use std::collections::BTreeMap;

use crate::lint::{
    finding::{Facts, Finding, Fix, Format, Level, Rule, Version},
    nginx::{
        fixes,
        model::{Context, Group, Model, Pass},
        rules::by_server,
        tree::Directive,
    },
    text::Place,
};

/// From here on groups keep 32 connections, by HTTP/1.1, without a `Connection` header.
pub const REUSES_BY_DEFAULT: Version = Version(1, 29, 7);

pub static WITHOUT_KEEPALIVE: Rule = Rule {
    id: "nginx-upstream-without-keepalive",
    format: Format::Nginx,
    level: Level::Warning,
    title: "every request opens a connection to the upstream",
    why: "Each request then needs a place in the application's accept queue, and a burst of requests is a \
          burst of handshakes: once the queue is full, the kernel drops them silently and nginx marks \
          its peers. Over TCP, the side that closes first also collects sockets in TIME_WAIT until \
          ports run out. `keepalive` counts connections per worker. FastCGI needs `fastcgi_keep_conn on` \
          too, and each connection that is kept occupies a process of PHP-FPM: keep fewer than \
          `pm.max_children` divided by the number of workers. The uwsgi and SCGI protocols have no \
          persistent connections; HTTP to the same application has.",
    versions: "before 1.29.7; from there on only `keepalive 0`, uwsgi and SCGI",
};

pub static WITHOUT_HTTP11: Rule = Rule {
    id: "nginx-keepalive-without-http11",
    format: Format::Nginx,
    level: Level::Warning,
    title: "keepalive has no effect: the request uses HTTP/1.0",
    why: "In HTTP/1.0 a connection ends with its response, so `keepalive` keeps nothing.",
    versions: "before 1.29.7; from there on only `proxy_http_version 1.0`",
};

pub static CONNECTION_CLOSE: Rule = Rule {
    id: "nginx-keepalive-connection-close",
    format: Format::Nginx,
    level: Level::Warning,
    title: "keepalive has no effect: the request says \"Connection: close\"",
    why: "The application closes such a connection after its response. Clear the header where the request \
          is passed on: a block with a `proxy_set_header` of its own inherits none from the blocks \
          around it.",
    versions: "before 1.29.7; from there on only where the header is set to `close`",
};

pub static BEFORE_BALANCER: Rule = Rule {
    id: "nginx-keepalive-before-balancer",
    format: Format::Nginx,
    level: Level::Warning,
    title: "keepalive has no effect: it comes before the balancing method",
    why: "The method that comes after it replaces it; nginx only warns \"load balancing method \
          redefined\".",
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

pub static CONNECTION_FROM_CLIENT: Rule = Rule {
    id: "nginx-keepalive-connection-from-client",
    format: Format::Nginx,
    level: Level::Warning,
    title: "the client decides whether the upstream connection is kept",
    why: "`Connection` belongs to one connection only (RFC 9110, section 7.6.1). A client or load balancer \
          that sends \"Connection: close\" ends the connection to the application as well. For WebSocket, \
          a `map` from `$http_upgrade` gives `upgrade` or the empty string.",
    versions: "all",
};

/// Balancing methods whose `init` replaces that of `keepalive`.
const BALANCERS: [&str; 5] = ["least_conn", "ip_hash", "hash", "random", "least_time"];

/// Protocols that have no persistent connections (`u->keepalive` is never set).
const NEVER_KEPT: [&str; 2] = ["uwsgi_", "scgi_"];

pub fn check(model: &Model<'_>, facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (group, passes) in model.used_groups() {
        if group.context != Context::Http || group.has_unread() {
            continue;
        }
        if group.keepalive().is_some_and(|kept| kept > 0) {
            findings.extend(before_balancer(model, facts, group));
            findings.extend(keep_conn_off(model, group, &passes));
        }
        let (unkept, passes): (Vec<_>, Vec<_>) =
            passes.into_iter().partition(|pass| NEVER_KEPT.contains(&pass.prefix()));
        findings.extend(never_kept(group, &unkept));
        match without_keepalive(model, facts, group, &passes) {
            Some(finding) => findings.push(finding),
            None => findings.extend(in_vain(model, facts, group, &of(&passes, "proxy_"))),
        }
    }
    findings
}

fn of<'a, 'p>(passes: &[&'p Pass<'a>], prefix: &str) -> Vec<&'p Pass<'a>> {
    passes.iter().filter(|pass| pass.prefix() == prefix).copied().collect()
}

fn never_kept(group: &Group<'_>, passes: &[&Pass<'_>]) -> Option<Finding> {
    let pass = passes.first().filter(|_| !group.is_unix())?;
    let protocol = pass.prefix().trim_end_matches('_');
    let message = format!("the {protocol} protocol has no persistent connections");
    let note = format!("each request passed to \"{}\" opens a connection", group.name());
    let finding = Finding::new(&WITHOUT_KEEPALIVE, group.directive.place.clone(), message);
    Some(finding.also(pass.directive.place.clone(), note))
}

fn without_keepalive(
    model: &Model<'_>,
    facts: &Facts,
    group: &Group<'_>,
    passes: &[&Pass<'_>],
) -> Option<Finding> {
    // FastCGI over a Unix socket opens a connection per request by design, and cheaply.
    let costs = |pass: &&&Pass<'_>| pass.prefix() != "fastcgi_" || !group.is_unix();
    let pass = passes.iter().find(costs)?;
    let name = group.name();
    let message = format!("each request passed to \"{name}\" opens a connection");
    let finding = |place, text: String| {
        Finding::new(&WITHOUT_KEEPALIVE, place, text)
            .also(pass.directive.place.clone(), message.clone())
    };
    match group.find("keepalive") {
        Some(keepalive) if group.keepalive() == Some(0) => {
            let message = format!("\"{name}\" keeps no connection");
            let fix = keepalive.args.first().map(|word| fixes::replaced(word, "32"));
            Some(finding(keepalive.place.clone(), message).fixed(fix))
        }
        None if facts.is_before(REUSES_BY_DEFAULT) => {
            let message = format!("\"{name}\" keeps no connection: there is no `keepalive`");
            let found = finding(group.directive.place.clone(), message);
            // How many processes PHP-FPM has to spare, only the user knows.
            if pass.prefix() == "fastcgi_" {
                return Some(found);
            }
            let keepalive = fixes::last_in(model.texts, group.directive, "keepalive 32;");
            let passes = of(passes, "proxy_");
            let reuse = passes.iter().flat_map(|pass| what_reuse_needs(model, facts, pass));
            Some(found.fixed([keepalive]).fixed(reuse.collect::<Vec<_>>()))
        }
        _ => None,
    }
}

/// What is missing where the request is passed on.
fn what_reuse_needs(model: &Model<'_>, facts: &Facts, pass: &Pass<'_>) -> Vec<Fix> {
    let http11 = http10(facts, pass).map(|_| http11(model, pass));
    let connection = closes(model, facts, pass).and_then(|closing| closing.fix(model, pass));
    http11.into_iter().chain(connection).collect()
}

/// `keepalive` is there; what makes it useless?
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
            let message = more("HTTP/1.0, in which every connection ends", by_http10.len());
            let fixes = by_http10.iter().map(|pass| http11(model, pass));
            let finding = Finding::new(&WITHOUT_HTTP11, directive.place.clone(), message);
            findings.push(kept(finding.fixed(fixes)));
        }
        // One finding for each line that closes, and one for nginx's default.
        let mut closing: BTreeMap<Option<&Place>, Vec<(&Pass<'_>, Closing<'_>)>> = BTreeMap::new();
        for pass in passes {
            if let Some(how) = closes(model, facts, pass) {
                closing.entry(how.place()).or_default().push((pass, how));
            }
        }
        for closing in closing.values() {
            let [(first, how), ..] = &closing[..] else { continue };
            let fixes = closing.iter().filter_map(|(pass, how)| how.fix(model, pass));
            findings.push(kept(how.finding(first, closing.len()).fixed(fixes)));
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
pub fn http10<'a>(facts: &Facts, pass: &Pass<'a>) -> Option<Option<&'a Directive>> {
    if !pass.knows("proxy_http_version") {
        return None;
    }
    match pass.only("proxy_http_version") {
        None => facts.is_before(REUSES_BY_DEFAULT).then_some(None),
        Some(directive) => (directive.arg(0) == Some("1.0")).then_some(Some(directive)),
    }
}

pub fn http11(model: &Model<'_>, pass: &Pass<'_>) -> Fix {
    match pass.only("proxy_http_version").and_then(|directive| directive.args.first()) {
        Some(word) => fixes::replaced(word, "1.1"),
        None => match pass.server() {
            Some(server) => fixes::first_in(model.texts, server, "proxy_http_version 1.1;"),
            None => fixes::after(model.texts, pass.anchor(), "proxy_http_version 1.1;"),
        },
    }
}

/// How a request comes to say "Connection: close".
pub enum Closing<'a> {
    /// By nginx's default.
    Default,
    /// By a `proxy_set_header`.
    Set(&'a Directive),
    /// By this entry of a `map`, for requests that are no upgrade.
    Mapped(&'a Directive, &'a Directive),
    /// By what the client said.
    Client(&'a Directive),
}

pub fn closes<'a>(model: &Model<'a>, facts: &Facts, pass: &Pass<'a>) -> Option<Closing<'a>> {
    if !pass.knows("proxy_set_header") {
        return None;
    }
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
    if variable(value) == "$http_connection" {
        return Some(Closing::Client(header));
    }
    let map = model.map(value)?;
    let entry = |key: &str| map.inner().iter().find(|entry| entry.is(key));
    let entry = entry("").or_else(|| entry("default"))?;
    let is_close = entry.arg(0).is_some_and(|value| value.eq_ignore_ascii_case("close"));
    is_close.then_some(Closing::Mapped(header, entry))
}

fn variable(value: &str) -> String {
    value.replace(['{', '}'], "").to_ascii_lowercase()
}

impl<'a> Closing<'a> {
    /// The line that closes; `None` for nginx's own default.
    fn place(&self) -> Option<&'a Place> {
        match self {
            Self::Default => None,
            Self::Set(line) | Self::Mapped(_, line) | Self::Client(line) => Some(&line.place),
        }
    }

    /// Whether nginx's own default is in force.
    pub fn is_default(&self) -> bool {
        matches!(self, Self::Default)
    }

    fn finding(&self, pass: &Pass<'_>, count: usize) -> Finding {
        match self {
            Self::Default => {
                let message = more("nginx sends \"Connection: close\" by default", count);
                let finding =
                    Finding::new(&CONNECTION_CLOSE, pass.directive.place.clone(), message);
                let hidden = pass.hidden("proxy_set_header").into_iter().find(|header| {
                    header.arg(0).is_some_and(|name| name.eq_ignore_ascii_case("connection"))
                });
                match (hidden, pass.effective("proxy_set_header").first()) {
                    (Some(hidden), Some(own)) => finding
                        .also(hidden.place.clone(), "set here, but not inherited ...")
                        .also(own.place.clone(), "... because this block sets headers of its own"),
                    _ => finding,
                }
            }
            Self::Set(header) => {
                let message = "this closes every connection after one request";
                Finding::new(&CONNECTION_CLOSE, header.place.clone(), message)
            }
            Self::Client(header) => {
                let message = "this passes on whatever the client sends";
                Finding::new(&CONNECTION_FROM_CLIENT, header.place.clone(), message)
            }
            Self::Mapped(header, entry) => {
                let message = "for every request that is not an upgrade, the header is \"close\"";
                Finding::new(&CONNECTION_CLOSE, entry.place.clone(), message)
                    .also(header.place.clone(), "used here")
            }
        }
    }

    fn fix(&self, model: &Model<'_>, pass: &Pass<'_>) -> Option<Fix> {
        const CLEARED: &str = "proxy_set_header Connection \"\";";
        Some(match self {
            Self::Set(header) => match header.args.get(1) {
                Some(word) => fixes::replaced(word, "\"\""),
                None => fixes::after(model.texts, header, CLEARED),
            },
            Self::Mapped(_, entry) => match entry.args.first() {
                Some(word) => fixes::replaced(word, "''"),
                None => fixes::after(model.texts, entry, CLEARED),
            },
            // An upgrade needs the header, and a `map` that only the user can name.
            Self::Client(header) if !upgrades(pass) => fixes::replaced(header.args.get(1)?, "\"\""),
            Self::Client(_) => return None,
            // Beside the headers in force, for one further in would hide them.
            Self::Default => match pass.effective("proxy_set_header").last() {
                Some(last) => fixes::after(model.texts, last, CLEARED),
                None => fixes::after(model.texts, pass.anchor(), CLEARED),
            },
        })
    }
}

fn upgrades(pass: &Pass<'_>) -> bool {
    let is_upgrade = |d: &&Directive| d.arg(0).is_some_and(|n| n.eq_ignore_ascii_case("upgrade"));
    pass.effective("proxy_set_header").iter().any(is_upgrade)
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
        pass.prefix() == "fastcgi_"
            && pass.knows("fastcgi_keep_conn")
            && keep_conn.is_none_or(|keep| keep.arg(0) != Some("on"))
    };
    let found = passes.iter().filter(is_off).map(|pass| {
        let message = format!("\"{}\" keeps connections, but each is asked to close", group.name());
        let fix = match pass.only("fastcgi_keep_conn").and_then(|keep| keep.args.first()) {
            Some(word) => fixes::replaced(word, "on"),
            None => fixes::after(model.texts, pass.anchor(), "fastcgi_keep_conn on;"),
        };
        Finding::new(&KEEP_CONN_OFF, pass.directive.place.clone(), message).fixed([fix])
    });
    found.collect()
}
