//! The whole chain for real: the incident, the agent, Prometheus with the shipped rules, Alertmanager
//! with the shipped routes, and a receiver at its end; then the mend.

mod alerts;
mod dashboards;
mod monitoring;
mod webhook;

use std::{
    ffi::OsString,
    fs::{self, File},
    net::SocketAddrV4,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use clap::Args;

use crate::{
    act::raise_somaxconn,
    app::{self, App},
    nginx::{Nginx, Tuning},
    serving::Serving,
    topology::Topology,
};
use monitoring::Monitoring;
use webhook::{Notification, Webhook};

/// Arguments of `floodmark-lab chain`.
#[derive(Debug, Args)]
pub struct ChainArgs {
    /// The agent
    #[arg(long)]
    agent: PathBuf,
    /// A Python with Tornado
    #[arg(long)]
    python: PathBuf,
    /// Where Prometheus and Alertmanager are unpacked
    #[arg(long)]
    prometheus: PathBuf,
    /// Only until the overflow's alert has ended, not until all have
    #[arg(long)]
    quick: bool,
}

const CLIENTS: usize = 800;
/// Tornado's default, and what the mended applications have.
const BACKLOG: u32 = 128;
const MENDED_BACKLOG: u32 = 4096;
/// Until an alert has to be at the receiver: a few scrapes, evaluations and Alertmanager's grouping,
/// all of which take a second, and the load, which takes some to build up.
const BOUND: Duration = Duration::from_secs(60);
/// How long the mended applications are under load before anything is asked.
const MENDED_LOAD: Duration = Duration::from_secs(10);
/// Until all have ended: what was within two minutes is still told of.
const LAST_BOUND: Duration = Duration::from_secs(240);

const OVERFLOW: &str = "FloodmarkAcceptQueueOverflow";
const NO_PEERS: &str = "FloodmarkNoLivePeers";

/// Plays it; true if every alert came in time with what it must tell, and went.
pub fn chain(args: &ChainArgs) -> Result<bool> {
    let directory = std::env::temp_dir().join(format!("fmlab-{}-chain", std::process::id()));
    fs::create_dir_all(&directory)?;
    let played = play(args, &directory);
    let _ = fs::remove_dir_all(&directory);
    played
}

fn play(args: &ChainArgs, directory: &Path) -> Result<bool> {
    let kind = app::Kind::Tornado {
        python: args.python.clone(),
        program: concat!(env!("CARGO_MANIFEST_DIR"), "/lab/tornado_app.py").into(),
    };
    let topology = Topology::new(&format!("{}-chain", std::process::id()))?;
    let start = |backlog| {
        let apps = topology.apps.iter().map(|(netns, _)| App::start(netns, &kind, backlog));
        apps.collect::<Result<Vec<App>>>()
    };
    let apps = start(BACKLOG)?;
    let upstreams: Vec<SocketAddrV4> =
        topology.apps.iter().map(|(_, addr)| SocketAddrV4::new(*addr, app::PORT)).collect();
    let tuning = Tuning { keepalive: None, connect_timeout: Some(Duration::from_secs(2)) };
    let nginx = Nginx::start(&topology.proxy, directory, &upstreams, tuning)?;
    let mut arguments: Vec<OsString> = vec![
        "--watch-connections".into(),
        "--trace-system-calls".into(),
        "--nginx-error-log".into(),
        nginx.error_log.clone().into(),
        "--socket".into(),
        directory.join("agent.sock").into(),
    ];
    // A full queue of somebody else's is not to be alerted.
    arguments.extend(topology.names().into_iter().flat_map(|name| ["--netns".into(), name.into()]));
    let agent = Serving::start(
        &args.agent,
        &arguments,
        File::create(directory.join("verdicts"))?,
        &directory.join("agent.log"),
    )?;
    let webhook = Webhook::start()?;
    let monitoring = Monitoring::start(&args.prometheus, directory, agent.addr, webhook.addr)?;
    monitoring.until_scraped()?;

    eprintln!("the incident: {CLIENTS} clients, backlog {BACKLOG}, no keepalive");
    let broken = Instant::now();
    let load = load(&topology, BOUND)?;
    let wanted: Vec<alerts::Wanted> = alerts::of_the_incident(&topology);
    let told = alerts::until_told(&webhook, &wanted, broken + BOUND);
    let panels = dashboards::query_all(&monitoring, broken + BOUND)?;
    end(load)?;

    eprintln!("the mend: backlog {MENDED_BACKLOG}, somaxconn, applications restarted");
    drop(apps);
    for (namespace, _) in &topology.apps {
        raise_somaxconn(namespace, 2 * MENDED_BACKLOG)?;
    }
    let mended = Instant::now();
    let apps = start(MENDED_BACKLOG)?;
    let load = self::load(&topology, MENDED_LOAD)?;
    thread::sleep(MENDED_LOAD);
    let mut ended = vec![alerts::until_resolved(&webhook, OVERFLOW, mended, mended + BOUND)];
    end(load)?;
    if !args.quick {
        ended.push(alerts::until_resolved(&webhook, NO_PEERS, mended, mended + LAST_BOUND));
    }
    drop((apps, nginx, agent));

    let mut holds = true;
    for notification in told.iter().filter_map(|told| told.as_ref().ok()) {
        print_told(notification, broken);
    }
    for problem in told.iter().filter_map(|told| told.as_ref().err()) {
        holds = false;
        println!("FAILED {problem}");
    }
    for outcome in ended {
        holds &= outcome.is_ok();
        println!("{}", outcome.unwrap_or_else(|problem| format!("FAILED {problem}")));
    }
    for problem in &panels.problems {
        holds = false;
        println!("FAILED {problem}");
    }
    println!("{} queries of {} panels returned data", panels.queries, panels.panels);
    let stray = webhook.all().into_iter().filter(|told| !alerts::is_expected(told));
    for notification in stray {
        holds = false;
        println!("FAILED nobody asked for {}", notification.summary());
    }
    Ok(holds)
}

fn print_told(notification: &Notification, broken: Instant) {
    let after = notification.at.duration_since(broken).as_secs_f64();
    println!("{after:.0} s after the load began, {}:", notification.label("alertname"));
    println!("  {}\n  {}\n", notification.summary(), notification.annotation("description"));
}

fn load(topology: &Topology, during: Duration) -> Result<Child> {
    topology
        .proxy
        .command("/proc/self/exe")?
        .args(["load", &CLIENTS.to_string(), &during.as_secs().to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .context("starting the load")
}

/// Its clients are not interested in their answers any longer.
fn end(mut load: Child) -> Result<()> {
    load.kill().context("ending the load")?;
    load.wait().context("waiting for the load").map(drop)
}
