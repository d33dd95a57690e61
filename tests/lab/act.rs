//! One act: the lab set up in one way, loaded, watched by the agent, and added up.

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddrV4,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use floodmark::{
    kernel::Counter,
    proxy::EventKind,
    verdict::{Report, Verdict},
};
use serde::Serialize;

use crate::{
    agent::Agent,
    app::{self, App},
    load::Seen,
    nginx::{Nginx, Tuning},
    topology::{Namespace, Topology},
};

/// What an act is played with.
#[derive(Clone, Debug)]
pub struct Setting {
    /// Name of the act, also in the namespaces' names.
    pub name: &'static str,
    /// The proxy's side.
    pub tuning: Tuning,
    /// The applications' `listen(2)` backlog.
    pub backlog: u32,
    /// `net.core.somaxconn` of the application hosts; `None` leaves the kernel's default.
    pub somaxconn: Option<u32>,
    /// The application.
    pub app: app::Kind,
    /// Clients with one request each at a time.
    pub clients: usize,
    /// How long they go on.
    pub duration: Duration,
    /// The agent under test.
    pub agent: PathBuf,
}

/// What an act came to.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Outcome {
    /// Requests the clients made.
    pub requests: u64,
    /// Of them answered 200.
    pub answered: u64,
    /// Of them answered 502.
    pub errors_502: u64,
    /// Connections the application hosts took (growth of PassiveOpens).
    pub new_connections: u64,
    /// Growth of ListenOverflows on the application hosts, as the lab read it itself.
    pub kernel_listen_overflows: u64,
    /// Accept-queue overflows the agent attributed to the applications' listeners.
    pub attributed_drops: u64,
    /// "upstream server temporarily disabled" lines, as the lab counted them itself.
    pub markings: u64,
    /// Markings the agent joined with one of the applications' listeners.
    pub markings_joined: u64,
    /// Markings by the cause the agent gave.
    pub causes: BTreeMap<String, u64>,
    /// The rung of each signal.
    pub rungs: BTreeMap<String, String>,
    /// Each application host by itself.
    pub apps: Vec<AppOutcome>,
    /// The agent's words on one marking.
    pub example: Option<String>,
}

/// One application host.
#[derive(Clone, Debug, Default, Serialize)]
pub struct AppOutcome {
    /// Its namespace.
    pub netns: String,
    /// Growth of ListenOverflows.
    pub kernel_listen_overflows: u64,
    /// Overflows the agent attributed to its listener.
    pub attributed_drops: u64,
    /// The listener as the agent names it.
    pub listener: Option<String>,
    /// The process behind it.
    pub owner: Option<String>,
    /// Limit in connections, if the listener was found.
    pub queue_limit: Option<u32>,
}

/// Plays an act.
pub fn play(setting: &Setting) -> Result<Outcome> {
    let label = format!("{}-{}", std::process::id(), setting.name);
    let directory = std::env::temp_dir().join(format!("fmlab-{label}"));
    fs::create_dir_all(&directory).context("making a folder for nginx")?;
    let played = play_in(setting, &label, &directory);
    let _ = fs::remove_dir_all(&directory);
    played
}

fn play_in(setting: &Setting, label: &str, directory: &Path) -> Result<Outcome> {
    let topology = Topology::new(label)?;
    let mut running = Vec::new();
    for (namespace, _) in &topology.apps {
        if let Some(somaxconn) = setting.somaxconn {
            raise_somaxconn(namespace, somaxconn)?;
        }
        running.push(App::start(namespace, &setting.app, setting.backlog)?);
    }
    let upstreams: Vec<SocketAddrV4> =
        topology.apps.iter().map(|(_, addr)| SocketAddrV4::new(*addr, app::PORT)).collect();
    let nginx = Nginx::start(&topology.proxy, directory, &upstreams, setting.tuning)?;
    let agent = Agent::start(&setting.agent, Some(&nginx.error_log), &topology.names())?;
    let before = counters(&topology)?;
    let seen = load(&topology, setting)?;
    // The last line of the log.
    thread::sleep(Duration::from_secs(3));
    topology.disconnect()?;
    // The last sample, after which the kernel's counters stand still.
    thread::sleep(Duration::from_secs(2));
    let report: Report = agent.finish()?;
    let grown: Vec<(u64, u64)> = counters(&topology)?
        .iter()
        .zip(&before)
        .map(|(now, before)| (now.0 - before.0, now.1 - before.1))
        .collect();
    let log = fs::read(&nginx.error_log).context("reading nginx's error log")?;
    drop((running, nginx));
    Ok(add_up(&topology, &seen, &grown, &report, &log))
}

/// Lets the listeners of a namespace have queues of that length, from their next `listen(2)` on.
pub fn raise_somaxconn(namespace: &Namespace, somaxconn: u32) -> Result<()> {
    let value = somaxconn.to_string();
    let written = namespace.inside(|| fs::write("/proc/sys/net/core/somaxconn", &value))?;
    written.context("raising somaxconn")
}

/// ListenOverflows and PassiveOpens of each application host.
fn counters(topology: &Topology) -> Result<Vec<(u64, u64)>> {
    let read = topology.apps.iter().map(|(namespace, _)| namespace.counters());
    read.map(|counts| counts.map(|c| (c[Counter::ListenOverflows], c[Counter::PassiveOpens])))
        .collect()
}

fn load(topology: &Topology, setting: &Setting) -> Result<Seen> {
    let seconds = setting.duration.as_secs().to_string();
    let output = topology
        .proxy
        .command("/proc/self/exe")?
        .args(["load", &setting.clients.to_string(), &seconds])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("starting the load")?;
    if !output.status.success() {
        bail!("the load ended with {}", output.status);
    }
    serde_json::from_slice(&output.stdout).context("reading what the clients saw")
}

fn add_up(
    topology: &Topology,
    seen: &Seen,
    grown: &[(u64, u64)],
    report: &Report,
    log: &[u8],
) -> Outcome {
    let status = |status| seen.statuses.get(&status).copied().unwrap_or(0);
    let apps: Vec<AppOutcome> = topology
        .apps
        .iter()
        .zip(grown)
        .map(|((namespace, _), (overflows, _))| app_outcome(namespace.name(), *overflows, report))
        .collect();
    let is_marking =
        |verdict: &&Arc<Verdict>| matches!(verdict.event.kind, EventKind::PeerMarked { .. });
    let newest_marking = report.proxy.verdicts.iter().rfind(is_marking);
    Outcome {
        requests: seen.requests,
        answered: status(200),
        errors_502: status(502),
        new_connections: grown.iter().map(|(_, opens)| opens).sum(),
        kernel_listen_overflows: grown.iter().map(|(overflows, _)| overflows).sum(),
        attributed_drops: apps.iter().map(|app| app.attributed_drops).sum(),
        markings: count(log, b"upstream server temporarily disabled"),
        markings_joined: report.proxy.markings_joined,
        causes: report.proxy.causes.clone(),
        rungs: report.rungs.clone(),
        apps,
        example: newest_marking.map(|verdict| {
            format!(
                "{} marked as down: {} ({} confidence), {}",
                verdict.event.upstream,
                verdict.cause.name(),
                verdict.confidence.name(),
                verdict.because
            )
        }),
    }
}

fn app_outcome(netns: &str, overflows: u64, report: &Report) -> AppOutcome {
    let own = || report.listeners.iter().filter(|report| report.listener.netns_name == netns);
    let worst = own().max_by_key(|report| report.tally.overflows());
    let owner = worst.and_then(|report| report.listener.owners.first());
    AppOutcome {
        netns: netns.to_owned(),
        kernel_listen_overflows: overflows,
        attributed_drops: own().map(|report| report.tally.overflows()).sum(),
        listener: worst.map(|report| report.listener.id.addr.to_string()),
        owner: owner.map(|owner| format!("{} (pid {})", owner.command, owner.pid)),
        queue_limit: worst.map(|report| report.listener.queue.limit),
    }
}

fn count(haystack: &[u8], needle: &[u8]) -> u64 {
    haystack.windows(needle.len()).filter(|window| *window == needle).count() as u64
}
