//! All that goes on around the agent, each in a thread of its own.

use std::{
    fs::{self, File},
    io::Write,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream},
    path::Path,
    process::Stdio,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, Scope},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use nix::{
    sched::{CloneFlags, setns},
    sys::signal::Signal,
};
use socket2::{Domain, Socket, Type};

use super::scrapers;
use crate::{
    nginx::{Nginx, Tuning},
    serving::Serving,
    topology::{Namespace, Topology},
};

/// Clients of the proxy.
const CLIENTS: usize = 40;
/// Connects to each listener that comes and goes; its queue takes two.
const CONNECTS: usize = 6;
/// How long a listener lives.
const LISTENER_LIFE: Duration = Duration::from_millis(300);
/// How long a namespace lives: twenty a minute, as containers come and go on a busy host.
const NAMESPACE_LIFE: Duration = Duration::from_secs(3);

/// How often what happened.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Listeners that came, overflowed and went.
    pub listeners: u64,
    /// Namespaces likewise.
    pub namespaces: u64,
    /// Rotations of the proxy's log.
    pub rotations: u64,
    /// Starts of the proxy.
    pub proxies: u64,
    /// SIGHUPs.
    pub reloads: u64,
    /// Times the disk was filled up.
    pub disks: u64,
    /// Scrapes of crowds.
    pub scrapes: u64,
    /// Those of them that were answered.
    pub answered: u64,
    /// Scrapers that hung.
    pub hanging: u64,
}

/// Everything that goes on, until it is told to stop.
pub struct Turmoil<'a> {
    pub topology: &'a Topology,
    pub directory: &'a Path,
    pub disk: &'a Path,
    pub upstreams: &'a [SocketAddrV4],
    pub agent: &'a Serving,
    is_over: AtomicBool,
    tally: Mutex<Tally>,
}

impl<'a> Turmoil<'a> {
    /// Around this agent; nothing goes on yet.
    pub fn new(
        topology: &'a Topology,
        (directory, disk): (&'a Path, &'a Path),
        upstreams: &'a [SocketAddrV4],
        agent: &'a Serving,
    ) -> Self {
        let (is_over, tally) = (AtomicBool::new(false), Mutex::default());
        Self { topology, directory, disk, upstreams, agent, is_over, tally }
    }

    /// Lets everything begin, at a pace that leaves the machine to others.
    pub fn begin<'s>(&'s self, scope: &'s Scope<'s, '_>) {
        let again = |pause: u64, what: fn(&Self) -> Result<()>| {
            scope.spawn(move || {
                while !self.is_over() {
                    if let Err(error) = what(self) {
                        eprintln!("the soak itself: {error:#}");
                    }
                    self.pause(Duration::from_secs(pause));
                }
            });
        };
        again(4, Self::listeners);
        again(0, Self::namespace);
        again(0, Self::proxy);
        again(2, Self::load);
        again(10, Self::reload);
        again(30, Self::full_disk);
        again(15, Self::crowd);
        again(5, Self::hanging);
    }

    /// Lets everything end.
    pub fn stop(&self) {
        self.is_over.store(true, Ordering::Relaxed);
    }

    /// What happened so far.
    pub fn tally(&self) -> Tally {
        *self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, what: impl FnOnce(&mut Tally)) {
        what(&mut self.tally.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    fn pause(&self, length: Duration) {
        let begun = Instant::now();
        while !self.is_over() && begun.elapsed() < length {
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// Listeners that overflow and close, in a namespace that lasts.
    fn listeners(&self) -> Result<()> {
        let (namespace, _) = &self.topology.apps[0];
        for _ in 0..3 {
            overflow_in(namespace)?;
            self.count(|tally| tally.listeners += 1);
        }
        Ok(())
    }

    /// A namespace that comes, overflows and goes.
    fn namespace(&self) -> Result<()> {
        let number = self.tally().namespaces;
        let namespace = Namespace::new(format!("fmlab-{}-churn{number}", std::process::id()))?;
        overflow_in(&namespace)?;
        self.count(|tally| tally.namespaces += 1);
        self.pause(NAMESPACE_LIFE.saturating_sub(LISTENER_LIFE));
        Ok(())
    }

    /// The proxy for a minute, its log rotated every 15 s.
    fn proxy(&self) -> Result<()> {
        let tuning = Tuning { keepalive: None, connect_timeout: Some(Duration::from_secs(1)) };
        let nginx = Nginx::start(&self.topology.proxy, self.directory, self.upstreams, tuning)?;
        self.count(|tally| tally.proxies += 1);
        for _ in 0..4 {
            self.pause(Duration::from_secs(15));
            if self.is_over() {
                break;
            }
            nginx.rotate()?;
            self.count(|tally| tally.rotations += 1);
        }
        Ok(())
    }

    fn load(&self) -> Result<()> {
        let mut load = self.topology.proxy.command("/proc/self/exe")?;
        load.args(["load", &CLIENTS.to_string(), "5"]).stdin(Stdio::null()).stdout(Stdio::null());
        load.status().context("loading the proxy").map(drop)
    }

    fn reload(&self) -> Result<()> {
        self.agent.signal(Signal::SIGHUP)?;
        self.count(|tally| tally.reloads += 1);
        Ok(())
    }

    /// Fills the disk, leaves it so for a while, and makes room again.
    fn full_disk(&self) -> Result<()> {
        let filler = self.disk.join("filler");
        let mut file = File::create(&filler)?;
        // Until it fails.
        while file.write_all(&[0; 4096]).is_ok() {}
        self.count(|tally| tally.disks += 1);
        self.pause(Duration::from_secs(20));
        fs::remove_file(&filler)?;
        // As a rotation with copytruncate does.
        File::options().write(true).truncate(true).open(self.disk.join("verdicts"))?;
        Ok(())
    }

    fn crowd(&self) -> Result<()> {
        let (scrapes, answered) = scrapers::crowd(self.agent.addr);
        self.count(|tally| {
            tally.scrapes += scrapes;
            tally.answered += answered;
        });
        Ok(())
    }

    fn hanging(&self) -> Result<()> {
        let hanging: Vec<TcpStream> = scrapers::hanging(self.agent.addr);
        self.count(|tally| tally.hanging += hanging.len() as u64);
        self.pause(Duration::from_secs(60));
        Ok(())
    }
}

/// Has a listener of a namespace overflow, and closes it.
fn overflow_in(namespace: &Namespace) -> Result<()> {
    let path = format!("/run/netns/{}", namespace.name());
    let there = File::open(&path).with_context(|| format!("opening {path}"))?;
    let overflow = move || -> Result<()> {
        // Of this thread alone, which ends with it.
        setns(&there, CloneFlags::CLONE_NEWNET)?;
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        listener.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
        listener.listen(1)?;
        let address = listener.local_addr()?;
        let connect = |_| -> Result<Socket> {
            let client = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            client.set_nonblocking(true)?;
            // It goes on in the background.
            let _ = client.connect(&address);
            Ok(client)
        };
        let clients = (0..CONNECTS).map(connect).collect::<Result<Vec<Socket>>>()?;
        thread::sleep(LISTENER_LIFE);
        drop(clients);
        Ok(())
    };
    match thread::spawn(overflow).join() {
        Ok(outcome) => outcome,
        Err(_) => anyhow::bail!("a thread of the soak panicked"),
    }
}
