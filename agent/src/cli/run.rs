//! `floodmark run`: the agent.

use std::{
    env,
    net::SocketAddr,
    path::PathBuf,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result};
use clap::{ArgMatches, Args};
use log::{info, warn};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
};

use super::{
    HEALTHY, ProxyArgs, diagnose::duration, lines::Lines, outlets::OutletArgs, output::say,
    record::SOCKET, reload, service,
};
use crate::{
    agent::{Agent, AgentConfig, LISTENERS_EXPORTED, NAMESPACES_EXPORTED},
    capabilities, essential,
    export::{self, Web, WebConfig, parse_host},
    inventory::Limits,
    printable::json,
    record::{self, Bounds, Header, Hindsight, Recorder},
    system_calls,
    time::UnixMs,
    verdict::Verdict,
};

/// Memory for hindsight. Ten minutes of a busy host take a tenth.
const HINDSIGHT_MEMORY: usize = 32 << 20;

/// Arguments of `floodmark run`. Each has its key in the configuration file and its environment
/// variable by its name, see [`settings`](super::settings).
#[derive(Debug, Args)]
#[command(after_help = "Each option may also stand in FILE, by its name, and be given as an \
                        environment variable: FLOODMARK_LISTEN for --listen (lists with commas). \
                        An option counts more than the environment, the environment more than FILE. \
                        SIGHUP has FILE read again.")]
pub(super) struct RunArgs {
    /// Configuration file, in TOML; without, /etc/floodmark/floodmark.toml where that is there
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Address to serve metrics on
    #[arg(long, default_value = "127.0.0.1:9435", value_name = "ADDR:PORT")]
    listen: SocketAddr,
    /// File with certificates and users for those who scrape, in the format of Prometheus's exporters
    #[arg(long, alias = "web.config.file", value_name = "FILE")]
    web_config_file: Option<PathBuf>,
    /// Also answer requests for this host name while listening on loopback (repeatable). Default: only
    /// requests for localhost and loopback addresses, so that no web page can read what is served
    #[arg(long = "allowed-host", value_name = "NAME", value_parser = parse_host)]
    allowed_hosts: Vec<String>,
    /// Write each verdict as a line of JSON to standard output
    #[arg(long)]
    verdicts: bool,
    /// Tell no memory, no route, policy, port inheritance and SYNs to a broadcast address apart from
    /// the first drop on; without, once one of them was dropped. Costs six programs more for each
    /// connection
    #[arg(long)]
    watch_causes: bool,
    /// Export at most so many listeners, those in trouble and the busiest first
    #[arg(long, default_value_t = LISTENERS_EXPORTED, value_name = "N")]
    listeners: usize,
    /// Export at most N network namespaces, those first that lost something
    #[arg(long, default_value_t = NAMESPACES_EXPORTED, value_name = "N")]
    netns_exported: usize,
    /// Keep at most N listeners of either kind, TCP and Unix, in the inventory: those in trouble first,
    /// then an equal share of each network namespace's
    #[arg(long, default_value_t = Limits::default().listeners, value_name = "N")]
    inventory_listeners: usize,
    /// Look into at most N network namespaces: those first that are known, then those with a name
    #[arg(long, default_value_t = Limits::default().namespaces, value_name = "N")]
    inventory_netns: usize,
    /// Have high-water marks of queues, time in queue and connections by peer, by programs that run
    /// for every connection; without, queue lengths are looked at each second
    #[arg(long)]
    watch_connections: bool,
    /// Have time in queue and refused Unix connects even where neither fentry nor kprobes are
    /// allowed, at the price of making every system call of the host take longer
    #[arg(long)]
    trace_system_calls: bool,
    /// Look only into this network namespace, by its name under /run/netns; without, into all
    /// (repeatable)
    #[arg(long = "netns", value_name = "NAME")]
    namespaces: Vec<String>,
    /// Keep what was seen in the last minutes in memory, 32 MiB at most, to be taken over by
    /// `floodmark record --from-agent`; 0: keep nothing
    #[arg(long, default_value = "10m", value_name = "DURATION", value_parser = hindsight)]
    hindsight: Duration,
    /// Unix socket at which it is to be had, by the agent's own user only
    #[arg(long, default_value = SOCKET, value_name = "PATH")]
    socket: PathBuf,
    /// Do not restrict the agent to the system calls that it needs after its start, where the platform
    /// does not allow a filter or refuses what the agent needs
    #[arg(long)]
    no_seccomp: bool,
    #[command(flatten)]
    proxy: ProxyArgs,
    #[command(flatten)]
    outlets: OutletArgs,
}

impl RunArgs {
    /// What the agent is asked to do.
    pub(super) fn agent(&self) -> Result<AgentConfig> {
        let config = self.proxy.config()?;
        // systemd names the directory that it made for the unit.
        let of_unit = || env::var_os("STATE_DIRECTORY").map(PathBuf::from);
        Ok(AgentConfig {
            state_directory: config.state_directory.clone().or_else(of_unit),
            watch_causes: self.watch_causes,
            namespaces: self.namespaces.clone(),
            listeners_exported: self.listeners,
            namespaces_exported: self.netns_exported,
            limits: Limits {
                listeners: self.inventory_listeners,
                namespaces: self.inventory_netns,
            },
            trace_system_calls: self.trace_system_calls,
            watch_connections: self.watch_connections,
            ..config
        })
    }

    /// Whether each verdict is to be written.
    pub(super) fn verdicts(&self) -> bool {
        self.verdicts
    }

    /// Looks at what no option shows by itself.
    ///
    /// # Errors
    ///
    /// When options do not go together, or a file that they name is wrong.
    pub(super) fn check(&self) -> Result<()> {
        self.web()?;
        self.outlets.check()?;
        self.agent().map(drop)
    }

    /// Certificates and users.
    pub(super) fn web(&self) -> Result<WebConfig> {
        self.web_config_file.as_deref().map_or_else(|| Ok(WebConfig::default()), WebConfig::read)
    }
}

/// Runs until SIGINT or SIGTERM; `matches` is what `args` was made of.
pub(super) async fn run(args: RunArgs, matches: ArgMatches) -> Result<ExitCode> {
    let stop = stop_signal()?;
    let hangups = signal(SignalKind::hangup()).context("catching SIGHUP")?;
    let (snapshots, latest) = watch::channel(None);
    let web = args.web()?;
    let scheme = if web.is_tls() { "https" } else { "http" };
    let web = Web::new(web, args.allowed_hosts.clone());
    // Before the kernel is touched: a port in use should cost nothing.
    let listener = export::bind(args.listen).await?;
    let mut agent = Agent::start(&args.agent()?)?;
    if !args.hindsight.is_zero() {
        keep(&mut agent, &args);
    }
    let outlets = args.outlets.open(&mut agent).await?;
    say(&format!("floodmark {} serves {scheme}://{}/", env!("CARGO_PKG_VERSION"), args.listen));
    for standing in agent.standings() {
        say(&format!("  {:<20}{}", standing.signal.name(), standing.rung));
    }
    for need in capabilities::missing()? {
        say(&format!("  without {}: no {}", need.capability, need.lost));
    }
    let (stopping, stopped) = watch::channel(false);
    essential::helper("the service's status", service::keep_told(latest.clone()));
    let server = export::serve(listener, latest, web.clone(), stopped);
    let server = essential::task("the HTTP server", server);
    let verdicts = Arc::new(AtomicBool::new(args.verdicts));
    let (changes, changed) = mpsc::channel(1);
    let reloading = reload::at_hangups(hangups, matches, changes, web, Arc::clone(&verdicts));
    essential::helper("reloading", reloading);
    let lines = Lines::to(std::io::stdout())?;
    let print = |verdict: &Verdict| {
        info!(
            "{} {}: {} ({}), {}",
            verdict.event.kind.name(),
            verdict.event.upstream,
            verdict.cause.name(),
            verdict.confidence.name(),
            verdict.because
        );
        if verdicts.load(Ordering::Relaxed)
            && let Ok(line) = json(verdict)
        {
            lines.write(line);
        }
    };
    if args.no_seccomp {
        info!("system calls are not restricted");
    } else if let Err(error) = system_calls::restrict() {
        warn!("system calls are not restricted: {error:#}; --no-seccomp says that this is meant");
    }
    let snapshots = Arc::new(snapshots);
    let mut failure = None;
    let stop = async {
        tokio::select! {
            () = stop => {}
            error = essential::ended() => failure = Some(error),
        }
    };
    let outcome = agent.run(&snapshots, stop, changed, print).await;
    lines.finish();
    service::stopping();
    outlets.flush().await;
    stopping.send_replace(true);
    server.finish().await?;
    outcome?;
    if let Some(error) = failure {
        return Err(error);
    }
    Ok(ExitCode::from(HEALTHY))
}

/// Has the last minutes kept, and answers whoever asks for them. An agent without a socket still
/// does all the rest.
fn keep(agent: &mut Agent, args: &RunArgs) {
    let bounds = Bounds { period: args.hindsight, bytes: HINDSIGHT_MEMORY };
    let hindsight = Hindsight::new(Header::here(UnixMs::now(), false), bounds);
    match record::serve(&args.socket, hindsight.clone()) {
        Ok(answering) => {
            agent.record(Recorder::new(Box::new(hindsight), None));
            essential::helper("the hindsight socket", answering);
        }
        Err(error) => warn!("no hindsight: {error:#}"),
    }
}

fn hindsight(text: &str) -> Result<Duration> {
    if text == "0" { Ok(Duration::ZERO) } else { duration(text) }
}

/// Completes at SIGINT or SIGTERM. Takes the signals over at once, so that none is lost while the
/// agent attaches.
pub(super) fn stop_signal() -> Result<impl Future<Output = ()>> {
    let mut interrupt = signal(SignalKind::interrupt()).context("catching SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("catching SIGTERM")?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}
