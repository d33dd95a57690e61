//! Clients of the HTTP server that ask nothing, never read, or guess passwords.

use std::{
    fs::{self, File},
    path::Path,
    process::Command,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};

use super::{
    Case, Check, Target,
    target::{Attacker, Served},
};
use crate::topology::Namespace;

pub(super) const CASES: &[Case] = &[
    Case {
        name: "idle-connections",
        attack: "a process holds 3000 connections that ask nothing",
        run: idle_connections,
    },
    Case {
        name: "idle-sources",
        attack: "3000 addresses hold a connection each, with a head that never ends",
        run: idle_sources,
    },
    Case {
        name: "slow-readers",
        attack: "300 clients ask for /metrics and never read",
        run: slow_readers,
    },
    Case {
        name: "aborted-guesses",
        attack: "a client guesses passwords and hangs up at once",
        run: aborted_guesses,
    },
];

const CLIENTS: &str = include_str!("clients.py");
/// How long a probe may take, as a kubelet has it by default.
const PROBE_TIMEOUT: f64 = 1.0;
/// Connections at once (`agent/src/export/server/connections.rs`), and what else the agent has open.
const DESCRIPTORS: f64 = 512.0 + 64.0 + 400.0;
/// Addresses for clients, all of which are the namespace's own.
const SOURCES: &str = "10.64.0.0/10";
/// `htpasswd -nbBC 10 prometheus` with a password that nobody was told.
const WEB_CONFIG: &str = "basic_auth_users:\n  \
    prometheus: $2b$10$TvGqNu/GPQErTaKMFJ5fe.nBXnwWSJVL/vySZzSHKWpst6.SgEnz2\n";

fn idle_connections(target: &Target) -> Result<Vec<Check>> {
    let served = target.serve(&[])?;
    attack(target, &served, "idle", 3000)
}

fn idle_sources(target: &Target) -> Result<Vec<Check>> {
    let namespace = Namespace::new(format!("fmhostile-{}", std::process::id()))?;
    let mut route = Command::new("ip");
    route.args(["-n", namespace.name(), "route", "add", "local", SOURCES, "dev", "lo"]);
    if !route.status().context("starting ip")?.success() {
        bail!("no route to {SOURCES}");
    }
    namespace.inside(|| {
        let served = target.serve(&[])?;
        attack(target, &served, "sources", 3000)
    })?
}

fn slow_readers(target: &Target) -> Result<Vec<Check>> {
    let served = target.serve(&[])?;
    let mut checks = attack(target, &served, "unread", 300)?;
    checks.push(Check::at_most("resident memory", "MiB", served.peak_mib()?, 96.0));
    Ok(checks)
}

fn aborted_guesses(target: &Target) -> Result<Vec<Check>> {
    let config = target.directory().join("web.yml");
    fs::write(&config, WEB_CONFIG)?;
    let served = target.serve(&["--web-config-file", &config.to_string_lossy()])?;
    let before = served.threads()?;
    let out = target.directory().join("guesses");
    let mut guesses = start(target, &served, "guesses", 300, &out)?;
    thread::sleep(Duration::from_secs(1));
    let core = served.core_percent(Duration::from_secs(4))?;
    let threads = served.threads()?;
    let mut checks = probes(&out, guesses.wait()?)?;
    checks.push(Check::at_most("processor time", "% of a core", core, 130.0));
    checks.push(Check::at_most("more threads", "", threads - before, 4.0));
    Ok(checks)
}

/// Attacks, and probes meanwhile.
fn attack(target: &Target, served: &Served, how: &str, count: u32) -> Result<Vec<Check>> {
    let out = target.directory().join("probes");
    let mut attacker = start(target, served, how, count, &out)?;
    thread::sleep(Duration::from_secs(4));
    let open = served.descriptors()?;
    let mut checks = probes(&out, attacker.wait()?)?;
    checks.push(Check::at_most("descriptors", "", open, DESCRIPTORS));
    Ok(checks)
}

fn start(target: &Target, served: &Served, how: &str, count: u32, out: &Path) -> Result<Attacker> {
    let mut clients = Command::new("/usr/bin/python3");
    clients.args(["-c", CLIENTS, how, &count.to_string()]);
    clients.arg(served.agent.addr.port().to_string()).stdout(File::create(out)?);
    target.spawn(&mut clients)
}

/// `PROBES FAILED SLOWEST-SECONDS`, as the clients' program wrote it at its end.
fn probes(out: &Path, has_ended_well: bool) -> Result<Vec<Check>> {
    let said = fs::read_to_string(out)?;
    let fields: Vec<f64> = said.split_whitespace().filter_map(|it| it.parse().ok()).collect();
    let [count, failed, slowest] = fields[..] else { bail!("the clients said {said:?}") };
    Ok(vec![
        Check::that("the clients run to their end", has_ended_well, format!("{count} probes")),
        Check::at_most("failed health checks", "", failed, 0.0),
        Check::at_most("the slowest health check", "s", slowest, PROBE_TIMEOUT),
    ])
}
