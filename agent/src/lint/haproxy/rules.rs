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
    title: "connections to the server are not reused",
    why: "Each connection needs a place in the application's accept queue, and a burst of requests is a \
          burst of handshakes. By default HAProxy keeps connections. `option httpclose` and \
          `http-server-close` open one for each request. With `http-reuse never` a connection serves one \
          session: each client connection opens its own. These settings have no effect in `mode tcp`.",
    versions: "all",
};

static POOL_OFF: Rule = Rule {
    id: "haproxy-pool-disabled",
    format: Format::Haproxy,
    level: Level::Warning,
    title: "no idle connection is kept",
    why: "`pool-max-conn 0` closes each connection to the server as soon as it is idle, so that bursts \
          become handshakes. The default, -1, sets no limit.",
    versions: "1.9 and later",
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
    why: "The kernel repeats a SYN after one second (RFC 6298). With a shorter timeout, each lost segment is \
          a failure, and HAProxy tries again into the same full queue.",
    versions: "all",
};

static TIMEOUT_MISSING: Rule = Rule {
    id: "haproxy-timeout-missing",
    format: Format::Haproxy,
    level: Level::Note,
    title: "connections may stay open forever",
    why: "Without `timeout client` and `timeout server` HAProxy keeps connections whose other side is gone, \
          until `maxconn` is reached. HAProxy itself warns about it when it starts.",
    versions: "all",
};

static RETRIES_OFF: Rule = Rule {
    id: "haproxy-retries-off",
    format: Format::Haproxy,
    level: Level::Warning,
    title: "a lost handshake is not tried again",
    why: "With `retries 0` the first connection that fails ends as a 503. The default is 3.",
    versions: "all",
};

static NO_REDISPATCH: Rule = Rule {
    id: "haproxy-no-redispatch",
    format: Format::Haproxy,
    level: Level::Note,
    title: "retries go to the same server",
    why: "Persistence binds a client to one server. Without `option redispatch` all retries go there too, \
          into the same full queue, and the client gets a 503 while other servers are idle.",
    versions: "all",
};

static NO_MAXCONN: Rule = Rule {
    id: "haproxy-server-without-maxconn",
    format: Format::Haproxy,
    level: Level::Note,
    title: "a burst goes to the server as it comes",
    why: "`maxconn` of a server lets HAProxy queue what is more than the application can take at one time. \
          Without it, the accept queue of the application has to hold all connections that HAProxy \
          itself admits. Reported where HAProxy admits 1000 or more.",
    versions: "all",
};

static ONE_FAILURE: Rule = Rule {
    id: "haproxy-one-failure-marks",
    format: Format::Haproxy,
    level: Level::Warning,
    title: "one failure takes a server out",
    why: "A health check waits in the same accept queue as all other connections: with `fall 1` or \
          `error-limit 1`, one handshake lost in a burst takes the server out, and its load goes to the \
          others.",
    versions: "all",
};

static CHECK_SHORT: Rule = Rule {
    id: "haproxy-check-interval-short",
    format: Format::Haproxy,
    level: Level::Note,
    title: "a check with one lost SYN fails",
    why: "A check must connect within `inter`, and the kernel repeats a SYN after one second (RFC 6298). \
          Frequent checks also take places in the accept queue. The default is 2 s.",
    versions: "all",
};

static APPLICATION_ERRORS: Rule = Rule {
    id: "haproxy-application-errors-mark",
    format: Format::Haproxy,
    level: Level::Warning,
    title: "the application's own errors mark its servers",
    why: "`observe layer7` counts responses with 5xx as errors of the server. An error of the application \
          then becomes \"backend has no server available\".",
    versions: "all",
};

static SILENT: Rule = Rule {
    id: "haproxy-log-absent",
    format: Format::Haproxy,
    level: Level::Warning,
    title: "no log shows that a server is marked",
    why: "\"Server b/s is DOWN\" and failed connections are only in the log.",
    versions: "all",
};

static SINGLE_SERVER: Rule = Rule {
    id: "haproxy-single-server",
    format: Format::Haproxy,
    level: Level::Note,
    title: "there is only one server",
    why: "There is no other server to try: each lost handshake that is not repaired in time is a 503.",
    versions: "all",
};

/// Every rule.
pub static ALL: [&Rule; 13] = [
    &CLOSES,
    &POOL_OFF,
    &CONNECT_LONG,
    &CONNECT_SHORT,
    &TIMEOUT_MISSING,
    &RETRIES_OFF,
    &NO_REDISPATCH,
    &NO_MAXCONN,
    &ONE_FAILURE,
    &CHECK_SHORT,
    &APPLICATION_ERRORS,
    &SILENT,
    &SINGLE_SERVER,
];

/// As for nginx: longer than any handshake that was not lost three times.
const LONGEST: f64 = 10.0;
/// The kernel's first repetition of a SYN, in seconds.
const FIRST_REPETITION: f64 = 1.0;
const FIXED: &str = "3s";
/// Connections that no application's default accept queue holds.
const MANY_CONNECTIONS: u64 = 1000;

/// Applies every rule.
pub fn check(configuration: &Configuration, texts: &Texts) -> Vec<Finding> {
    let mut findings = Vec::new();
    let proxies = ["frontend", "backend", "listen"];
    for section in &configuration.sections {
        if proxies.iter().any(|kind| section.is(kind)) && configuration.is_http(section) {
            findings.extend(closes(configuration, section));
        }
    }
    for (section, servers) in configuration.passing() {
        findings.extend(connect_timeout(configuration, section, texts));
        findings.extend(server_timeout(configuration, section, texts));
        findings.extend(retries(configuration, section));
        findings.extend(no_redispatch(configuration, section, &servers, texts));
        findings.extend(no_maxconn(configuration, section, &servers));
        for server in &servers {
            findings.extend(marking(configuration, section, server));
        }
        findings.extend(silent(configuration, section, texts));
        if let [only] = &servers[..]
            && only.is(&["server"])
        {
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

/// The last of these is in force, as they exclude each other (`PR_O_HTTP_MODE`).
fn closes(configuration: &Configuration, section: &Section) -> Vec<Finding> {
    const MODES: [&str; 5] =
        ["httpclose", "forceclose", "http-server-close", "http-keep-alive", "http-tunnel"];
    let mut mode: Option<&Setting> = None;
    for setting in configuration.effective(section) {
        let is_on = setting.is(&["option"]);
        let name = setting.word(if is_on { 1 } else { 2 });
        if is_on && MODES.contains(&name) {
            mode = Some(setting);
        } else if setting.word(1) == "option" && mode.is_some_and(|it| it.word(1) == name) {
            mode = None;
        }
    }
    let closing = mode.filter(|it| MODES[..3].contains(&it.word(1)));
    let reuse = configuration.last(section, &["http-reuse"]).filter(|it| it.word(1) == "never");
    // A frontend reuses nothing.
    let reuse = reuse.filter(|_| !section.is("frontend"));
    let finding = |setting: &Setting, message, fixed| {
        let fix = replaced(&setting.words[1], fixed);
        Finding::new(&CLOSES, setting.place(), message).fixed([fix])
    };
    let by_mode = closing.map(|it| {
        finding(it, "the connection to the server ends with the response", "http-keep-alive")
    });
    let by_reuse = reuse
        .map(|it| finding(it, "idle connections are not shared between client sessions", "safe"));
    by_mode.into_iter().chain(by_reuse).collect()
}

fn retries(configuration: &Configuration, section: &Section) -> Option<Finding> {
    let setting = configuration.last(section, &["retries"]).filter(|it| it.word(1) == "0")?;
    let message = "the first failed connection is a 503";
    let fix = replaced(&setting.words[1], "3");
    Some(Finding::new(&RETRIES_OFF, setting.place(), message).fixed([fix]))
}

fn no_redispatch(
    configuration: &Configuration,
    section: &Section,
    servers: &[&Setting],
    texts: &Texts,
) -> Option<Finding> {
    let persists = ["cookie", "stick", "appsession"]
        .iter()
        .any(|word| configuration.last(section, &[word]).is_some())
        || configuration.last(section, &["balance"]).is_some_and(|it| it.word(1) == "source");
    let is_off = !configuration.has_option(section, "redispatch");
    let place = section.head.place();
    let fix = after(texts, &place, "option redispatch");
    let message = "clients are bound to a server, and retries are too";
    (persists && is_off && servers.len() > 1 && !configuration.is_piece(section))
        .then(|| Finding::new(&NO_REDISPATCH, place, message).fixed([fix]))
}

/// What HAProxy admits is the smallest `maxconn` that is set for it as a whole.
fn no_maxconn(
    configuration: &Configuration,
    section: &Section,
    servers: &[&Setting],
) -> Option<Finding> {
    let mut settings = configuration.globals().flat_map(|global| &global.settings);
    let admitted = settings.rfind(|it| it.is(&["maxconn"]))?;
    let count: u64 = admitted.word(1).parse().ok()?;
    let unlimited =
        servers.iter().find(|it| configuration.parameter(section, it, "maxconn").is_none())?;
    let message = format!("up to {count} connections at one time, as many as HAProxy admits");
    (count >= MANY_CONNECTIONS && configuration.is_http(section)).then(|| {
        Finding::new(&NO_MAXCONN, unlimited.place(), message)
            .also(admitted.place(), "admitted by HAProxy")
    })
}

fn server_timeout(
    configuration: &Configuration,
    section: &Section,
    texts: &Texts,
) -> Option<Finding> {
    let names: &[&str] = if section.is("listen") { &["server", "client"] } else { &["server"] };
    let missing =
        names.iter().find(|name| configuration.last(section, &["timeout", name]).is_none())?;
    if configuration.is_piece(section) {
        return None;
    }
    let place = configuration.anchor(section).head.place();
    let fix = after(texts, &place, &format!("timeout {missing} 1m"));
    let message = format!("no `timeout {missing}` is set");
    Some(Finding::new(&TIMEOUT_MISSING, place, message).fixed([fix]))
}

fn connect_timeout(
    configuration: &Configuration,
    section: &Section,
    texts: &Texts,
) -> Option<Finding> {
    let Some(setting) = configuration.last(section, &["timeout", "connect"]) else {
        if configuration.is_piece(section) {
            return None;
        }
        let message = "no `timeout connect` is set for its servers";
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

fn marking(configuration: &Configuration, section: &Section, server: &Setting) -> Vec<Finding> {
    let parameter = |name| configuration.parameter(section, server, name);
    let is_checked = configuration.has_keyword(section, server, "check");
    let observed = parameter("observe");
    let mut findings = Vec::new();
    for (name, concerns) in [("fall", is_checked), ("error-limit", observed.is_some())] {
        let one = parameter(name).filter(|(_, word)| concerns && word.value == "1");
        findings.extend(one.map(|(setting, word)| {
            let message = format!("one failure is enough: `{name} 1`");
            Finding::new(&ONE_FAILURE, setting.place(), message).fixed([replaced(word, "3")])
        }));
    }
    let layer7 = observed.filter(|(_, word)| word.value == "layer7");
    findings.extend(layer7.map(|(setting, word)| {
        let message = "a response with 5xx counts as an error of the server";
        Finding::new(&APPLICATION_ERRORS, setting.place(), message)
            .fixed([replaced(word, "layer4")])
    }));
    let is_short = |word: &Word| seconds(&word.value).is_some_and(|inter| inter < FIRST_REPETITION);
    let short = parameter("inter").filter(|(_, word)| is_checked && is_short(word));
    findings.extend(short.map(|(setting, word)| {
        let message = format!("a check must connect within {}", word.value);
        Finding::new(&CHECK_SHORT, setting.place(), message).fixed([replaced(word, "2s")])
    }));
    let pool = parameter("pool-max-conn").filter(|(_, word)| word.value == "0");
    findings.extend(pool.filter(|_| configuration.is_http(section)).map(|(setting, word)| {
        let message = "each connection is closed when it is idle";
        Finding::new(&POOL_OFF, setting.place(), message).fixed([replaced(word, "-1")])
    }));
    findings
}

fn silent(configuration: &Configuration, section: &Section, texts: &Texts) -> Option<Finding> {
    // A piece of a configuration may leave its log to the other pieces.
    let global = configuration.globals().next_back()?;
    let settings: Vec<_> = configuration.effective(section).collect();
    // `no log` drops those before it.
    let from = settings.iter().rposition(|s| s.is(&["no", "log"])).map_or(0, |at| at + 1);
    let logs: Vec<_> = settings[from..].iter().filter(|s| s.is(&["log"])).collect();
    let mut global_settings = configuration.globals().flat_map(|global| &global.settings);
    let has_global = global_settings.any(|setting| setting.is(&["log"]));
    if logs.iter().any(|log| log.word(1) != "global" || has_global) {
        return None;
    }
    let place = configuration.anchor(section).head.place();
    let to_global = after(texts, &global.head.place(), "log /dev/log local0");
    let to_section = after(texts, &place, "log global");
    let (message, fixes) = match (logs.is_empty(), has_global) {
        (true, true) => ("no `log` is set for its servers", vec![to_section]),
        (true, false) => ("no `log` is set for its servers", vec![to_global, to_section]),
        (false, _) => ("`log global`, but `global` has no `log`", vec![to_global]),
    };
    Some(Finding::new(&SILENT, place, message).fixed(fixes))
}
