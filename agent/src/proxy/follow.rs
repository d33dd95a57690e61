//! Follows a log file through rotation. A file is known by device and inode, so a rename is seen and
//! the old file is read on for as long as its writer may still hold it; a file cut short
//! (copytruncate) is read from its start again.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use log::{info, warn};
use tokio::sync::mpsc;

use super::{event::ProxyEvent, nginx};
use crate::time::UnixMs;

mod file;
#[cfg(test)]
mod tests;

use file::LogFile;

/// How often the file is looked at.
const PAUSE: Duration = Duration::from_millis(200);
/// How long a file that was renamed is read on. logrotate makes the new file first and tells nginx
/// afterwards (SIGUSR1); until each worker has reopened its log, it writes to the old file.
const LINGER: Duration = Duration::from_secs(60);
/// Chunks read at a look at most, so that a long file is not turned into events all at once.
const CHUNKS_AT_ONCE: usize = 16;

/// What a source has read, for metrics.
#[derive(Debug, Default)]
pub struct SourceStats {
    /// Complete lines.
    pub lines: AtomicU64,
    /// Lines that were an event.
    pub events: AtomicU64,
    /// Lines longer than the follower keeps, thrown away.
    pub lines_too_long: AtomicU64,
    /// Lines that nginx itself had cut, whose end is unknown.
    pub lines_cut: AtomicU64,
    /// Times another file took the name, or the file was cut short.
    pub rotations: AtomicU64,
    /// Failed reads and opens.
    pub errors: AtomicU64,
    /// Bytes written and not read yet, when last looked at.
    pub lag_bytes: AtomicU64,
}

/// A log file being followed.
pub struct Follower {
    path: PathBuf,
    name: String,
    stats: Arc<SourceStats>,
    open: Option<LogFile>,
    /// The file that had the name before, and when it lost it.
    renamed: Option<(LogFile, UnixMs)>,
    /// Whether the file has been found once: a first one is read from its end, later ones from
    /// their start.
    found_before: bool,
    complained: bool,
    /// More can be read than the last look took, so the next one need not wait.
    more: bool,
}

impl Follower {
    /// Follows `path`, from what is written to it from now on.
    pub fn new(path: &Path) -> Self {
        let mut follower = Self {
            path: path.to_owned(),
            name: path.display().to_string(),
            stats: Arc::default(),
            open: None,
            renamed: None,
            found_before: false,
            complained: false,
            more: false,
        };
        // Opened at once, so that "from now on" means from this call.
        follower.open_path();
        follower
    }

    /// The path followed.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The source's counters.
    pub fn stats(&self) -> Arc<SourceStats> {
        Arc::clone(&self.stats)
    }

    /// Follows the file on a thread of its own until `stop` is set or nobody listens any more. When
    /// the channel is full the follower waits, and lines wait in the file.
    ///
    /// # Errors
    ///
    /// When the thread cannot be started.
    pub fn spawn(mut self, events: mpsc::Sender<ProxyEvent>, stop: Arc<AtomicBool>) -> Result<()> {
        let follow = move || {
            while !stop.load(Ordering::Relaxed) {
                for event in self.poll(UnixMs::now()) {
                    if events.blocking_send(event).is_err() {
                        return;
                    }
                }
                if !self.more {
                    thread::sleep(PAUSE);
                }
            }
        };
        thread::Builder::new()
            .name("follow".to_owned())
            .spawn(follow)
            .context("starting a thread")?;
        Ok(())
    }

    /// Reads what has been written since the last call, up to a bound.
    pub fn poll(&mut self, now: UnixMs) -> Vec<ProxyEvent> {
        let mut events = Vec::new();
        self.more = false;
        if let Some((mut file, since)) = self.renamed.take() {
            self.read(&mut file, now, &mut events);
            if now < since.later(LINGER) || self.more {
                self.renamed = Some((file, since));
            }
        }
        if self.open.is_none() {
            self.open_path();
        }
        if let Some(mut file) = self.open.take() {
            self.read(&mut file, now, &mut events);
            self.stats.lag_bytes.store(file.lag(), Ordering::Relaxed);
            if !self.more && file.has_successor(&self.path) {
                self.stats.rotations.fetch_add(1, Ordering::Relaxed);
                self.renamed = Some((file, now));
                self.more = true;
            } else {
                self.open = Some(file);
            }
        }
        events
    }

    /// Reads on in one file.
    fn read(&mut self, file: &mut LogFile, now: UnixMs, events: &mut Vec<ProxyEvent>) {
        let (stats, name) = (Arc::clone(&self.stats), &self.name);
        let mut on_line = |line: &[u8]| {
            if line.len() >= nginx::LONGEST_LINE {
                stats.lines_cut.fetch_add(1, Ordering::Relaxed);
            }
            if let Some(event) = nginx::parse(line, now, name) {
                stats.events.fetch_add(1, Ordering::Relaxed);
                events.push(event);
            }
        };
        for _ in 0..CHUNKS_AT_ONCE {
            match file.read(&stats, &mut on_line) {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => return self.complain(&error),
            }
        }
        self.more = true;
    }

    fn open_path(&mut self) {
        match LogFile::open(&self.path, !self.found_before) {
            Ok(file) => {
                if self.complained {
                    info!("{}: following it now", self.name);
                }
                self.open = Some(file);
                self.found_before = true;
                self.complained = false;
            }
            Err(error) => {
                self.complain(&error);
                // A file that appears later is read from its start.
                self.found_before |= error.kind() == io::ErrorKind::NotFound;
            }
        }
    }

    /// Says once what keeps the file from being read, and what helps.
    fn complain(&mut self, error: &io::Error) {
        self.stats.errors.fetch_add(1, Ordering::Relaxed);
        if !std::mem::replace(&mut self.complained, true) {
            warn!("cannot read {}: {error}; {}", self.name, remedy(error.kind()));
        }
    }
}

fn remedy(kind: io::ErrorKind) -> &'static str {
    match kind {
        io::ErrorKind::NotFound => "will follow it once it is there",
        io::ErrorKind::PermissionDenied => "run as root, or join the file's group (adm)",
        io::ErrorKind::InvalidInput => {
            "name the file that nginx writes; container images lead it to standard error, which \
             the container's own log holds"
        }
        _ => "will go on trying",
    }
}
