//! Which address a process's socket is connected to, by `/proc/PID/net/tcp` and `tcp6`.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
    time::{Duration, Instant},
};

use crate::untrusted_file::read_procfs;

/// How often the connections of a namespace are read at most.
const PAUSE: Duration = Duration::from_secs(2);
/// Bytes of them that are read: 50,000 connections.
const MOST_BYTES: u64 = 8 << 20;
/// Sockets remembered.
const MOST_KNOWN: usize = 4096;

/// A connected socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Connection {
    /// Whether it came in by way of a listener.
    pub is_clients: bool,
    /// The other end.
    pub remote: SocketAddr,
}

/// What was found out about sockets, by inode.
#[derive(Debug, Default)]
pub(super) struct Connections {
    known: HashMap<u32, Option<Connection>>,
    not_before: Option<Instant>,
}

impl Connections {
    /// The connection of a socket that the process at `directory` holds; `None` if it is unknown.
    pub(super) fn of(&mut self, inode: u32, directory: &Path) -> Option<Connection> {
        if let Some(known) = self.known.get(&inode) {
            return *known;
        }
        let now = Instant::now();
        if self.not_before.is_some_and(|at| now < at) {
            return None;
        }
        self.not_before = Some(now + PAUSE);
        if self.known.len() >= MOST_KNOWN {
            self.known.clear();
        }
        let found = ["net/tcp", "net/tcp6"].into_iter().find_map(|name| {
            let bytes = read_procfs(&directory.join(name), MOST_BYTES).ok()?;
            find(&String::from_utf8_lossy(&bytes), inode)
        });
        self.known.insert(inode, found);
        found
    }
}

/// A line of `/proc/net/tcp` (net/ipv4/tcp_ipv4.c, get_tcp4_sock).
struct Line<'a> {
    local: &'a str,
    remote: &'a str,
    state: &'a str,
    inode: &'a str,
}

impl<'a> Line<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut words = line.split_ascii_whitespace().skip(1);
        let (local, remote, state) = (words.next()?, words.next()?, words.next()?);
        Some(Self { local, remote, state, inode: words.nth(5)? })
    }

    fn port(&self) -> Option<&str> {
        Some(self.local.rsplit_once(':')?.1)
    }
}

/// The connection of a socket in the text of `/proc/net/tcp`.
fn find(text: &str, inode: u32) -> Option<Connection> {
    let wanted = inode.to_string();
    let mut lines = text.lines().filter_map(Line::parse);
    let own = lines.find(|line| line.inode == wanted)?;
    // TCP_LISTEN is 10 (include/net/tcp_states.h).
    let listens = |line: Line<'_>| line.state == "0A" && line.port() == own.port();
    let is_clients = text.lines().filter_map(Line::parse).any(listens);
    Some(Connection { is_clients, remote: addr(own.remote)? })
}

/// An address as the kernel prints it: words in this machine's byte order.
fn addr(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word =
        |at: usize| Some(u32::from_str_radix(ip.get(at * 8..at * 8 + 8)?, 16).ok()?.to_ne_bytes());
    let ip = if ip.len() == 8 {
        IpAddr::from(Ipv4Addr::from(word(0)?))
    } else {
        let mut octets = [0; 16];
        for at in 0..4 {
            octets[at * 4..at * 4 + 4].copy_from_slice(&word(at)?);
        }
        IpAddr::from(Ipv6Addr::from(octets)).to_canonical()
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_endian = "little")]
    #[test]
    fn finds_the_other_end() {
        let line = "   3: 0100000A:9C40 0700000A:1538 01 00000000:00000000 00:00000000 00000000     \
                    0        0 13886467 1 00000000a6d71095 100 0 0 10 0";
        let found = find(line, 13_886_467).unwrap();
        assert_eq!((found.is_clients, found.remote.to_string()), (false, "10.0.0.7:5432".into()));
        assert_eq!(find(line, 1), None);
        let listening = line.replace(" 01 ", " 0A ").replace("13886467", "7");
        assert!(find(&format!("{line}\n{listening}"), 13_886_467).unwrap().is_clients);
        let mapped = addr("0000000000000000FFFF00000700000A:1538").unwrap();
        assert_eq!(mapped.to_string(), "10.0.0.7:5432");
        assert_eq!(addr("0100000A"), None);
    }
}
