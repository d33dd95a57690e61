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

/// Handshakes of the calling thread's namespace that are half open (`/proc/net/tcp`, state 03).
pub fn half_open() -> Result<usize> {
    let mut found = 0;
    for file in ["tcp", "tcp6"] {
        let text = fs::read_to_string(format!("/proc/thread-self/net/{file}"))?;
        found += text.lines().filter(|line| line.split_whitespace().nth(3) == Some("03")).count();
    }
    Ok(found)
}

/// Whether TW and TWKilled are counted when TIME_WAIT begins; before Linux 5.18 at its end, which
/// no scenario waits for.
pub fn time_wait_is_counted_at_entry() -> bool {
    let release = release();
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    version >= (5, 18)
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
}
