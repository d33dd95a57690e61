//! Whether nginx tells that it marks a peer.

use std::collections::HashSet;

use crate::lint::{
    finding::{Facts, Finding, Fix, Format, Level, Rule},
    nginx::{fixes, model::Model, tree::Directive},
    text::Place,
};

pub static HIDDEN: Rule = Rule {
    id: "nginx-error-log-hides-markings",
    format: Format::Nginx,
    level: Level::Warning,
    title: "the error log does not show markings",
    why: "nginx logs \"upstream server temporarily disabled\" at level `warn`. The default, also in \
          Debian's file, is `error`: then \"no live upstreams\" appears without an earlier sign.",
    versions: "all",
};

/// Levels at which warnings are not written.
const TOO_HIGH: [&str; 4] = ["error", "crit", "alert", "emerg"];

pub fn check(model: &Model<'_>, _: &Facts) -> Vec<Finding> {
    let mut findings: Vec<Finding> = Vec::new();
    let mut known: HashSet<Place> = HashSet::new();
    let markable = model
        .passes
        .iter()
        .filter(|pass| model.group_of(pass).is_some_and(|group| group.can_be_marked()));
    for pass in markable {
        let logs = pass.effective("error_log");
        if logs.iter().any(|log| shows(log)) || !pass.knows("error_log") {
            continue;
        }
        let finding = match logs.last() {
            Some(log) => hides(log),
            None if model.is_whole() => absent(model, &pass.directive.place),
            None => continue,
        };
        // Where there is no log at all, one line fixes it for all.
        let is_known = if logs.is_empty() {
            !findings.is_empty()
        } else {
            !known.insert(finding.place.clone())
        };
        if !is_known {
            findings.push(finding);
        }
    }
    findings
}

fn level(log: &Directive) -> &str {
    log.arg(1).unwrap_or("error")
}

fn shows(log: &Directive) -> bool {
    !TOO_HIGH.contains(&level(log)) && log.arg(0) != Some("/dev/null")
}

fn hides(log: &Directive) -> Finding {
    let message = if log.arg(0) == Some("/dev/null") {
        "all messages are discarded".to_owned()
    } else {
        format!("level `{}` leaves out that a peer is marked", level(log))
    };
    let mut fixes = Vec::new();
    if let Some(file) = log.args.first().filter(|file| file.value == "/dev/null") {
        fixes.push(fixes::replaced(file, "/var/log/nginx/error.log"));
    }
    match log.args.get(1) {
        Some(word) if TOO_HIGH.contains(&word.value.as_str()) => {
            fixes.push(fixes::replaced(word, "warn"));
        }
        Some(_) => {}
        None => fixes.push(fixes::argument(log, "warn")),
    }
    Finding::new(&HIDDEN, log.place.clone(), message).fixed(fixes)
}

/// No `error_log` at all: nginx has one built in, at level `error`.
fn absent(model: &Model<'_>, pass: &Place) -> Finding {
    let message = "no `error_log` is set for it, and the built-in one does not show markings";
    let finding = Finding::new(&HIDDEN, pass.clone(), message);
    let fix = model.top.first().map(|first| Fix {
        place: Place { end: first.place.start, ..first.place.clone() },
        text: "error_log /var/log/nginx/error.log warn;\n".to_owned(),
    });
    finding.fixed(fix)
}
