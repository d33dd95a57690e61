//! How often a request is tried again.

use crate::lint::{
    finding::{Facts, Finding, Fix, Format, Level, Rule},
    nginx::{
        fixes,
        model::{Context, Model, Pass},
        tree::Directive,
    },
    text::Place,
};

pub static NON_IDEMPOTENT: Rule = Rule {
    id: "nginx-retries-non-idempotent",
    format: Format::Nginx,
    level: Level::Warning,
    title: "a request that changes something may be sent twice",
    why: "With `non_idempotent` nginx repeats POST, LOCK and PATCH on the next server after a failure. A \
          request that timed out may have been carried out already, and under load each retry adds to it.",
    versions: "1.9.13 and later",
};

pub static UNLIMITED: Rule = Rule {
    id: "nginx-retries-unlimited",
    format: Format::Nginx,
    level: Level::Note,
    title: "a request is tried on every server",
    why: "Without `proxy_next_upstream_tries` and `proxy_next_upstream_timeout`, a request that fails for \
          its own sake marks all servers, one after the other, and holds the client until the last one \
          failed. Reported where `proxy_next_upstream` lists more than errors and timeouts, or a group has \
          five servers or more.",
    versions: "1.7.5 and later",
};

/// Servers from which on a request that fails everywhere does much harm.
const MANY: usize = 5;

pub fn check(model: &Model<'_>, _: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    for pass in model.passes.iter().filter(|pass| pass.context == Context::Http) {
        let Some(group) = model.group_of(pass).filter(|group| group.peers() > 1) else { continue };
        let name = |suffix: &str| format!("{}next_upstream{suffix}", pass.prefix());
        if ["", "_tries", "_timeout"].iter().any(|suffix| !pass.knows(&name(suffix))) {
            continue;
        }
        let conditions = pass.only(&name(""));
        findings.extend(conditions.and_then(non_idempotent));
        let is_off = conditions.is_some_and(|it| it.arg(0) == Some("off"));
        let is_limited = ["_tries", "_timeout"].iter().any(|suffix| {
            pass.only(&name(suffix)).and_then(|it| it.arg(0)).is_some_and(|it| it != "0")
        });
        let is_more = |it: &Directive| {
            it.args.iter().any(|word| !["error", "timeout"].contains(&word.value.as_str()))
        };
        let is_wide = conditions.is_some_and(is_more) || group.servers().len() >= MANY;
        if is_wide && !is_off && !is_limited {
            findings.push(unlimited(model, pass, conditions));
        }
    }
    findings
}

fn non_idempotent(directive: &Directive) -> Option<Finding> {
    let word = directive.args.iter().find(|word| word.value == "non_idempotent")?;
    let message = "a POST that timed out is sent to the next server";
    let others = directive.args.iter().filter(|word| word.value != "non_idempotent");
    let rest: Vec<_> = others.map(|word| word.value.as_str()).collect();
    let (first, last) = (directive.args.first()?, directive.args.last()?);
    let place = Place { end: last.place.end, ..first.place.clone() };
    let text = if rest.is_empty() { "error timeout".to_owned() } else { rest.join(" ") };
    Some(Finding::new(&NON_IDEMPOTENT, word.place.clone(), message).fixed([Fix { place, text }]))
}

fn unlimited(model: &Model<'_>, pass: &Pass<'_>, conditions: Option<&Directive>) -> Finding {
    let tries = format!("{}next_upstream_tries 2;", pass.prefix());
    let beside = conditions.unwrap_or(pass.anchor());
    let message = "each request may be tried on all servers of its group";
    let place = conditions.unwrap_or(pass.directive).place.clone();
    Finding::new(&UNLIMITED, place, message).fixed([fixes::after(model.texts, beside, &tries)])
}
