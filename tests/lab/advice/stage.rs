//! Where a case is played: a proxy's host with nginx, an application's host, and the load.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use floodmark::kernel::Counter;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use socket2::{Domain, Socket, Type};

use super::{
    case::{Case, Load},
    obstacle::Obstacle,
};
use crate::{
    nginx::{self, ADDR, NGINX},
    topology::{Namespace, Topology, ip},
    verdicts::behave::Mode,
};

/// Port of the application.
pub const PORT: u16 = 8000;
/// An address of the proxy's host that the application cannot answer.
const UNANSWERED: Ipv4Addr = Ipv4Addr::new(10, 77, 1, 9);
/// A hardware address that nobody has.
pub const NOBODY: &str = "02:00:00:00:00:99";
/// Until what was dropped has come again, and again.
const AFTERMATH: Duration = Duration::from_millis(4500);
/// Longer than nginx waits for anything here.
const PATIENCE: Duration = Duration::from_secs(15);

/// The hosts, and what runs on them.
pub struct Stage {
    topology: Topology,
    obstacle: Option<Obstacle>,
    directory: PathBuf,
    app: Option<Child>,
    nginx: Option<Child>,
}

impl Stage {
    /// Sets the hosts up for a case; nothing runs yet.
    pub fn new(case: &Case, label: &str) -> Result<Self> {
        let topology = Topology::new(label)?;
        let (proxy, app) = (topology.proxy.name(), topology.apps[0].0.name());
        let also = format!("{UNANSWERED}/30");
        ip(&["-n", proxy, "addr", "add", &also, "dev", "app1"])?;
        let host = UNANSWERED.to_string();
        ip(&["-n", app, "route", "add", &host, "dev", "eth0"])?;
        ip(&[
            "-n",
            app,
            "neigh",
            "replace",
            &host,
            "lladdr",
            NOBODY,
            "nud",
            "permanent",
            "dev",
            "eth0",
        ])?;
        for (namespace, settings) in
            [(&topology.apps[0].0, case.app_settings), (&topology.proxy, case.proxy_settings)]
        {
            settings.iter().try_for_each(|(name, value)| set(namespace, name, value))?;
        }
        if let Some(obstacle) = case.obstacle {
            obstacle.put_up(&topology)?;
        }
        let directory = std::env::temp_dir().join(format!("fmlab-{label}"));
        fs::create_dir_all(&directory).context("making a folder for nginx")?;
        fs::write(directory.join("error.log"), "").context("making nginx's error log")?;
        Ok(Self { topology, obstacle: case.obstacle, directory, app: None, nginx: None })
    }

    /// nginx's error log.
    pub fn error_log(&self) -> PathBuf {
        self.directory.join("error.log")
    }

    /// The names of its hosts.
    pub fn namespaces(&self) -> Vec<&str> {
        self.topology.names()
    }

    /// The application's address as the proxy knows it.
    pub fn app_addr(&self) -> SocketAddrV4 {
        let elsewhere = self.obstacle.and_then(Obstacle::address);
        SocketAddrV4::new(elsewhere.unwrap_or(self.topology.apps[0].1), PORT)
    }

    /// Takes away what stands between the hosts.
    pub fn take_away(&self, obstacle: Obstacle) -> Result<()> {
        obstacle.take_away(&self.topology)
    }

    /// Starts the application in place of the one that runs.
    pub fn start_app(&mut self, mode: Mode, backlog: u32) -> Result<()> {
        end(self.app.take());
        let mode = mode.to_possible_value().context("a mode has a name")?;
        let mut app = self.topology.apps[0]
            .0
            .command("/proc/self/exe")?
            .args(["behave", mode.get_name(), &PORT.to_string(), &backlog.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting the application")?;
        let mut said = String::new();
        BufReader::new(app.stdout.take().context("its output")?).read_line(&mut said)?;
        self.app = Some(app);
        if said.trim() != "listening" {
            bail!("the application does not listen");
        }
        Ok(())
    }

    /// Starts the application of the lab's demo, which keeps connections open.
    pub fn start_keeping_app(&mut self) -> Result<()> {
        let app = self.topology.apps[0]
            .0
            .command("/proc/self/exe")?
            .args(["app", &PORT.to_string(), "4096"])
            .stdin(Stdio::null())
            .spawn()
            .context("starting the application")?;
        self.app = Some(app);
        self.reach(self.app_addr()).context("waiting for the application")
    }

    /// Starts nginx in place of the one that runs, with these lines in its server and its upstream.
    pub fn start_nginx(&mut self, max_conns: u32, upstream: &str, location: &str) -> Result<()> {
        end(self.nginx.take());
        fs::write(self.error_log(), "").context("making nginx's error log")?;
        let text = configuration(self.app_addr(), max_conns, upstream, location);
        fs::write(self.directory.join("nginx.conf"), text).context("writing nginx.conf")?;
        let nginx = nginx::spawn(self.topology.proxy.command(NGINX)?, &self.directory)?;
        self.nginx = Some(nginx);
        self.reach(ADDR).with_context(|| format!("see {}", self.directory.display()))
    }

    /// Waits until somebody listens there for the proxy's host.
    fn reach(&self, addr: SocketAddrV4) -> Result<()> {
        for _ in 0..100 {
            let reach = || TcpStream::connect(SocketAddr::from(addr)).is_ok();
            if self.topology.proxy.inside(reach)? {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(50));
        }
        bail!("nobody listens at {addr}")
    }

    /// Opens connections to the application and leaves them.
    pub fn fill(&self, count: usize) -> Result<Vec<Socket>> {
        let to = self.app_addr();
        self.topology.proxy.inside(|| connects(count, None, to))?
    }

    /// Brings the fault out, and tells how many it harmed: handshakes that the kernel says it dropped,
    /// or requests not answered 200.
    pub fn load(&self, load: Load) -> Result<u64> {
        if let Load::Requests(count) = load {
            return self.requests(count);
        }
        let before = self.counter(Counter::ListenDrops)?;
        let to = self.app_addr();
        let held = self.topology.proxy.inside(|| bring_out(load, to))??;
        thread::sleep(AFTERMATH);
        drop(held);
        Ok(self.counter(Counter::ListenDrops)? - before)
    }

    /// One of the kernel's own counters of the application's host.
    pub fn counter(&self, counter: Counter) -> Result<u64> {
        Ok(self.topology.apps[0].0.counters()?[counter])
    }

    /// Sends requests at once through nginx; how many were not answered 200.
    pub fn requests(&self, count: usize) -> Result<u64> {
        self.topology.proxy.inside(|| -> Result<u64> {
            let mut clients = Vec::new();
            for number in 0..count {
                // An address of its own each: ports may be what there is little of.
                let from = Ipv4Addr::new(127, 0, 1, 1 + number as u8);
                let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
                socket.bind(&SocketAddrV4::new(from, 0).into()).context("binding a client")?;
                socket.connect(&ADDR.into()).context("reaching nginx")?;
                let mut client = TcpStream::from(socket);
                client.set_read_timeout(Some(PATIENCE))?;
                client.write_all(b"GET / HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n\r\n")?;
                clients.push(client);
            }
            let mut failed = 0;
            for mut client in clients {
                let mut answer = Vec::new();
                let _ = client.read_to_end(&mut answer);
                failed += u64::from(!answer.starts_with(b"HTTP/1.1 200"));
            }
            Ok(failed)
        })?
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        end(self.nginx.take());
        end(self.app.take());
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn end(child: Option<Child>) {
    let Some(mut child) = child else { return };
    let _ = kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM);
    let _ = child.wait();
}

/// Opens connections from where it is called, and keeps them.
fn bring_out(load: Load, to: SocketAddrV4) -> Result<Vec<Socket>> {
    match load {
        Load::Burst(count) => connects(count, None, to),
        Load::Data(count) => {
            let mut held = Vec::new();
            for _ in 0..2 {
                let some = connects(count, None, to)?;
                // Until their handshakes are done.
                thread::sleep(Duration::from_millis(20));
                some.iter().for_each(|socket| drop(socket.send(b"x")));
                held.extend(some);
            }
            Ok(held)
        }
        Load::Trickle(count) => {
            let mut held = Vec::new();
            for _ in 0..count {
                held.extend(connects(1, None, to)?);
                thread::sleep(Duration::from_millis(50));
            }
            Ok(held)
        }
        Load::HalfOpen(count) => {
            let mut held = connects(count, Some(UNANSWERED), to)?;
            thread::sleep(Duration::from_millis(100));
            held.extend(connects(3, None, to)?);
            Ok(held)
        }
        Load::Requests(_) => Ok(Vec::new()),
    }
}

fn connects(count: usize, from: Option<Ipv4Addr>, to: SocketAddrV4) -> Result<Vec<Socket>> {
    let connect = |_| -> Result<Socket> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        if let Some(from) = from {
            socket.bind(&SocketAddrV4::new(from, 0).into())?;
        }
        // In progress.
        let _ = socket.connect(&to.into());
        Ok(socket)
    };
    (0..count).map(connect).collect()
}

fn set(namespace: &Namespace, name: &str, value: &str) -> Result<()> {
    let path = Path::new("/proc/sys/net").join(name);
    namespace.inside(|| fs::write(&path, value))?.with_context(|| format!("setting {name}"))
}

fn configuration(app: SocketAddrV4, max_conns: u32, upstream: &str, location: &str) -> String {
    // The second server is never tried: with one alone nginx would not mark it.
    format!(
        "daemon off; user root; pid nginx.pid; worker_processes 1; error_log error.log warn;
events {{ worker_connections 4096; }}
http {{
access_log off; client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;
uwsgi_temp_path uwsgi; scgi_temp_path scgi;
proxy_connect_timeout 2s; proxy_read_timeout 2s; proxy_next_upstream_tries 1;
upstream app {{ zone app 64k; server {app} max_fails=1 fail_timeout=1s max_conns={max_conns};
  server 127.0.0.1:1 down; {upstream} }}
server {{ listen {ADDR} backlog=4096; location / {{ proxy_pass http://app; {location} }} }}
}}
"
    )
}
