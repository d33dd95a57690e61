//! The kernel's own counters, read without any of the agent's code.

use std::{
    collections::BTreeMap,
    fs, thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

/// Counters of a namespace by their names in `/proc/net/netstat` (TcpExt) and `/proc/net/snmp`
/// (Tcp). A new namespace starts at 0, so they are growth as well.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters(BTreeMap<String, u64>);

impl Counters {
    /// Those of the calling thread's namespace.
    pub fn here() -> Result<Self> {
        let mut counters = BTreeMap::new();
        for (file, group) in [("netstat", "TcpExt:"), ("snmp", "Tcp:")] {
            let path = format!("/proc/thread-self/net/{file}");
            let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
            parse(&text, group, &mut counters);
        }
        Ok(Self(counters))
    }

    /// Those of the calling thread's namespace, when nothing moves them any more.
    pub fn when_still() -> Result<Self> {
        let mut counters = Self::here()?;
        until("counters to stand still", || {
            thread::sleep(Duration::from_millis(200));
            let now = Self::here()?;
            Ok(std::mem::replace(&mut counters, now.clone()) == now)
        })?;
        Ok(counters)
    }

    /// One of them; `None` where this kernel has none of that name.
    pub fn get(&self, name: &str) -> Option<u64> {
        self.0.get(name).copied()
    }
}

/// A line of names, then a line of values.
fn parse(text: &str, group: &str, into: &mut BTreeMap<String, u64>) {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(group));
    let (Some(names), Some(values)) = (lines.next(), lines.next()) else { return };
    for (name, value) in names.split_whitespace().zip(values.split_whitespace()) {
        if let Ok(value) = value.parse() {
            into.insert(name.to_owned(), value);
        }
    }
}

/// One counter of the calling thread's namespace; 0 where the kernel lacks it.
pub fn count(name: &str) -> Result<u64> {
    Ok(Counters::here()?.get(name).unwrap_or(0))
}

/// Waits for a counter of the calling thread's namespace.
pub fn until_counted(name: &str, least: u64) -> Result<()> {
    until(&format!("{name} >= {least}"), || Ok(count(name)? >= least))
}

/// Waits for something that surely comes; the limit only keeps a run from hanging.
pub fn until(what: &str, mut come: impl FnMut() -> Result<bool>) -> Result<()> {
    const LIMIT: Duration = Duration::from_secs(30);
    let start = Instant::now();
    while !come()? {
        ensure!(start.elapsed() < LIMIT, "waited {} s in vain for {what}", LIMIT.as_secs());
        thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// Handshakes of the calling thread's namespace that are half open.
pub fn half_open() -> Result<usize> {
    const SYN_RECV: &str = "03";
    sockets(|socket| usize::from(socket.state == SYN_RECV))
}

/// Connections of the calling thread's namespace that wait to be accepted at a port.
pub fn waiting(port: u16) -> Result<usize> {
    const LISTEN: &str = "0A";
    let port = format!("{port:04X}");
    sockets(|socket| match socket.state == LISTEN && socket.port == port {
        true => usize::from_str_radix(socket.received, 16).unwrap_or(0),
        false => 0,
    })
}

/// What a line of `/proc/net/tcp` says (`get_tcp4_sock`).
struct Line<'a> {
    port: &'a str,
    state: &'a str,
    /// Of a listener: the connections that wait.
    received: &'a str,
}

/// The sum of something over the sockets of the calling thread's namespace.
fn sockets(count: impl Fn(&Line) -> usize) -> Result<usize> {
    let mut sum = 0;
    for file in ["tcp", "tcp6"] {
        let text = fs::read_to_string(format!("/proc/thread-self/net/{file}"))?;
        sum += text.lines().filter_map(line).map(|line| count(&line)).sum::<usize>();
    }
    Ok(sum)
}

/// `sl local_address rem_address st tx_queue:rx_queue …`, all in hexadecimal.
fn line(text: &str) -> Option<Line<'_>> {
    let mut words = text.split_whitespace().skip(1);
    let (_, port) = words.next()?.split_once(':')?;
    let state = words.nth(1)?;
    let (_, received) = words.next()?.split_once(':')?;
    Some(Line { port, state, received })
}

/// Whether TW and TWKilled are counted when TIME_WAIT begins; before Linux 5.18 at its end, which
/// no scenario waits for.
pub fn time_wait_is_counted_at_entry() -> bool {
    version() >= (5, 18)
}

/// Whether the kernel tells which namespace it is by a cookie.
pub fn namespaces_have_cookies() -> bool {
    version() >= (5, 14)
}

fn version() -> (u32, u32) {
    let release = release();
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// The running kernel's release.
pub fn release() -> String {
    let text = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    text.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_the_group_asked_for_by_name() {
        let text = "TcpExt: TW ListenDrops\nTcpExt: 3 4\nIpExt: TW\nIpExt: 9\n";
        let mut counters = BTreeMap::new();
        parse(text, "TcpExt:", &mut counters);
        assert_eq!(Counters(counters.clone()).get("ListenDrops"), Some(4));
        assert_eq!(Counters(counters).get("TW"), Some(3));
    }

    #[test]
    fn reads_a_listener_of_proc_net_tcp() {
        let text = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000003 00:00000000 00000000";
        let line = line(text).unwrap();
        assert_eq!((line.port, line.state, line.received), ("1F90", "0A", "00000003"));
        assert!(super::line("  sl  local_address rem_address   st tx_queue").is_none());
    }
}
