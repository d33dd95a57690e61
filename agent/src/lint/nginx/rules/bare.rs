//! Whether requests are passed to a group at all.

use std::collections::HashMap;

use super::reuse;
use crate::lint::{
    finding::{Facts, Finding, Fix, Format, Level, Rule},
    nginx::{
        fixes,
        model::{Context, Model, Pass, is_literal, is_localhost},
        tree::Directive,
    },
    text::Place,
};

pub static PASS_WITHOUT_UPSTREAM: Rule = Rule {
    id: "nginx-pass-without-upstream",
    format: Format::Nginx,
    level: Level::Warning,
    title: "requests are passed to an address, not to an upstream",
    why: "Only an `upstream` keeps connections: without one every request opens a connection, in all \
          versions. Over TCP, each of them occupies a local port for a minute after it is closed \
          (TIME_WAIT), so that a steady rate uses up all ports. There is no other server to try \
          either.",
    versions: "all",
};

pub fn check(model: &Model<'_>, facts: &Facts) -> Vec<Finding> {
    let bare: Vec<_> = model.passes.iter().filter(|pass| is_bare(model, pass)).collect();
    let mut findings = Vec::new();
    // One group serves all passes that lead to an address.
    let mut first: HashMap<&str, &Pass<'_>> = HashMap::new();
    for pass in &bare {
        let (Some(target), Some(url)) = (pass.target(), pass.directive.arg(0)) else { continue };
        let first = *first.entry(target).or_insert(pass);
        let message = format!("each request opens a connection to {target}");
        let finding = Finding::new(&PASS_WITHOUT_UPSTREAM, pass.directive.place.clone(), message);
        let fix = Address::of(url, target)
            .and_then(|address| grouped(model, facts, pass, first, &address));
        findings.push(finding.fixed(fix.unwrap_or_default()));
    }
    findings
}

fn is_bare(model: &Model<'_>, pass: &Pass<'_>) -> bool {
    let Some(target) = pass.target() else { return false };
    // In a file that is not read, the name may be a group's, which has no port.
    let is_address = is_literal(target) || is_localhost(target) || target.contains(':');
    pass.context == Context::Http
        && pass.prefix() == "proxy_"
        && !target.contains('$')
        && model.group_of(pass).is_none()
        && (is_address || !model.may_have_more_groups())
}

/// Where a URL leads.
struct Address<'a> {
    scheme: &'a str,
    /// A host and perhaps a port, or a Unix socket.
    target: &'a str,
    /// What follows it.
    uri: &'a str,
}

impl<'a> Address<'a> {
    fn of(url: &'a str, target: &'a str) -> Option<Self> {
        let (scheme, rest) = url.split_once("://")?;
        let uri = rest.strip_prefix(target)?;
        // The URI of a Unix socket comes after a colon.
        Some(Self { scheme, target, uri: uri.strip_prefix(':').unwrap_or(uri) })
    }

    fn is_tls(&self) -> bool {
        self.scheme.eq_ignore_ascii_case("https")
    }

    fn default_port(&self) -> &'static str {
        if self.is_tls() { ":443" } else { ":80" }
    }

    fn is_unix(&self) -> bool {
        self.target.starts_with("unix:")
    }

    fn has_port(&self) -> bool {
        self.target.rsplit(']').next().is_some_and(|host| host.contains(':'))
    }

    /// As `server` takes it.
    fn server(&self) -> String {
        let port = if self.is_unix() || self.has_port() { "" } else { self.default_port() };
        format!("{}{port}", self.target)
    }

    /// The `Host` that nginx sends by default (`ngx_http_proxy_set_vars`).
    fn host(&self) -> &str {
        match self.is_unix() {
            true => "localhost",
            false => self.target.strip_suffix(self.default_port()).unwrap_or(self.target),
        }
    }

    /// The name that nginx sends and checks in TLS by default: `$proxy_host` without its port.
    fn tls_name(&self) -> &str {
        let host = self.host();
        match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
            _ => host,
        }
    }
}

/// The lines that make a group of an address: a request reaches the application as it did before, with
/// the same Host, name in TLS and redirects. `None` where that takes more than lines put in.
fn grouped(
    model: &Model<'_>,
    facts: &Facts,
    pass: &Pass<'_>,
    first: &Pass<'_>,
    address: &Address<'_>,
) -> Option<Vec<Fix>> {
    let server = first.server()?;
    let url = pass.directive.args.first()?;
    let is_computed = address.uri.contains('$');
    // What else stands in the block of a condition would be changed with it; a name in a URL with
    // variables is asked for at each request, and in a group once.
    let is_shared = pass.condition().is_some();
    let is_looked_up = is_computed && !is_literal(address.target);
    let settings = ["proxy_set_header", "proxy_redirect", "proxy_ssl_name", "proxy_http_version"];
    let is_known = settings.iter().all(|name| pass.knows(name));
    if is_shared || is_looked_up || !is_known || uses_proxy_host(model, pass) {
        return None;
    }
    let name = group_name(address);
    let url_fixed = format!("{}://{name}{}", address.scheme, address.uri);
    let mut fixes = Vec::new();
    if !model.has_group(&name) {
        fixes.push(upstream_before(model, server, &name, address));
    }
    fixes.push(fixes::replaced(url, url_fixed));
    fixes.extend(reuse::http10(facts, pass).map(|_| reuse::http11(model, pass)));
    let beside = |text: String| fixes::after(model.texts, pass.directive, &text);
    let lines: Vec<String> = [
        headers(model, facts, pass, address),
        address.is_tls().then(|| tls_name(pass, address)).flatten().into_iter().collect(),
        (!is_computed).then(|| redirect(pass, address)).flatten().into_iter().collect(),
    ]
    .concat();
    fixes.extend(lines.into_iter().map(beside));
    Some(fixes)
}

/// Whether a setting in force names `$proxy_host` or `$proxy_port`, which become the group's.
fn uses_proxy_host(model: &Model<'_>, pass: &Pass<'_>) -> bool {
    let server = pass.server().or(pass.blocks().next()).unwrap_or(pass.directive);
    let place = Place { end: server.end, ..server.place.clone() };
    let settings = ["proxy_set_header", "proxy_redirect", "proxy_ssl_name", "proxy_cookie_domain"];
    let words = |d: &&Directive| d.args.iter().any(|arg| arg.value.contains("$proxy_host"));
    model.texts.slice(&place).contains("$proxy_port")
        || settings.iter().any(|name| pass.effective(name).iter().any(words))
        || pass.effective("proxy_redirect").iter().any(|d| d.arg(0) == Some("default"))
}

/// The request's headers: all that are in force, since a block with one of its own inherits none.
fn headers(
    model: &Model<'_>,
    facts: &Facts,
    pass: &Pass<'_>,
    address: &Address<'_>,
) -> Vec<String> {
    let in_force = pass.effective("proxy_set_header");
    let is = |d: &&Directive, name: &str| d.arg(0).is_some_and(|n| n.eq_ignore_ascii_case(name));
    let closes = reuse::closes(model, facts, pass).is_some_and(|how| how.is_default());
    let has_host = in_force.iter().any(|d| is(d, "host"));
    let mut lines = Vec::new();
    if !closes && has_host {
        return lines;
    }
    if !pass.has_own("proxy_set_header") {
        lines.extend(in_force.iter().map(|d| model.texts.slice(&d.place).to_owned()));
    }
    if !has_host {
        lines.push(format!("proxy_set_header Host {};", address.host()));
    }
    if closes {
        lines.push("proxy_set_header Connection \"\";".to_owned());
    }
    lines
}

fn tls_name(pass: &Pass<'_>, address: &Address<'_>) -> Option<String> {
    let is_set = pass.only("proxy_ssl_name").is_some();
    (!is_set).then(|| format!("proxy_ssl_name {};", address.tls_name()))
}

/// What `proxy_redirect default` replaces in `Location` and `Refresh` (`ngx_http_proxy_merge_loc_conf`).
fn redirect(pass: &Pass<'_>, address: &Address<'_>) -> Option<String> {
    if pass.only("proxy_redirect").is_some() || address.is_unix() {
        return None;
    }
    let old = format!("{}://{}{}", address.scheme, address.target, address.uri);
    if address.uri.is_empty() {
        return Some(format!("proxy_redirect {old}/ /;"));
    }
    let location = pass.blocks().next_back().filter(|block| block.is("location"))?;
    let path = location.args.last().filter(|path| path.value.starts_with('/'))?;
    Some(format!("proxy_redirect {old} {};", path.value))
}

fn group_name(address: &Address<'_>) -> String {
    let server = address.server();
    let name: String = server
        .strip_prefix("unix:")
        .unwrap_or(&server)
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
        .collect();
    format!("to_{}", name.trim_matches('_'))
}

/// The group in front of the `server` that passes requests to it.
fn upstream_before(
    model: &Model<'_>,
    server: &Directive,
    name: &str,
    address: &Address<'_>,
) -> Fix {
    let file = server.place.file;
    let before = model.texts.before_on_line(file, server.place.start);
    let indent = if before.trim().is_empty() { before } else { "" };
    let address = address.server();
    let text = format!(
        "upstream {name} {{\n{indent}    server {address};\n{indent}    keepalive 32;\n{indent}}}\n{indent}"
    );
    let place = Place { file, start: server.place.start, end: server.place.start };
    Fix { place, text }
}
