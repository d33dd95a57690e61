//! Everybody in it: two hosts, nginx, the applications, the agents, the bus and its readers.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    mem,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use floodmark::{across::Joined, verdict::Verdict};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::de::DeserializeOwned;

use super::bus::{Bus, free_port, listens};
use crate::topology::{Namespace, Topology};

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

/// A program of Floodmark's, with what it prints.
pub struct Program<T> {
    path: PathBuf,
    args: Vec<String>,
    addr: SocketAddr,
    child: Option<Child>,
    /// All that it printed, through restarts.
    printed: Arc<Mutex<Vec<T>>>,
    readers: Vec<JoinHandle<()>>,
}

impl<T: DeserializeOwned + Send + 'static> Program<T> {
    fn new(path: &Path, args: &[&str]) -> Result<Self> {
        let addr = free_port()?;
        let mut args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        args.extend(["--listen".to_owned(), addr.to_string()]);
        let (child, printed, readers) = Default::default();
        Ok(Self { path: path.to_owned(), args, addr, child, printed, readers })
    }

    /// Starts it and waits until it serves.
    pub fn start(&mut self) -> Result<()> {
        let mut child = Command::new(&self.path)
            .args(&self.args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {}", self.path.display()))?;
        let stdout = BufReader::new(child.stdout.take().context("its output")?);
        let printed = Arc::clone(&self.printed);
        self.readers.push(thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                match serde_json::from_str(&line) {
                    Ok(one) => printed.lock().unwrap_or_else(PoisonError::into_inner).push(one),
                    Err(error) => eprintln!("not understood ({error}): {line}"),
                }
            }
        }));
        self.child = Some(child);
        listens(self.addr)
    }

    /// Kills it as a crash would.
    pub fn kill(&mut self) -> Result<()> {
        self.end(Signal::SIGKILL)
    }

    fn end(&mut self, signal: Signal) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            kill(Pid::from_raw(child.id() as i32), signal).context("ending a program")?;
            child.wait()?;
        }
        Ok(())
    }

    /// What it serves at `path`.
    pub fn get(&self, path: &str) -> Result<String> {
        let mut stream = TcpStream::connect(self.addr)?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }

    fn count(&self) -> usize {
        self.printed.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Interrupts it and takes all that it printed.
    fn finish(mut self) -> Result<Vec<T>> {
        self.end(Signal::SIGINT)?;
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
        Ok(mem::take(&mut self.printed.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

impl<T> Drop for Program<T> {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Everybody.
pub struct Cast {
    /// The server between them.
    pub bus: Bus,
    /// The proxy host's agent.
    pub proxy: Program<Verdict>,
    app: Program<Verdict>,
    /// Those who join.
    pub readers: Vec<Program<Joined>>,
    nginx: Child,
    apps: Vec<Child>,
    _fillers: Vec<TcpStream>,
    topology: Topology,
    directory: PathBuf,
}

impl Cast {
    /// Starts all of them.
    pub fn start(agent: &Path) -> Result<Self> {
        let label = std::process::id().to_string();
        let directory = std::env::temp_dir().join(format!("fmlab-{label}-across"));
        fs::create_dir_all(&directory).context("making a folder")?;
        let topology = Topology::new(&label)?;
        let mut bus = Bus::new(&directory)?;
        bus.start()?;
        let nats = format!("nats://{}", bus.addr);
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
        let log = directory.join("error.log");
        let log = log.to_string_lossy();
        let (proxy_netns, app_netns) = (topology.proxy.name(), app_netns.name());
        let common = ["run", "--nats", &nats, "--verdicts", "--hindsight", "0"];
        let of_proxy =
            ["--host-name", PROXY_HOST, "--netns", proxy_netns, "--nginx-error-log", &log];
        let of_app = ["--host-name", APP_HOST, "--netns", app_netns];
        let nginx = nginx(&topology.proxy, &directory, *app_addr)?;
        let mut cast = Self {
            bus,
            proxy: Program::new(agent, &[&common[..], &of_proxy].concat())?,
            app: Program::new(agent, &[&common[..], &of_app].concat())?,
            readers: Vec::new(),
            nginx,
            apps,
            _fillers: fillers,
            topology,
            directory,
        };
        for name in ["reader-1", "reader-2"] {
            let args = ["correlate", "--nats", &nats, "--name", name, "--json"];
            cast.readers.push(Program::new(agent, &args)?);
        }
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

    /// Ends all and gives what the proxy host's agent said, and what the readers did.
    pub fn finish(mut self) -> Result<(Vec<Verdict>, Vec<Joined>)> {
        let mut joined = Vec::new();
        for reader in self.readers.drain(..) {
            joined.extend(reader.finish()?);
        }
        let proxy = mem::replace(&mut self.proxy, Program::new(Path::new(""), &[])?);
        let alone = proxy.finish()?;
        fs::remove_dir_all(&self.directory).context("cleaning up")?;
        Ok((alone, joined))
    }
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
    let child = namespace
        .command("/usr/sbin/nginx")?
        .arg("-p")
        .arg(directory)
        .arg("-c")
        .arg(directory.join("nginx.conf"))
        .args(["-e", "error.log"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .context("starting nginx (package nginx-light)")?;
    Ok(child)
}
