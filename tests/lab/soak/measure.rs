//! What the agent takes, by procfs and by its own word.

use std::{
    fs,
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use crate::serving::Serving;

/// The agent at a moment.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Since the soak began.
    pub after: Duration,
    /// Resident memory in KiB.
    pub rss_kib: u64,
    /// Open descriptors.
    pub descriptors: u64,
    /// Threads.
    pub threads: u64,
    /// Children that have ended and were not waited for.
    pub zombies: u64,
    /// How long a scrape took.
    pub scrape: Duration,
    /// Series exported.
    pub series: usize,
    /// Overflows and drops that belong to nobody, at this moment.
    pub unattributed: f64,
}

/// Measures one agent.
pub struct Measure {
    pid: u32,
    addr: SocketAddr,
}

impl Measure {
    /// Of this one.
    pub fn of(agent: &Serving) -> Self {
        Self { pid: agent.pid(), addr: agent.addr }
    }

    /// The agent now.
    pub fn row(&self, begun: Instant) -> Result<Row> {
        let started = Instant::now();
        let text = self.scrape()?;
        let scrape = started.elapsed();
        let status =
            fs::read_to_string(format!("/proc/{}/status", self.pid)).context("the agent ended")?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
        };
        Ok(Row {
            after: begun.elapsed(),
            rss_kib: field("VmRSS:"),
            descriptors: fs::read_dir(format!("/proc/{}/fd", self.pid))?.count() as u64,
            threads: field("Threads:"),
            zombies: self.zombies()?,
            scrape,
            series: text.lines().filter(|line| !line.starts_with('#')).count(),
            unattributed: unattributed(&text),
        })
    }

    /// What it exports.
    pub fn scrape(&self) -> Result<String> {
        ureq::get(format!("http://{}/metrics", self.addr))
            .call()
            .context("scraping the agent")?
            .body_mut()
            .read_to_string()
            .context("reading what it exports")
    }

    fn zombies(&self) -> Result<u64> {
        let of_the_agent = format!(" Z {} ", self.pid);
        let processes = fs::read_dir("/proc")?.flatten();
        let stats =
            processes.filter_map(|entry| fs::read_to_string(entry.path().join("stat")).ok());
        Ok(stats.filter(|stat| stat.contains(&of_the_agent)).count() as u64)
    }
}

/// The values of the samples that begin so and hold each of `labels`.
pub fn values(text: &str, begin: &str, labels: &[&str]) -> Vec<f64> {
    text.lines()
        .filter(|line| line.starts_with(begin) && labels.iter().all(|label| line.contains(label)))
        .filter_map(|line| line.rsplit(' ').next()?.parse().ok())
        .collect()
}

/// What of ListenOverflows and ListenDrops belongs to nobody, whether too few or too many.
pub fn unattributed(text: &str) -> f64 {
    let of = |mib: &str| values(text, "floodmark_kernel_mib_unattributed{", &[mib]);
    let both = [of("\"ListenOverflows\""), of("\"ListenDrops\"")].concat();
    both.iter().map(|rest| rest.abs()).sum()
}
