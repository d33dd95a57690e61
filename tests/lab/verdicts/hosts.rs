//! The proxies' host and the applications' hosts, as network namespaces, with what each home of a
//! case wants.

use std::{
    fs, io,
    net::{Ipv4Addr, SocketAddrV4, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use std::io::{BufRead, BufReader, Write};

use anyhow::{Context, Result, ensure};
use socket2::{Domain, Socket, Type};

use super::case::{Case, Home};
use crate::topology::{Namespace, ip};

/// A hardware address that nobody has.
const NOBODY: &str = "02:00:00:00:00:99";
/// The ephemeral ports of the proxies' host: few enough to be used up.
const PORTS: &str = "40000 40399";
const HOMES: [Home; 7] = [
    Home::Plain,
    Home::NoCookies,
    Home::Aborting,
    Home::SynsLost,
    Home::SynAcksLost,
    Home::RejectingHost,
    Home::RejectingAdmin,
];

pub struct Hosts {
    /// Where the proxies live.
    pub proxy: Namespace,
    apps: Vec<Namespace>,
    docker_proxy: PathBuf,
}

/// What keeps a case's fault up; it ends with the value.
pub struct Fault {
    processes: Vec<Child>,
    _fillers: Vec<TcpStream>,
    _pending: Vec<Socket>,
}

impl Hosts {
    /// Makes them. `docker_proxy` is its program.
    pub fn new(label: &str, docker_proxy: &Path) -> Result<Self> {
        let proxy = Namespace::new(format!("fmlab-{label}-proxy"))?;
        let mut apps = Vec::new();
        for (number, home) in (1_u8..).zip(HOMES) {
            let app = Namespace::new(format!("fmlab-{label}-app{number}"))?;
            let link = format!("app{number}");
            let (of, to) = (proxy.name(), app.name());
            ip(&[
                "-n", of, "link", "add", &link, "type", "veth", "peer", "name", "eth0", "netns", to,
            ])?;
            // The second address of the proxies' host is one that the application cannot answer.
            for (namespace, device, hosts) in [(of, link.as_str(), [1, 9]), (to, "eth0", [2, 3])] {
                for host in hosts {
                    let addr = format!("10.79.{number}.{host}/24");
                    ip(&["-n", namespace, "addr", "add", &addr, "dev", device])?;
                }
                ip(&["-n", namespace, "link", "set", device, "up"])?;
            }
            let lose = |namespace: &str, device: &str, host: u8| {
                let addr = format!("10.79.{number}.{host}");
                let forever = ["lladdr", NOBODY, "nud", "permanent", "dev", device];
                let command = [&["-n", namespace, "neigh", "replace", &addr], &forever[..]];
                ip(&command.concat())
            };
            lose(to, "eth0", 9)?;
            match home {
                Home::NoCookies => set(&app, "tcp_syncookies", "0")?,
                Home::Aborting => set(&app, "tcp_abort_on_overflow", "1")?,
                Home::SynsLost => {
                    lose(of, &link, 2)?;
                    lose(of, &link, 3)?;
                    lose(of, &link, 77)?;
                    lose(of, &link, 78)?;
                }
                Home::SynAcksLost => lose(to, "eth0", 1)?,
                Home::RejectingHost => reject(&app, "host-unreachable")?,
                Home::RejectingAdmin => reject(&app, "admin-prohibited")?,
                _ => {}
            }
            apps.push(app);
        }
        ip(&["-n", proxy.name(), "route", "add", "unreachable", "10.80.0.0/16"])?;
        serve(&proxy)?;
        set(&proxy, "ip_local_port_range", PORTS)?;
        Ok(Self { proxy, apps, docker_proxy: docker_proxy.to_owned() })
    }

    /// The names of all of them.
    pub fn names(&self) -> Vec<&str> {
        std::iter::once(&self.proxy).chain(&self.apps).map(Namespace::name).collect()
    }

    /// The two addresses by which the proxies know a case's application.
    pub fn addresses(home: Home) -> [Ipv4Addr; 2] {
        let number = HOMES.iter().position(|other| *other == home).map(|index| index as u8 + 1);
        let lost = HOMES.iter().position(|other| *other == Home::SynsLost).unwrap_or(0) as u8 + 1;
        match (number, home) {
            (Some(number), _) => [2, 3].map(|host| Ipv4Addr::new(10, 79, number, host)),
            // The proxies' own host.
            (None, Home::Published) => [1, 2].map(|host| Ipv4Addr::new(127, 0, 0, host)),
            (None, Home::Service) => [2, 3].map(|host| Ipv4Addr::new(10, 96, 0, host)),
            (None, Home::Unreachable) => [2, 3].map(|host| Ipv4Addr::new(10, 80, 0, host)),
            (None, Home::NoRoute) => [2, 3].map(|host| Ipv4Addr::new(10, 81, 0, host)),
            (None, Home::Dead) => [77, 78].map(|host| Ipv4Addr::new(10, 79, 1, host)),
            // On the link that loses all, at addresses that nobody has.
            (None, _) => [77, 78].map(|host| Ipv4Addr::new(10, 79, lost, host)),
        }
    }

    /// Starts the application of a case on `port`, and whatever fills its queues.
    pub fn start(&self, case: &Case, port: u16) -> Result<Fault> {
        let (processes, _fillers, _pending) = Default::default();
        let mut fault = Fault { processes, _fillers, _pending };
        let host = match case.home {
            Home::Service | Home::Published => Home::Plain,
            own => own,
        };
        let (Some(mode), Some(home)) = (case.mode, HOMES.iter().position(|h| *h == host)) else {
            return Ok(fault);
        };
        let mode = clap::ValueEnum::to_possible_value(&mode).context("a mode has a name")?;
        let mut app = self.apps[home].command("/proc/self/exe")?;
        app.args(["behave", mode.get_name(), &port.to_string(), &case.backlog.to_string()]);
        fault.start(app, "listening")?;
        let container = SocketAddrV4::new(Self::addresses(host)[0], port);
        let addr = match case.home {
            Home::Published => container,
            _ => SocketAddrV4::new(Self::addresses(case.home)[0], port),
        };
        for _ in 0..case.fillers {
            let connect = || TcpStream::connect_timeout(&addr.into(), Duration::from_secs(2));
            let mut stream = self.proxy.inside(connect)?.context("filling an accept queue")?;
            // Data is what counts where the kernel waits for it.
            stream.write_all(b"x").context("filling an accept queue")?;
            fault._fillers.push(stream);
        }
        for _ in 0..case.pending {
            let from = SocketAddrV4::new(Ipv4Addr::new(10, 79, home as u8 + 1, 9), 0);
            let begin = || -> Result<Socket> {
                let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
                socket.set_nonblocking(true)?;
                socket.bind(&from.into())?;
                // In progress for ever: the SYN/ACK does not arrive.
                let _ = socket.connect(&addr.into());
                Ok(socket)
            };
            fault._pending.push(self.proxy.inside(begin)?.context("filling a SYN queue")?);
        }
        if case.home == Home::Published {
            fault.start(self.docker_proxy(container)?, "0")?;
        }
        if case.exhausted {
            for addr in Self::addresses(case.home) {
                self.exhaust(SocketAddrV4::new(addr, port), &mut fault)?;
            }
        }
        Ok(fault)
    }

    /// Docker's proxy for a container, as dockerd starts it: it says on its third descriptor that it
    /// listens (moby: cmd/docker-proxy/main.go).
    fn docker_proxy(&self, container: SocketAddrV4) -> Result<Command> {
        let port = container.port().to_string();
        let mut command = self.proxy.command("/bin/sh")?;
        command.args(["-c", "exec \"$0\" \"$@\" 3>&1"]).arg(&self.docker_proxy);
        command.args(["-proto", "tcp", "-host-ip", "0.0.0.0", "-host-port", &port]);
        command.args(["-container-ip", &container.ip().to_string(), "-container-port", &port]);
        Ok(command)
    }

    /// Connects to `addr` until no port is left for it.
    fn exhaust(&self, addr: SocketAddrV4, fault: &mut Fault) -> Result<()> {
        let connect = || -> io::Result<Vec<TcpStream>> {
            let mut streams = Vec::new();
            loop {
                match TcpStream::connect(addr) {
                    Ok(stream) => streams.push(stream),
                    Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {
                        return Ok(streams);
                    }
                    Err(error) => return Err(error),
                }
            }
        };
        fault._fillers.extend(self.proxy.inside(connect)?.context("using up ports")?);
        Ok(())
    }
}

/// Gives the plain host's addresses second ones, which the proxies' host translates as kube-proxy
/// does.
fn serve(proxy: &Namespace) -> Result<()> {
    ip(&["-n", proxy.name(), "route", "add", "10.96.0.0/16", "via", "10.79.1.2"])?;
    let rules = "table ip lab {
        chain output {
            type nat hook output priority -100;
            ip daddr 10.96.0.2 dnat to 10.79.1.2
            ip daddr 10.96.0.3 dnat to 10.79.1.3
        }
    }";
    nft(proxy, rules)
}

/// Has a host answer every SYN by an ICMP message.
fn reject(host: &Namespace, message: &str) -> Result<()> {
    nft(
        host,
        &format!(
            "table ip lab {{
                chain input {{
                    type filter hook input priority 0
                    iif != lo tcp flags syn reject with icmp type {message}
                }}
            }}"
        ),
    )
}

fn nft(host: &Namespace, rules: &str) -> Result<()> {
    let status = host.command("/usr/sbin/nft")?.arg(rules).status();
    let status = status.context("running nft (package nftables)")?;
    ensure!(status.success(), "nft does not take {rules}");
    Ok(())
}

impl Fault {
    /// Starts a program that says `ready` when it listens.
    fn start(&mut self, mut command: Command, ready: &str) -> Result<()> {
        let shown = format!("{command:?}");
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
        let mut child = child.with_context(|| format!("starting {shown}"))?;
        let stdout = child.stdout.take().context("its output")?;
        self.processes.push(child);
        let mut said = String::new();
        BufReader::new(stdout).read_line(&mut said)?;
        ensure!(said.trim() == ready, "{shown} does not listen: {said}");
        Ok(())
    }
}

impl Drop for Fault {
    fn drop(&mut self) {
        for process in &mut self.processes {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

fn set(namespace: &Namespace, name: &str, value: &str) -> Result<()> {
    let path = format!("/proc/sys/net/ipv4/{name}");
    namespace.inside(|| fs::write(&path, value))?.with_context(|| format!("setting {name}"))
}
