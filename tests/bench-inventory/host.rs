//! A host with many namespaces, each with some listeners.

use std::{
    net::{TcpListener, TcpStream},
    process::Command,
};

use anyhow::{Context, Result};
use floodmark::kernel::netns::{Netns, discover, visit};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Names of the namespaces.
const PREFIX: &str = "fmbench-";

/// The namespaces and what listens in them, gone with the value.
pub struct Host {
    names: Vec<String>,
    /// Listeners made.
    pub listeners: usize,
    _sockets: Vec<TcpListener>,
    /// Each listener has taken a connection, so that it has a histogram to export.
    _connections: Vec<(TcpStream, TcpStream)>,
}

impl Host {
    /// Makes them.
    pub fn new(namespaces: usize, listeners: usize) -> Result<Self> {
        let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
        setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
        let names: Vec<String> = (0..namespaces).map(|n| format!("{PREFIX}{n}")).collect();
        let mut host = Self { names, listeners, _sockets: Vec::new(), _connections: Vec::new() };
        for name in &host.names {
            ip(&["netns", "add", name])?;
            ip(&["-n", name, "link", "set", "lo", "up"])?;
        }
        let ours: Vec<Netns> =
            discover()?.into_iter().filter(|netns| netns.name.starts_with(PREFIX)).collect();
        let each = listeners.div_ceil(namespaces.max(1));
        let made = visit(&ours, |_| (0..each).map(|_| listen()).collect::<Result<Vec<_>>>())?;
        for sockets in made {
            for (listener, pair) in sockets? {
                host._sockets.push(listener);
                host._connections.push(pair);
            }
        }
        host.listeners = host._sockets.len();
        Ok(host)
    }
}

fn listen() -> Result<(TcpListener, (TcpStream, TcpStream))> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let client = TcpStream::connect(listener.local_addr()?)?;
    let (served, _) = listener.accept()?;
    Ok((listener, (client, served)))
}

impl Drop for Host {
    fn drop(&mut self) {
        for name in &self.names {
            let _ = ip(&["netns", "del", name]);
        }
    }
}

fn ip(args: &[&str]) -> Result<()> {
    let status = Command::new("ip").args(args).status().context("running ip")?;
    anyhow::ensure!(status.success(), "ip {} failed", args.join(" "));
    Ok(())
}
