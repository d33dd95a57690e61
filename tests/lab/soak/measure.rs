//! What the agent takes, by procfs and by its own word.

use std::{
    fmt, fs,
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use crate::serving::Serving;

/// The agent samples once a second.
const TWO_SAMPLES: Duration = Duration::from_secs(3);

/// The agent at a moment.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Since the soak began.
    pub after: Duration,
    /// Resident memory in KiB.
    pub rss_kib: u64,
    /// What of it is the agent's own: not the program's file, nor maps it shares with the kernel.
    pub own_kib: u64,
    /// Open descriptors.
    pub descriptors: u64,
    pub threads: u64,
    /// Children that have ended and were not waited for.
    pub zombies: u64,
    /// How long a scrape took.
    pub scrape: Duration,
    /// Series exported.
    pub series: usize,
    /// Overflows and drops that belong to nobody, in the namespaces that last: less if another look, once
    /// two samples have been taken, finds less. Below fentry, a share waits until its listener is known.
    pub unattributed: f64,
    /// The same in those that come and go.
    pub unattributed_gone: f64,
}

/// Measures one agent.
pub struct Measure {
    pid: u32,
    addr: SocketAddr,
}

impl Measure {
    /// Of this one, once it has sampled.
    pub fn of(agent: &Serving) -> Result<Self> {
        let measure = Self { pid: agent.pid(), addr: agent.addr };
        let begun = Instant::now();
        while let Err(error) = measure.scrape() {
            ensure!(
                begun.elapsed() < Duration::from_secs(60),
                "the agent does not begin: {error:#}"
            );
            thread::sleep(Duration::from_millis(200));
        }
        Ok(measure)
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
            own_kib: field("RssAnon:"),
            descriptors: fs::read_dir(format!("/proc/{}/fd", self.pid))?.count() as u64,
            threads: field("Threads:"),
            zombies: self.zombies()?,
            scrape,
            series: text.lines().filter(|line| !line.starts_with('#')).count(),
            unattributed: self.unattributed(&text)?,
            unattributed_gone: unattributed(&text, COMING),
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

    fn unattributed(&self, text: &str) -> Result<f64> {
        let now = unattributed(text, LASTING);
        if now == 0.0 {
            return Ok(now);
        }
        thread::sleep(TWO_SAMPLES);
        Ok(now.min(unattributed(&self.scrape()?, LASTING)))
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

/// Part of the names of namespaces that last.
pub const LASTING: &str = "-soak-";
/// Part of the names of those that come and go.
pub const COMING: &str = "-churn";

/// What of ListenOverflows and ListenDrops belongs to nobody, whether too few or too many, in the
/// namespaces with this in their names.
pub fn unattributed(text: &str, netns: &str) -> f64 {
    let of = |mib: &str| values(text, "floodmark_kernel_mib_unattributed{", &[mib, netns]);
    let both = [of("\"ListenOverflows\""), of("\"ListenDrops\"")].concat();
    both.iter().map(|rest| rest.abs()).sum()
}

/// From which rung losses are had, by name.
#[derive(Clone, Debug, Default)]
pub struct Rungs {
    syn_drops: String,
    ack_drops: String,
}

impl Rungs {
    /// By what the agent exports.
    pub fn of(text: &str) -> Self {
        let rung = |signal: &str| {
            let is_it = |line: &&str| {
                line.starts_with("floodmark_signal_rung_info{")
                    && line.contains(&format!("signal=\"{signal}\""))
            };
            let line = text.lines().find(is_it)?;
            Some(line.split_once("rung=\"")?.1.split('"').next()?.to_owned())
        };
        let rung = |signal| rung(signal).unwrap_or_default();
        Self { syn_drops: rung("syn_drops"), ack_drops: rung("ack_drops") }
    }

    /// Whether trampolines see every loss.
    pub fn see_everything(&self) -> bool {
        [&self.syn_drops, &self.ack_drops].into_iter().all(|rung| rung == "fentry")
    }
}

impl fmt::Display for Rungs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { syn_drops, ack_drops } = self;
        write!(f, "dropped SYNs from {syn_drops}, dropped final ACKs from {ack_drops}")
    }
}
