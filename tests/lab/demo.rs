//! The incident in two acts, broken and mended, and what must be true of them.

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::{
    act::{Outcome, Setting, play},
    app::Kind,
    nginx::Tuning,
};

/// Arguments of the demo.
#[derive(Args)]
pub struct DemoArgs {
    /// The agent under test
    #[arg(long)]
    agent: PathBuf,
    /// The application behind the proxy
    #[arg(long, value_enum, default_value_t = App::Standin)]
    app: App,
    /// A Python with Tornado, for the Tornado application
    #[arg(long, required_if_eq("app", "tornado"))]
    python: Option<PathBuf>,
    /// A connect timeout of 2 s instead of nginx's 60 s, and shorter acts
    #[arg(long)]
    quick: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum App {
    /// The real Tornado
    Tornado,
    /// A stand-in that accepts and blocks as Tornado does
    Standin,
}

/// Both acts and the checks on them.
#[derive(Serialize)]
struct Demo {
    kernel: String,
    quick: bool,
    broken: Outcome,
    mended: Outcome,
    checks: Vec<Check>,
}

/// Something that must be true.
#[derive(Debug, Serialize)]
struct Check {
    what: &'static str,
    holds: bool,
    detail: String,
}

/// Tornado's default backlog, and what the mended act has instead.
const BACKLOG: u32 = 128;
const MENDED_BACKLOG: u32 = 4096;

/// Plays both acts; true if every check holds.
pub fn demo(args: &DemoArgs) -> Result<bool> {
    let app = match args.app {
        App::Standin => Kind::StandIn,
        App::Tornado => Kind::Tornado {
            python: args.python.clone().context("--python is missing")?,
            program: concat!(env!("CARGO_MANIFEST_DIR"), "/lab/tornado_app.py").into(),
        },
    };
    // With nginx's own timeout of 60 s a SYN is sent six times before the attempt fails, so it takes
    // more clients and more time until all six found the queue full.
    let (connect_timeout, clients, seconds) =
        if args.quick { (Some(2), 800, 20) } else { (None, 1600, 110) };
    let connect_timeout = connect_timeout.map(Duration::from_secs);
    let broken = Setting {
        name: "broken",
        tuning: Tuning { keepalive: None, connect_timeout },
        backlog: BACKLOG,
        somaxconn: None,
        app,
        clients,
        duration: Duration::from_secs(seconds),
        agent: args.agent.clone(),
    };
    let mended = Setting {
        name: "mended",
        tuning: Tuning { keepalive: Some(clients as u32), connect_timeout },
        backlog: MENDED_BACKLOG,
        somaxconn: Some(2 * MENDED_BACKLOG),
        ..broken.clone()
    };
    eprintln!("act 1, broken: {clients} clients for {seconds} s, backlog {BACKLOG}, no keepalive");
    let broken = play(&broken)?;
    eprintln!(
        "act 2, mended: the same clients, backlog {MENDED_BACKLOG} and somaxconn, with keepalive"
    );
    let mended = play(&mended)?;
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let kernel = release.trim().to_owned();
    let checks = checks(&broken, &mended);
    let demo = Demo { kernel, quick: args.quick, broken, mended, checks };
    if args.json {
        println!("{}", serde_json::to_string_pretty(&demo)?);
    } else {
        print!("{}", table(&demo));
    }
    Ok(demo.checks.iter().all(|check| check.holds))
}

/// A full accept queue, as the proxy meets it at the SYN and at the final ACK.
const OVERFLOW: [&str; 2] = ["accept_queue_overflow", "half_open"];

fn checks(broken: &Outcome, mended: &Outcome) -> Vec<Check> {
    let check = |what, holds, detail: String| Check { what, holds, detail };
    let joined = format!("{} of {}", broken.markings_joined, broken.markings);
    let unnamed = broken.apps.iter().filter(|app| app.owner.is_none()).count();
    let other_causes: Vec<&String> =
        broken.causes.keys().filter(|cause| !OVERFLOW.contains(&cause.as_str())).collect();
    vec![
        check("broken: clients see 502", broken.errors_502 > 0, broken.errors_502.to_string()),
        check(
            "broken: the accept queues overflow",
            broken.kernel_listen_overflows > 0,
            broken.kernel_listen_overflows.to_string(),
        ),
        check(
            "broken: the agent's count is the kernel's, host by host",
            broken.apps.iter().all(|app| app.attributed_drops == app.kernel_listen_overflows),
            format!("{} and {}", broken.attributed_drops, broken.kernel_listen_overflows),
        ),
        check(
            "broken: nginx marks peers as down",
            broken.markings > 0,
            broken.markings.to_string(),
        ),
        check(
            "broken: every marking is joined with a listener's losses",
            broken.markings_joined == broken.markings,
            joined,
        ),
        check(
            "broken: accept-queue overflow is the only cause",
            other_causes.is_empty() && !broken.causes.is_empty(),
            format!("{:?}", broken.causes),
        ),
        check(
            "broken: each listener's process is named",
            unnamed == 0,
            format!("{unnamed} without"),
        ),
        check(
            "mended: no overflow",
            mended.kernel_listen_overflows == 0 && mended.attributed_drops == 0,
            mended.kernel_listen_overflows.to_string(),
        ),
        check("mended: no 502", mended.errors_502 == 0, mended.errors_502.to_string()),
        check("mended: nothing marked", mended.markings == 0, mended.markings.to_string()),
        check(
            "mended: fewer new connections than requests",
            mended.new_connections < mended.requests,
            format!("{} for {} requests", mended.new_connections, mended.requests),
        ),
    ]
}

fn table(demo: &Demo) -> String {
    use std::fmt::Write;
    let mut out = String::new();
    let (broken, mended) = (&demo.broken, &demo.mended);
    // Writing to a String cannot fail.
    let mut row = |name: &str, broken: &str, mended: &str| {
        let _ = writeln!(out, "{name:<44}{broken:>14}{mended:>14}");
    };
    row(&format!("on Linux {}", demo.kernel), "broken", "mended");
    for (name, pick) in [
        ("requests", (|o| o.requests) as fn(&Outcome) -> u64),
        ("answered", |o| o.answered),
        ("502 Bad Gateway", |o| o.errors_502),
        ("new connections to the applications", |o| o.new_connections),
        ("ListenOverflows, says the kernel", |o| o.kernel_listen_overflows),
        ("attributed to listeners, says Floodmark", |o| o.attributed_drops),
        ("peers marked as down, says nginx", |o| o.markings),
        ("joined with a listener's losses", |o| o.markings_joined),
    ] {
        row(name, &pick(broken).to_string(), &pick(mended).to_string());
    }
    for app in &broken.apps {
        let named = |text: &Option<String>| text.clone().unwrap_or_else(|| "?".to_owned());
        let _ = writeln!(
            out,
            "\n{} in {}: {}, queue limit {}, {} dropped",
            named(&app.listener),
            app.netns,
            named(&app.owner),
            app.queue_limit.map_or("?".to_owned(), |limit| limit.to_string()),
            app.attributed_drops
        );
    }
    if let Some(example) = &broken.example {
        let _ = writeln!(out, "\n{example}");
    }
    let _ = writeln!(out);
    for check in &demo.checks {
        let word = if check.holds { "ok    " } else { "FAILED" };
        let _ = writeln!(out, "{word} {} ({})", check.what, check.detail);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::act::AppOutcome;

    fn good() -> (Outcome, Outcome) {
        let app = AppOutcome {
            kernel_listen_overflows: 5,
            attributed_drops: 5,
            owner: Some("python (pid 1)".to_owned()),
            ..AppOutcome::default()
        };
        let broken = Outcome {
            errors_502: 3,
            kernel_listen_overflows: 5,
            attributed_drops: 5,
            markings: 2,
            markings_joined: 2,
            causes: [("accept_queue_overflow".to_owned(), 2)].into(),
            apps: vec![app],
            ..Outcome::default()
        };
        let mended = Outcome { requests: 100, new_connections: 9, ..Outcome::default() };
        (broken, mended)
    }

    fn failing(broken: &Outcome, mended: &Outcome) -> Vec<&'static str> {
        let checks = checks(broken, mended).into_iter();
        checks.filter(|check| !check.holds).map(|check| check.what).collect()
    }

    #[test]
    fn all_hold_when_the_incident_is_seen_and_mended() {
        let (broken, mended) = good();
        assert!(failing(&broken, &mended).is_empty());
    }

    #[test]
    fn each_check_can_fail() {
        let (broken, mended) = good();
        let mut miscounted = broken.clone();
        miscounted.apps[0].attributed_drops = 4;
        assert_eq!(failing(&miscounted, &mended).len(), 1);
        let unjoined = Outcome { markings_joined: 1, ..broken.clone() };
        assert_eq!(failing(&unjoined, &mended).len(), 1);
        let mut blamed = broken.clone();
        blamed.causes.insert("refused".to_owned(), 1);
        assert_eq!(failing(&blamed, &mended).len(), 1);
        let silent = Outcome::default();
        assert!(failing(&silent, &mended).len() >= 4);
        let leaking = Outcome { new_connections: 100, errors_502: 1, ..mended };
        assert_eq!(failing(&broken, &leaking).len(), 2);
    }
}
