//! Follows a log file through rotation. A file is known by device and inode, so a rename is seen and
//! the old file is read on for as long as its writer may still hold it; a file cut short
//! (copytruncate) is read from its start again.

use std::{
    fs,
    io::{self, SeekFrom},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use log::{info, warn};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{Interpreter, Opening, Positions, SourceStats, positions::Place};
use crate::{essential, proxy::event::ProxyEvent, time::UnixMs, untrusted_file};

mod log_file;
#[cfg(test)]
mod tests;

use log_file::LogFile;
pub(super) use log_file::cut_lines;

/// How often the file is looked at.
const PAUSE: Duration = Duration::from_millis(200);
/// How long a file that was renamed is read on. logrotate makes the new file first and tells nginx
/// afterwards (SIGUSR1); until each worker has reopened its log, it writes to the old file.
const LINGER: Duration = Duration::from_secs(60);
/// How long nothing is said after a complaint: a path that leads elsewhere all the time must not fill
/// the agent's own log.
const SILENCE: Duration = Duration::from_secs(60);
/// Names looked at to find a file that was renamed.
const LOOKED_AT_BESIDE: usize = 10_000;
/// Chunks read at a look at most, so that a long file is not turned into events all at once.
const CHUNKS_AT_ONCE: usize = 16;

/// A log file being followed.
pub struct Follower {
    path: PathBuf,
    interpreter: Interpreter,
    positions: Option<Arc<Positions>>,
    open: Option<LogFile>,
    /// The file that had the name before, and when it lost it.
    renamed: Option<(LogFile, UnixMs)>,
    /// Whether the file has been found once: a first one is read from its end, later ones from
    /// their start.
    found_before: bool,
    complained: bool,
    /// When that was last said.
    said: Option<Instant>,
    /// More can be read than the last look took, so the next one need not wait.
    more: bool,
}

impl Follower {
    /// Follows `path`, from where it was left according to `positions`; where that is not known, from
    /// what is written to it from now on.
    pub fn new(path: &Path, interpreter: Interpreter, positions: Option<Arc<Positions>>) -> Self {
        let left = positions.as_ref().and_then(|positions| positions.get(path));
        let mut follower = Self {
            path: path.to_owned(),
            interpreter,
            positions,
            open: None,
            renamed: None,
            found_before: false,
            complained: false,
            said: None,
            more: false,
        };
        if let Some(place) = left {
            follower.resume(place);
        }
        // Opened at once, so that "from now on" means from this call.
        if follower.open.is_none() {
            follower.open_path();
        }
        follower
    }

    /// The source's counters.
    pub fn stats(&self) -> Arc<SourceStats> {
        Arc::clone(self.interpreter.stats())
    }

    /// Follows `path` on a thread of its own until `stop` is cancelled or nobody listens any more. When
    /// the channel is full the follower waits, and lines wait in the file.
    ///
    /// The file is opened on that thread, too: one on a hung mount keeps nobody else waiting. `opening`
    /// is dropped once it has been tried.
    ///
    /// # Errors
    ///
    /// When the thread cannot be started.
    pub fn spawn(
        path: PathBuf,
        interpreter: Interpreter,
        positions: Option<Arc<Positions>>,
        opening: Opening,
        events: mpsc::Sender<ProxyEvent>,
        stop: CancellationToken,
    ) -> Result<()> {
        let follow = move || {
            let mut follower = Self::new(&path, interpreter, positions);
            drop(opening);
            while !stop.is_cancelled() {
                let began = Instant::now();
                let read = follower.poll(UnixMs::now());
                let took = began.elapsed();
                for event in read {
                    if events.blocking_send(event).is_err() {
                        return;
                    }
                }
                // Only now: what was read but not handed over is read again after a restart.
                follower.keep_place();
                // A file that grows as fast as the disk allows takes half a processor and no more.
                thread::sleep(if follower.more { took } else { PAUSE });
            }
        };
        essential::thread("follow", follow).context("starting a thread")?;
        Ok(())
    }

    /// Reads what has been written since the last call, up to a bound.
    pub fn poll(&mut self, now: UnixMs) -> Vec<ProxyEvent> {
        let mut events = Vec::new();
        self.more = false;
        let read_before = self.stats().lines.load(Ordering::Relaxed);
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
            self.interpreter.stats().lag_bytes.store(file.lag(), Ordering::Relaxed);
            if !self.more && file.has_successor(&self.path) {
                self.interpreter.stats().rotations.fetch_add(1, Ordering::Relaxed);
                self.renamed = Some((file, now));
                self.more = true;
            } else {
                self.open = Some(file);
            }
        }
        let is_silent = self.stats().lines.load(Ordering::Relaxed) == read_before;
        if is_silent && !self.more && self.open.as_ref().is_none_or(|file| file.held() == 0) {
            // Nothing was written since the last look.
            events.append(&mut self.interpreter.settle());
        }
        events
    }

    /// Reads on in one file.
    fn read(&mut self, file: &mut LogFile, now: UnixMs, events: &mut Vec<ProxyEvent>) {
        let stats = self.stats();
        let interpreter = &mut self.interpreter;
        for _ in 0..CHUNKS_AT_ONCE {
            events.append(&mut interpreter.catch_up(file.is_behind()));
            match file.read(&stats, |line| events.extend(interpreter.read(line, now))) {
                Ok(true) => {}
                Ok(false) => return events.append(&mut interpreter.catch_up(file.is_behind())),
                Err(error) => return self.complain(&error),
            }
        }
        self.more = true;
    }

    /// Goes on where an earlier run has left off. The file may have been renamed since: then it is
    /// looked for beside its old name, and read to its end before the new one.
    fn resume(&mut self, place: Place) {
        self.found_before = true;
        let is_it = |path: &Path| {
            untrusted_file::metadata(path).is_ok_and(|there| {
                (there.dev(), there.ino()) == (place.device, place.inode)
                    && there.len() >= place.offset
            })
        };
        let start = SeekFrom::Start(place.offset);
        if is_it(&self.path) {
            self.open = LogFile::open_at(&self.path, start).ok();
            return;
        }
        let beside = self.path.parent().and_then(|parent| fs::read_dir(parent).ok());
        let names = beside.into_iter().flatten().take(LOOKED_AT_BESIDE).flatten();
        let renamed = names.map(|entry| entry.path()).find(|path| is_it(path));
        if let Some(file) = renamed.and_then(|path| LogFile::open_at(&path, start).ok()) {
            self.renamed = Some((file, UnixMs::now()));
        }
    }

    /// Remembers how far the file with the name has been read.
    fn keep_place(&self) {
        // While the file before it is read on, a restart would have to begin there.
        let file = self.renamed.as_ref().map(|(file, _)| file).filter(|file| file.lag() > 0);
        if let (Some(positions), Some(file)) = (&self.positions, file.or(self.open.as_ref())) {
            positions.keep(&self.path, file.place());
        }
    }

    fn open_path(&mut self) {
        match LogFile::open(&self.path, !self.found_before) {
            Ok(file) => {
                if self.complained {
                    info!("{}: following it", self.path.display());
                }
                // One that has its name again is read on, not from its start.
                let again = self.renamed.take_if(|(renamed, _)| renamed.is_same_as(&file));
                self.open = Some(again.map_or(file, |(renamed, _)| renamed));
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
        self.interpreter.stats().errors.fetch_add(1, Ordering::Relaxed);
        let is_new = !std::mem::replace(&mut self.complained, true);
        if is_new && self.said.is_none_or(|said| said.elapsed() >= SILENCE) {
            self.said = Some(Instant::now());
            warn!("cannot read {}: {error}; {}", self.path.display(), remedy(error.kind()));
        }
    }
}

fn remedy(kind: io::ErrorKind) -> &'static str {
    match kind {
        io::ErrorKind::NotFound => "the agent follows it as soon as it exists",
        io::ErrorKind::PermissionDenied => "run as root, or join the file's group (adm)",
        io::ErrorKind::InvalidInput => {
            "set the file that the proxy writes; container images log to standard error, so \
             follow the container's log"
        }
        _ => "retrying",
    }
}
