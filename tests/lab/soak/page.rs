//! What the soak came to, for a terminal and as a page.

use std::fmt;

use super::{
    measure::{Row, Rungs},
    turmoil::Tally,
};

/// Rows of the table.
const ROWS: usize = 12;

/// Something that must be true.
#[derive(Debug)]
pub struct Check {
    what: &'static str,
    /// Whether it is.
    pub holds: bool,
    detail: String,
}

impl Check {
    /// A check with what was found.
    pub fn new(what: &'static str, holds: bool, detail: impl Into<String>) -> Self {
        Self { what, holds, detail: detail.into() }
    }
}

/// What the soak came to.
pub struct Soak {
    /// From which rungs it was seen.
    pub rungs: Rungs,
    /// How the agent was built.
    pub build: String,
    /// How long it was.
    pub seconds: u64,
    /// The agent over time.
    pub rows: Vec<Row>,
    /// What happened around it.
    pub tally: Tally,
    /// What must be true of it.
    pub checks: Vec<Check>,
}

impl Soak {
    /// The page.
    pub fn markdown(&self) -> String {
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        format!(
            "# Soak\n\nWritten by `cargo xtask bench soak`: everything that happens to an agent in a \
             day, in {:.0} minutes. Linux {}, {} processors; {}. The agent was built {}.\n\n{self}",
            self.seconds as f64 / 60.0,
            release.trim(),
            std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            self.rungs,
            self.build,
        )
    }
}

impl fmt::Display for Soak {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tally {
            listeners,
            namespaces,
            rotations,
            proxies,
            reloads,
            disks,
            scrapes,
            answered,
            hanging,
        } = self.tally;
        writeln!(
            f,
            "{listeners} listeners and {namespaces} namespaces came, overflowed and went; nginx was \
             started {proxies} times and its log rotated {rotations} times; {reloads} SIGHUPs; the disk \
             with the state and the verdicts was full {disks} times; {scrapes} scrapes came fifty at a \
             time, of which {answered} were answered, and {hanging} scrapers hung for a minute each.\n"
        )?;
        writeln!(
            f,
            "| minute | memory KiB | its own KiB | descriptors | threads | zombies | series | \
             scrape ms | unattributed | of namespaces gone |\n\
             | --: | --: | --: | --: | --: | --: | --: | --: | --: | --: |"
        )?;
        for row in self.rows.iter().step_by((self.rows.len() / ROWS).max(1)) {
            writeln!(
                f,
                "| {:.1} | {} | {} | {} | {} | {} | {} | {:.0} | {} | {} |",
                row.after.as_secs_f64() / 60.0,
                row.rss_kib,
                row.own_kib,
                row.descriptors,
                row.threads,
                row.zombies,
                row.series,
                row.scrape.as_secs_f64() * 1000.0,
                row.unattributed,
                row.unattributed_gone,
            )?;
        }
        writeln!(
            f,
            "\nMemory is what is resident, and what of that is neither the program's file nor maps that it \
             shares with the kernel. Who closed is exported for two minutes and its account kept for \
             ten, so series grow for as long, and memory. The last \
             column is what listeners lost that lived for 0.3 s in namespaces that lived for 3 s: \
             hooks attribute it, a look each second comes too late.\n"
        )?;
        for Check { what, holds, detail } in &self.checks {
            writeln!(f, "- {} {what}: {detail}", if *holds { "ok," } else { "FAILED," })?;
        }
        Ok(())
    }
}
