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
#[command(after_help = "Each option is also a key in FILE and an environment variable: \
                        FLOODMARK_LISTEN for --listen (lists separated by commas). The command line \
                        overrides the environment, and the environment overrides FILE. SIGHUP \
                        reloads FILE.")]
pub(super) struct RunArgs {
    /// Read this configuration file (TOML) [default: /etc/floodmark/floodmark.toml, if it exists]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Serve metrics on this address
    #[arg(long, default_value = "127.0.0.1:9435", value_name = "ADDR:PORT")]
    listen: SocketAddr,
    /// Read certificates and users from this file, in the web configuration format of Prometheus's exporters
    #[arg(long, alias = "web.config.file", value_name = "FILE")]
    web_config_file: Option<PathBuf>,
    /// Also answer requests for this host name while listening on loopback (repeatable). Default: only
    /// localhost and loopback addresses, so that web pages cannot read the data
    #[arg(long = "allowed-host", value_name = "NAME", value_parser = parse_host)]
    allowed_hosts: Vec<String>,
    /// Write each verdict as a line of JSON to standard output
    #[arg(long)]
    verdicts: bool,
    /// Always attach the probes for rare causes (no memory, no route, policy, port inheritance, SYNs to a
    /// broadcast address). They cost six more programs for each connection. Default: attach them after the
    /// first unexplained drop
    #[arg(long)]
    watch_causes: bool,
    /// Export at most N listeners: those in trouble first, then the busiest
    #[arg(long, default_value_t = LISTENERS_EXPORTED, value_name = "N")]
    listeners: usize,
    /// Export at most N network namespaces: those with losses first
    #[arg(long, default_value_t = NAMESPACES_EXPORTED, value_name = "N")]
    netns_exported: usize,
    /// Keep at most N listeners of each kind, TCP and Unix, in the inventory: those in trouble first, then
    /// an equal share for each network namespace
    #[arg(long, default_value_t = Limits::default().listeners, value_name = "N")]
    inventory_listeners: usize,
    /// Observe at most N network namespaces: known ones first, then named ones
    #[arg(long, default_value_t = Limits::default().namespaces, value_name = "N")]
    inventory_netns: usize,
    /// Measure queues' high-water marks, time in queue and connections by peer, with programs that run for
    /// every connection. Default: read queue lengths once a second
    #[arg(long)]
    watch_connections: bool,
    /// Measure time in queue and refused Unix connects even if the kernel allows neither fentry nor
    /// kprobes. This makes every system call of the host slower
    #[arg(long)]
    trace_system_calls: bool,
    /// Observe only this network namespace, by its name under /run/netns (repeatable). Default: all
    #[arg(long = "netns", value_name = "NAME")]
    namespaces: Vec<String>,
    /// Keep a recording of the last minutes in memory, at most 32 MiB, for `floodmark record --from-agent`;
    /// 0 disables it
    #[arg(long, default_value = "10m", value_name = "DURATION", value_parser = hindsight)]
    hindsight: Duration,
    /// Serve this recording on this Unix socket, to the agent's own user only
    #[arg(long, default_value = SOCKET, value_name = "PATH")]
    socket: PathBuf,
    /// Do not install the system-call filter (seccomp) after the start. Use this only if the platform does
    /// not support the filter, or the filter denies a call that the agent needs
    #[arg(long)]
    no_seccomp: bool,
    #[command(flatten)]
    proxy: ProxyArgs,
    #[command(flatten)]
    outlets: OutletArgs,
}

impl RunArgs {
    /// The agent's configuration.
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

    /// Whether to write each verdict.
    pub(super) fn verdicts(&self) -> bool {
        self.verdicts
    }

    /// Checks what clap cannot: options that exclude each other, and the files that they name.
    ///
    /// # Errors
    ///
    /// When options contradict each other, or a file that they name is wrong.
    pub(super) fn check(&self) -> Result<()> {
        self.web()?;
        self.outlets.check()?;
        self.agent().map(drop)
    }

    /// The certificates and users of `--web-config-file`.
    pub(super) fn web(&self) -> Result<WebConfig> {
        self.web_config_file.as_deref().map_or_else(|| Ok(WebConfig::default()), WebConfig::read)
    }
}

/// Runs until SIGINT or SIGTERM; `args` was made from `matches`.
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
        say(&format!("  {} is missing; unavailable: {}", need.capability, need.lost));
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
        info!("the system-call filter is disabled");
    } else if let Err(error) = system_calls::restrict() {
        warn!("cannot install the system-call filter: {error:#}; --no-seccomp disables it");
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

/// Keeps the last minutes and serves them. If the socket cannot be opened, the agent works without.
fn keep(agent: &mut Agent, args: &RunArgs) {
    let bounds = Bounds { period: args.hindsight, bytes: HINDSIGHT_MEMORY };
    let hindsight = Hindsight::new(Header::here(UnixMs::now(), false), bounds);
    match record::serve(&args.socket, hindsight.clone()) {
        Ok(answering) => {
            agent.record(Recorder::new(Box::new(hindsight), None));
            essential::helper("the hindsight socket", answering);
        }
        Err(error) => warn!("hindsight is disabled: {error:#}"),
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
