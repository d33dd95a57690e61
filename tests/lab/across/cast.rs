//! Everybody in it: two hosts, nginx, the applications, the agents, the bus and its readers, the
//! Collector.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    mem,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use floodmark::{across::Joined, verdict::Verdict};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{
    bus::{Bus, Door},
    collector::{Collector, Told},
    program::Program,
};
use crate::{
    nginx::{NGINX, spawn},
    topology::{Namespace, Topology},
};

/// What the hosts are called.
pub const PROXY_HOST: &str = "proxy-host";
pub const APP_HOST: &str = "app-host";
/// Ports of the applications, which never accept.
const PORTS: [u16; 2] = [8000, 8001];
/// Their backlog: a queue holds one connection more.
const BACKLOG: usize = 1;
/// Where nginx listens.
const PROXY: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 8080);
/// How long verdicts may take to come.
const PATIENCE: Duration = Duration::from_secs(60);

/// Everybody.
pub struct Cast {
    /// The server between them.
    pub bus: Bus,
    pub collector: Collector,
    /// The proxy host's agent.
    pub proxy: Program<Verdict>,
    /// The application host's.
    pub app: Program<Verdict>,
    pub readers: Vec<Program<Joined>>,
    nginx: Child,
    apps: Vec<Child>,
    _fillers: Vec<TcpStream>,
    topology: Topology,
    directory: PathBuf,
}

impl Cast {
    /// Starts all of them.
    pub fn start(agent: &Path, collector: &Path) -> Result<Self> {
        let label = std::process::id().to_string();
        let directory = std::env::temp_dir().join(format!("fmlab-{label}-across"));
        fs::create_dir_all(&directory).context("making a folder")?;
        let topology = Topology::new(&label)?;
        let mut bus = Bus::new(&directory, &Door::default())?;
        bus.start()?;
        let mut collector = Collector::new(collector, &directory)?;
        collector.start()?;
        let (app_netns, app_addr) = &topology.apps[0];
        let (mut apps, mut fillers) = (Vec::new(), Vec::new());
        for port in PORTS {
            apps.push(stuck(app_netns, port)?);
            let addr = SocketAddr::from((*app_addr, port));
            for _ in 0..=BACKLOG {
                let connect = || TcpStream::connect_timeout(&addr, Duration::from_secs(2));
                fillers.push(topology.proxy.inside(connect)?.context("filling an accept queue")?);
            }
        }
        let log = directory.join("error.log").display().to_string();
        let otlp = format!("http://{}", collector.addr);
        let common = ["run", "--otlp", &otlp, "--verdicts", "--hindsight", "0"];
        let of_proxy = [
            "--host-name",
            PROXY_HOST,
            "--netns",
            topology.proxy.name(),
            "--nginx-error-log",
            &log,
        ];
        let of_app = ["--host-name", APP_HOST, "--netns", app_netns.name()];
        let args = |own: &[&str]| -> Vec<String> {
            own.iter().map(|arg| (*arg).to_owned()).chain(bus.options()).collect()
        };
        let mut readers = Vec::new();
        for name in ["reader-1", "reader-2"] {
            readers.push(Program::new(agent, &args(&["correlate", "--name", name, "--json"]))?);
        }
        let proxy = Program::new(agent, &args(&[&common[..], &of_proxy].concat()))?;
        let app = Program::new(agent, &args(&[&common[..], &of_app].concat()))?;
        let nginx = nginx(&topology.proxy, &directory, *app_addr)?;
        let mut cast = Self {
            bus,
            collector,
            proxy,
            app,
            readers,
            nginx,
            apps,
            _fillers: fillers,
            topology,
            directory,
        };
        cast.proxy.start()?;
        cast.app.start()?;
        for reader in &mut cast.readers {
            reader.start()?;
        }
        cast.hosts_are_known()?;
        Ok(cast)
    }

    /// Waits until each reader knows both hosts, and each host its exchanges.
    fn hosts_are_known(&self) -> Result<()> {
        until("the hosts tell", || {
            for reader in &self.readers {
                let metrics = reader.get("/metrics")?;
                let errors = metrics.lines().filter(|line| {
                    line.starts_with("floodmark_correlate_host_clock_error_seconds{")
                        && !line.ends_with(" 1")
                });
                if errors.count() < 2 {
                    return Ok(false);
                }
            }
            Ok(true)
        })
    }

    /// Sends requests that fail at both peers, one after the other.
    pub fn fail(&self, requests: usize) -> Result<()> {
        for _ in 0..requests {
            let request = || -> Result<()> {
                let mut client = TcpStream::connect(PROXY).context("reaching nginx")?;
                write!(client, "GET / HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n\r\n")?;
                client.read_to_end(&mut Vec::new())?;
                Ok(())
            };
            self.topology.proxy.inside(request)??;
            // Until nginx would try its peers again (fail_timeout).
            thread::sleep(Duration::from_secs(2));
        }
        Ok(())
    }

    /// Waits until the readers have printed so many verdicts together.
    pub fn wait_for(&self, verdicts: usize) -> Result<()> {
        until("verdicts come", || {
            let printed = self.readers.iter().map(Program::count);
            Ok(printed.sum::<usize>() >= verdicts)
        })
    }

    /// Waits until neither agent has anything left to tell the Collector.
    pub fn wait_for_the_collector(&self) -> Result<()> {
        until("the Collector has it all", || {
            for agent in [&self.proxy, &self.app] {
                let metrics = agent.get("/metrics")?;
                if value(&metrics, "floodmark_outlet_waiting{outlet=\"otlp\"}") != Some(0.0) {
                    return Ok(false);
                }
            }
            Ok(true)
        })
    }

    /// Whatever counts a loss, of everybody.
    pub fn counters(&self) -> Result<Vec<(String, f64)>> {
        const LOSSES: [&str; 3] = [
            "floodmark_outlet_dropped_total{",
            "floodmark_correlate_host_messages_missing_total{",
            "floodmark_correlate_messages_not_taken_total{reason=\"skipped\"",
        ];
        let mut pages = vec![self.proxy.get("/metrics")?, self.app.get("/metrics")?];
        for reader in &self.readers {
            pages.push(reader.get("/metrics")?);
        }
        let lines = pages.iter().flat_map(|page| page.lines());
        let losses = lines.filter(|line| LOSSES.iter().any(|loss| line.starts_with(loss)));
        let counted = losses.filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            Some((series.to_owned(), value.parse().ok()?))
        });
        Ok(counted.collect())
    }

    /// Ends all and gives what each of them said.
    pub fn finish(mut self) -> Result<Said> {
        let mut joined = Vec::new();
        for reader in self.readers.drain(..) {
            joined.extend(reader.finish()?);
        }
        let nobody = || Program::new(Path::new(""), &[]);
        let alone = mem::replace(&mut self.proxy, nobody()?).finish()?;
        mem::replace(&mut self.app, nobody()?).finish()?;
        let told = self.collector.told()?;
        fs::remove_dir_all(&self.directory).context("cleaning up")?;
        Ok(Said { alone, joined, told })
    }
}

/// What was said in the end.
pub struct Said {
    /// By the proxy host's agent.
    pub alone: Vec<Verdict>,
    /// By the readers.
    pub joined: Vec<Joined>,
    /// To the Collector, by both agents.
    pub told: Vec<Told>,
}

impl Drop for Cast {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.nginx.id() as i32), Signal::SIGTERM);
        let _ = self.nginx.wait();
        for app in &mut self.apps {
            let _ = app.kill();
            let _ = app.wait();
        }
    }
}

/// A sample's value.
pub fn value(metrics: &str, series: &str) -> Option<f64> {
    metrics.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok())
}

fn until(what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let begun = Instant::now();
    while !holds()? {
        if begun.elapsed() > PATIENCE {
            bail!("waited in vain until {what}");
        }
        thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}

fn stuck(namespace: &Namespace, port: u16) -> Result<Child> {
    let mut app = namespace
        .command("/proc/self/exe")?
        .args(["behave", "stuck", &port.to_string(), &BACKLOG.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("starting an application")?;
    let mut said = String::new();
    BufReader::new(app.stdout.take().context("its output")?).read_line(&mut said)?;
    if said.trim() != "listening" {
        bail!("the application does not listen on port {port}");
    }
    Ok(app)
}

fn nginx(namespace: &Namespace, directory: &Path, app: Ipv4Addr) -> Result<Child> {
    let servers: String =
        PORTS.map(|port| format!("server {app}:{port} max_fails=1 fail_timeout=1s; ")).concat();
    let configuration = format!(
        "daemon off; user root; pid nginx.pid; worker_processes 1; error_log error.log warn;
events {{ worker_connections 64; }}
http {{
access_log off; client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;
uwsgi_temp_path uwsgi; scgi_temp_path scgi; proxy_connect_timeout 2s;
upstream app {{ zone app 64k; {servers}}}
server {{ listen {PROXY}; location / {{ proxy_pass http://app; }} }}
}}
"
    );
    fs::write(directory.join("nginx.conf"), configuration)?;
    fs::write(directory.join("error.log"), "")?;
    spawn(namespace.command(NGINX)?, directory)
}
