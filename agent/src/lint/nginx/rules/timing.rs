//! How long nginx waits for a handshake.

use crate::lint::{
    finding::{Facts, Finding, Fix, Format, Level, Rule},
    nginx::{
        fixes,
        model::{Context, Group, Model, Pass, seconds},
        rules::by_server,
    },
};

pub static LONG: Rule = Rule {
    id: "nginx-connect-timeout-long",
    format: Format::Nginx,
    level: Level::Warning,
    title: "a lost handshake holds a request for a long time",
    why: "While nginx waits (60 s by default) the request waits too, the kernel repeats the SYN into the \
          same full queue, and nginx marks the peer for a loss that is a minute old. A handshake that \
          takes seconds has been lost at least once. A note where it is nginx's default.",
    versions: "all",
};

pub static SHORT: Rule = Rule {
    id: "nginx-connect-timeout-short",
    format: Format::Nginx,
    level: Level::Warning,
    title: "a single lost SYN is a failed attempt",
    why: "The kernel repeats a SYN after one second (RFC 6298). With a shorter timeout, each lost segment \
          is a failure of the peer, and marks it.",
    versions: "all",
};

/// No handshake between hosts that are up takes so long, in seconds, unless it is lost thrice
/// (repeated after 1, 3 and 7 s).
const LONGEST: f64 = 10.0;
/// The kernel's first repetition of a SYN (TCP_TIMEOUT_INIT), in seconds.
const FIRST_REPETITION: f64 = 1.0;
/// nginx's default, in seconds.
const DEFAULT: f64 = 60.0;
/// Long enough for one repetition, which comes after 1 s, and for its answer.
const FIXED: &str = "3s";

pub fn check(model: &Model<'_>, _: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    let waiting: Vec<_> = model.passes.iter().filter(|pass| goes_by_tcp(model, pass)).collect();
    for passes in by_server(&waiting) {
        let without =
            |pass: &&&Pass<'_>| pass.only(&name(pass)).is_none() && pass.knows(&name(pass));
        let mut by_default: Vec<_> = passes.iter().filter(without).copied().collect();
        // One finding for each kind of pass, since each has a directive of its own.
        while let Some(first) = by_default.first().copied() {
            let (same, others) =
                by_default.iter().partition::<Vec<&Pass<'_>>, _>(|p| p.prefix() == first.prefix());
            by_default = others;
            findings.push(default(model, first, same.len()));
        }
        findings.extend(passes.iter().filter_map(|pass| set(pass)));
    }
    findings
}

fn name(pass: &Pass<'_>) -> String {
    format!("{}connect_timeout", pass.prefix())
}

/// A full Unix socket refuses at once; nobody waits for it.
fn goes_by_tcp(model: &Model<'_>, pass: &Pass<'_>) -> bool {
    let is_unix = |address: &str| address.starts_with("unix:");
    let target = pass.target().unwrap_or_default();
    let group = model.group_of(pass);
    !is_unix(target) && !group.is_some_and(Group::is_unix)
}

fn default(model: &Model<'_>, first: &Pass<'_>, count: usize) -> Finding {
    let name = name(first);
    let message = match count {
        1 => format!("waits {DEFAULT} s, the default of `{name}`"),
        _ => format!("waits {DEFAULT} s, the default of `{name}`; {} more here", count - 1),
    };
    let text = format!("{name} {FIXED};");
    let fix = match first.server() {
        // In `stream` a server holds little but its pass.
        Some(server) if first.context == Context::Http => {
            fixes::first_in(model.texts, server, &text)
        }
        _ => fixes::after(model.texts, first.anchor(), &text),
    };
    Finding::new(&LONG, first.directive.place.clone(), message).at(Level::Note).fixed([fix])
}

fn set(pass: &Pass<'_>) -> Option<Finding> {
    let directive = pass.only(&name(pass))?;
    let word = directive.args.first()?;
    let waits = seconds(&word.value)?;
    let (rule, message) = if waits > LONGEST {
        (&LONG, format!("waits {waits} s for a handshake"))
    } else if waits <= FIRST_REPETITION {
        (&SHORT, format!("gives up after {waits} s, before a lost SYN is repeated and answered"))
    } else {
        return None;
    };
    let fix: Fix = fixes::replaced(word, FIXED);
    Some(Finding::new(rule, directive.place.clone(), message).fixed([fix]))
}
