//! Whether requests are passed to a group at all.

use super::reuse;
use crate::lint::{
    finding::{Facts, Finding, Fix, Format, Level, Rule},
    nginx::{
        fixes,
        model::{Context, Model, Pass},
        tree::Directive,
    },
    text::Place,
};

pub static PASS_WITHOUT_UPSTREAM: Rule = Rule {
    id: "nginx-pass-without-upstream",
    format: Format::Nginx,
    level: Level::Note,
    title: "requests are passed to an address, not to an upstream",
    why: "Only an `upstream` keeps connections: without one every request opens a connection, in all \
          versions. There is no next peer either.",
    versions: "all",
};

pub fn check(model: &Model<'_>, facts: &Facts) -> Vec<Finding> {
    let is_bare = |pass: &&Pass<'_>| {
        pass.context == Context::Http
            && pass.prefix() == "proxy_"
            && pass.target().is_some_and(|target| !target.contains('$'))
            && model.group_of(pass).is_none()
    };
    let bare: Vec<_> = model.passes.iter().filter(is_bare).collect();
    let mut findings = Vec::new();
    for pass in &bare {
        let (Some(target), Some(url)) = (pass.target(), pass.directive.args.first()) else {
            continue;
        };
        // One group serves whoever passes requests there.
        let first = bare.iter().find(|other| other.target() == Some(target)).unwrap_or(pass);
        let message = format!("each request opens a connection to {target}");
        let mut finding =
            Finding::new(&PASS_WITHOUT_UPSTREAM, pass.directive.place.clone(), message);
        if let Some(server) = first.server() {
            let name = group_name(target);
            finding.fixes.push(upstream_before(model, server, &name, url.value.as_str(), target));
            finding.fixes.push(fixes::replaced(url, url.value.replacen(target, &name, 1)));
            finding.fixes.extend(reuse::what_reuse_needs(model, facts, pass));
            // nginx's default for this header is the name in proxy_pass.
            if pass.effective("proxy_set_header").iter().all(|d| d.arg(0) != Some("Host")) {
                let host = format!("proxy_set_header Host {target};");
                finding.fixes.push(fixes::after(model.texts, pass.directive, &host));
            }
        }
        findings.push(finding);
    }
    findings
}

fn group_name(target: &str) -> String {
    let name: String = target
        .strip_prefix("unix:")
        .unwrap_or(target)
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
    url: &str,
    target: &str,
) -> Fix {
    let file = server.place.file;
    let before = model.texts.before_on_line(file, server.place.start);
    let indent = if before.trim().is_empty() { before } else { "" };
    let host = target.rsplit(']').next().unwrap_or(target);
    let has_port = target.starts_with("unix:") || host.contains(':');
    let port = if has_port {
        ""
    } else if url.starts_with("https:") {
        ":443"
    } else {
        ":80"
    };
    let text = format!(
        "upstream {name} {{\n{indent}    server {target}{port};\n{indent}    keepalive 32;\n\
         {indent}}}\n{indent}"
    );
    let place = Place { file, start: server.place.start, end: server.place.start };
    Fix { place, text }
}
