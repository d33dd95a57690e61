//! The rules for HAProxy.

use super::section::{Configuration, Section, Setting, Word, seconds};
use crate::lint::{
    finding::{Finding, Fix, Format, Level, Rule},
    text::{Place, Texts},
};

static CLOSES: Rule = Rule {
    id: "haproxy-closes-connections",
    format: Format::Haproxy,
    level: Level::Warning,
    title: "every request opens a connection to the server",
    why: "Each request then costs the application a place in its accept queue, and a burst of requests \
          is a burst of handshakes. HAProxy keeps connections and uses them again unless told not to.",
    versions: "all",
};

static CONNECT_LONG: Rule = Rule {
    id: "haproxy-connect-timeout-long",
    format: Format::Haproxy,
    level: Level::Warning,
    title: "a lost handshake holds a request for a long time",
    why: "Without `timeout connect` HAProxy waits as long as the kernel tries, which is minutes. A \
          handshake that takes seconds has been lost at least once.",
    versions: "all",
};

static CONNECT_SHORT: Rule = Rule {
    id: "haproxy-connect-timeout-short",
    format: Format::Haproxy,
    level: Level::Note,
    title: "a single lost SYN is a failed attempt",
    why: "The kernel repeats a SYN after one second (RFC 6298). Whoever waits no longer takes each lost \
          segment for a failure, and tries again into the same full queue.",
    versions: "all",
};

static ONE_FAILURE: Rule = Rule {
    id: "haproxy-one-failure-marks",
    format: Format::Haproxy,
    level: Level::Warning,
    title: "one failure takes a server out",
    why: "A health check waits in the same accept queue as everybody else: with `fall 1`, or \
          `error-limit 1`, one handshake lost in a burst takes the server out, and its load goes to the \
          others.",
    versions: "all",
};

static APPLICATION_ERRORS: Rule = Rule {
    id: "haproxy-application-errors-mark",
    format: Format::Haproxy,
    level: Level::Warning,
    title: "the application's own errors mark its servers",
    why: "`observe layer7` counts answers of 5xx as errors of the server. An error of the application \
          then becomes \"backend has no server available\".",
    versions: "all",
};

static SILENT: Rule = Rule {
    id: "haproxy-log-absent",
    format: Format::Haproxy,
    level: Level::Warning,
    title: "nothing tells that a server is marked",
    why: "\"Server b/s is DOWN\" and failed connections go to the log, and only there.",
    versions: "all",
};

static SINGLE_SERVER: Rule = Rule {
    id: "haproxy-single-server",
    format: Format::Haproxy,
    level: Level::Note,
    title: "there is only one server",
    why: "There is no other to try: each lost handshake that is not made good in time is a 503.",
    versions: "all",
};

/// Every rule.
pub static ALL: [&Rule; 7] = [
    &CLOSES,
    &CONNECT_LONG,
    &CONNECT_SHORT,
    &ONE_FAILURE,
    &APPLICATION_ERRORS,
    &SILENT,
    &SINGLE_SERVER,
];

/// As for nginx: longer than any handshake that was not lost thrice.
const LONGEST: f64 = 10.0;
/// The kernel's first repetition of a SYN, in seconds.
const FIRST_REPETITION: f64 = 1.0;
const FIXED: &str = "3s";

/// Applies every rule.
pub fn check(configuration: &Configuration, texts: &Texts) -> Vec<Finding> {
    let mut findings: Vec<_> =
        configuration.sections.iter().flat_map(|s| s.settings.iter().filter_map(closes)).collect();
    for (section, servers) in configuration.passing() {
        findings.extend(connect_timeout(configuration, section, texts));
        findings.extend(marking(configuration, section, &servers));
        findings.extend(silent(configuration, section, texts));
        if let [only] = &servers[..] {
            let message = format!("the only server of \"{}\"", section.name());
            findings.push(Finding::new(&SINGLE_SERVER, only.place(), message));
        }
    }
    findings
}

fn replaced(word: &Word, text: &str) -> Fix {
    Fix { place: word.place.clone(), text: text.to_owned() }
}

/// A setting on a line after another.
fn after(texts: &Texts, place: &Place, text: &str) -> Fix {
    let rest = &texts.get(place.file).text[place.end..];
    let end = place.end + rest.find('\n').unwrap_or(rest.len());
    Fix { place: Place { file: place.file, start: end, end }, text: format!("\n    {text}") }
}

fn closes(setting: &Setting) -> Option<Finding> {
    let closing = ["httpclose", "forceclose", "http-server-close"];
    let (word, fixed) = if setting.is(&["option"]) && closing.contains(&setting.word(1)) {
        (&setting.words[1], "http-keep-alive")
    } else if setting.is(&["http-reuse", "never"]) {
        (&setting.words[1], "safe")
    } else {
        return None;
    };
    let message = "the connection to the server ends with the response";
    Some(Finding::new(&CLOSES, setting.place(), message).fixed([replaced(word, fixed)]))
}

fn connect_timeout(
    configuration: &Configuration,
    section: &Section,
    texts: &Texts,
) -> Option<Finding> {
    let is_it = |setting: &&Setting| setting.is(&["timeout", "connect"]);
    let Some(setting) = configuration.effective(section).rfind(is_it) else {
        let message = "no `timeout connect` holds for its servers";
        let place = configuration.anchor(section).head.place();
        let fix = after(texts, &place, &format!("timeout connect {FIXED}"));
        return Some(Finding::new(&CONNECT_LONG, place, message).fixed([fix]));
    };
    let word = setting.words.get(2)?;
    let waits = seconds(&word.value)?;
    let (rule, message) = if waits > LONGEST {
        (&CONNECT_LONG, format!("waits {waits} s for a handshake"))
    } else if waits <= FIRST_REPETITION {
        (&CONNECT_SHORT, format!("gives up after {waits} s, before a lost SYN is repeated"))
    } else {
        return None;
    };
    Some(Finding::new(rule, setting.place(), message).fixed([replaced(word, FIXED)]))
}

fn marking(configuration: &Configuration, section: &Section, servers: &[&Setting]) -> Vec<Finding> {
    let defaults = configuration.effective(section).filter(|s| s.is(&["default-server"]));
    let is_checked = servers.iter().any(|server| server.has("check"))
        || configuration.effective(section).any(|s| s.is(&["default-server"]) && s.has("check"));
    let mut findings = Vec::new();
    for setting in defaults.chain(servers.iter().copied()) {
        let observes = setting.has("observe");
        for (name, concerns) in [("fall", is_checked), ("error-limit", observes)] {
            let one = setting.after(name).filter(|word| concerns && word.value == "1");
            findings.extend(one.map(|word| {
                let message = format!("one failure is enough: `{name} 1`");
                Finding::new(&ONE_FAILURE, setting.place(), message).fixed([replaced(word, "3")])
            }));
        }
        let layer7 = setting.after("observe").filter(|word| word.value == "layer7");
        findings.extend(layer7.map(|word| {
            let message = "an answer of 5xx counts as an error of the server";
            Finding::new(&APPLICATION_ERRORS, setting.place(), message)
                .fixed([replaced(word, "layer4")])
        }));
    }
    findings
}

fn silent(configuration: &Configuration, section: &Section, texts: &Texts) -> Option<Finding> {
    // A piece of a configuration may leave its log to the other pieces.
    let global = configuration.sections.iter().find(|section| section.is("global"))?;
    let logs: Vec<_> = configuration.effective(section).filter(|s| s.is(&["log"])).collect();
    let has_global = global.settings.iter().any(|setting| setting.is(&["log"]));
    if logs.iter().any(|log| log.word(1) != "global" || has_global) {
        return None;
    }
    let place = configuration.anchor(section).head.place();
    let to_global = after(texts, &global.head.place(), "log /dev/log local0");
    let to_section = after(texts, &place, "log global");
    let (message, fixes) = match (logs.is_empty(), has_global) {
        (true, true) => ("no `log` holds for its servers", vec![to_section]),
        (true, false) => ("no `log` holds for its servers", vec![to_global, to_section]),
        (false, _) => ("`log global`, but `global` has no `log`", vec![to_global]),
    };
    Some(Finding::new(&SILENT, place, message).fixed(fixes))
}
