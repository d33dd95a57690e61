//! Follows a log file through rotation. A file is known by device and inode, so a rename is seen and
//! the old file is read to its end; a file cut short (copytruncate) is read from its start again.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use bytes::{Buf, BytesMut};
use log::{info, warn};
use tokio::sync::mpsc;

use super::{event::ProxyEvent, nginx};
use crate::time::UnixMs;

/// How often the file is looked at.
const PAUSE: Duration = Duration::from_millis(200);
/// A line without an end is given up at this length.
const LONGEST: usize = 64 * 1024;
/// Read at a time.
const CHUNK: usize = 64 * 1024;

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
    open: Option<Open>,
    /// Whether the file has been found once: a first one is read from its end, later ones from
    /// their start.
    found_before: bool,
    complained: bool,
}

/// The file just now.
struct Open {
    file: File,
    device: u64,
    inode: u64,
    position: u64,
    unfinished: BytesMut,
    /// Inside a line that is too long: everything up to its end is thrown away.
    skipping: bool,
}

impl Follower {
    /// Follows `path`, from what is written to it from now on.
    pub fn new(path: &Path) -> Self {
        let mut follower = Self {
            path: path.to_owned(),
            name: path.display().to_string(),
            stats: Arc::default(),
            open: None,
            found_before: false,
            complained: false,
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
                thread::sleep(PAUSE);
            }
        };
        thread::Builder::new()
            .name("follow".to_owned())
            .spawn(follow)
            .context("starting a thread")?;
        Ok(())
    }

    /// Reads what has been written since the last call.
    pub fn poll(&mut self, now: UnixMs) -> Vec<ProxyEvent> {
        let mut events = self.drain(now);
        if self.has_moved() {
            // What was written to the old file between the reading and the rename.
            events.extend(self.drain(now));
            if self.open.take().is_some() {
                self.stats.rotations.fetch_add(1, Ordering::Relaxed);
            }
            self.open_path();
            events.extend(self.drain(now));
        }
        events
    }

    /// Whether the path no longer leads to the file that is open.
    fn has_moved(&self) -> bool {
        let Some(open) = &self.open else { return true };
        match self.path.metadata() {
            Ok(there) => (there.dev(), there.ino()) != (open.device, open.inode),
            // Renamed away, and its successor not there yet: the old one may still be written to.
            Err(_) => false,
        }
    }

    fn open_path(&mut self) {
        match open(&self.path, !self.found_before) {
            Ok(open) => {
                if self.complained {
                    info!("{}: following it now", self.name);
                }
                self.open = Some(open);
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
            let remedy = match error.kind() {
                io::ErrorKind::NotFound => "will follow it once it is there",
                io::ErrorKind::PermissionDenied => "run as root, or join the file's group (adm)",
                _ => "will go on trying",
            };
            warn!("cannot read {}: {error}; {remedy}", self.name);
        }
    }

    /// Reads the open file to its end.
    fn drain(&mut self, now: UnixMs) -> Vec<ProxyEvent> {
        let mut events = Vec::new();
        loop {
            let Some(open) = &mut self.open else { return events };
            match open.read_chunk(&self.stats) {
                Ok(0) => return events,
                Ok(_) => self.take_lines(now, &mut events),
                Err(error) => {
                    self.complain(&error);
                    return events;
                }
            }
        }
    }

    fn take_lines(&mut self, now: UnixMs, events: &mut Vec<ProxyEvent>) {
        let Some(open) = &mut self.open else { return };
        while let Some(end) = open.unfinished.iter().position(|byte| *byte == b'\n') {
            let line = open.unfinished.split_to(end);
            open.unfinished.advance(1);
            if std::mem::replace(&mut open.skipping, false) {
                continue;
            }
            self.stats.lines.fetch_add(1, Ordering::Relaxed);
            let line = line.strip_suffix(b"\r").unwrap_or(&line);
            if line.len() >= nginx::LONGEST_LINE {
                self.stats.lines_cut.fetch_add(1, Ordering::Relaxed);
            }
            if let Some(event) = nginx::parse(line, now, &self.name) {
                self.stats.events.fetch_add(1, Ordering::Relaxed);
                events.push(event);
            }
        }
        if open.unfinished.len() > LONGEST {
            open.unfinished.clear();
            if !std::mem::replace(&mut open.skipping, true) {
                self.stats.lines_too_long.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

impl Open {
    fn read_chunk(&mut self, stats: &SourceStats) -> io::Result<usize> {
        let size = self.file.metadata()?.len();
        if size < self.position {
            // Cut short and written anew (logrotate's copytruncate).
            self.position = self.file.seek(SeekFrom::Start(0))?;
            self.unfinished.clear();
            self.skipping = false;
            stats.rotations.fetch_add(1, Ordering::Relaxed);
        }
        let from = self.unfinished.len();
        self.unfinished.resize(from + CHUNK, 0);
        let read = self.file.read(&mut self.unfinished[from..]);
        self.unfinished.truncate(from + *read.as_ref().unwrap_or(&0));
        self.position += *read.as_ref().unwrap_or(&0) as u64;
        stats.lag_bytes.store(size.saturating_sub(self.position), Ordering::Relaxed);
        read
    }
}

fn open(path: &Path, at_end: bool) -> io::Result<Open> {
    let mut file = File::open(path)?;
    let metadata = file.metadata()?;
    let position = if at_end { file.seek(SeekFrom::End(0))? } else { 0 };
    Ok(Open {
        file,
        device: metadata.dev(),
        inode: metadata.ino(),
        position,
        unfinished: BytesMut::new(),
        skipping: false,
    })
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Write};

    use super::*;

    const NOW: UnixMs = UnixMs(1_795_204_075_000);

    fn line(port: u16) -> String {
        format!(
            "2026/11/20 19:47:51 [error] 1#1: *1 connect() failed (111: Connection refused) while \
             connecting to upstream, client: 10.9.9.9, server: , request: \"GET / HTTP/1.1\", \
             upstream: \"http://10.0.0.1:{port}/\"\n"
        )
    }

    struct Log {
        directory: tempfile::TempDir,
        path: PathBuf,
    }

    impl Log {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("error.log");
            Self { directory, path }
        }

        fn append(&self, text: &str) {
            let mut file = File::options().create(true).append(true).open(&self.path).unwrap();
            file.write_all(text.as_bytes()).unwrap();
        }

        fn rotate(&self) {
            fs::rename(&self.path, self.directory.path().join("error.log.1")).unwrap();
        }
    }

    fn ports(follower: &mut Follower) -> Vec<u16> {
        let events = follower.poll(NOW);
        events
            .iter()
            .map(|event| match event.upstream {
                crate::proxy::Upstream::Inet(addr) => addr.port(),
                _ => 0,
            })
            .collect()
    }

    fn rotations(follower: &Follower) -> u64 {
        follower.stats.rotations.load(Ordering::Relaxed)
    }

    #[test]
    fn reads_what_is_written_after_it_was_opened() {
        let log = Log::new();
        log.append(&line(1));
        let mut follower = Follower::new(&log.path);
        assert!(ports(&mut follower).is_empty());
        log.append(&line(2));
        log.append(&line(3));
        assert_eq!(ports(&mut follower), [2, 3]);
        assert!(ports(&mut follower).is_empty());
    }

    #[test]
    fn waits_for_the_end_of_a_line() {
        let log = Log::new();
        log.append("");
        let mut follower = Follower::new(&log.path);
        let (start, end) = (&line(5)[..40], &line(5)[40..]);
        log.append(start);
        assert!(ports(&mut follower).is_empty());
        log.append(end);
        assert_eq!(ports(&mut follower), [5]);
    }

    #[test]
    fn reads_the_old_file_to_its_end_when_it_is_renamed() {
        let log = Log::new();
        log.append("");
        let mut follower = Follower::new(&log.path);
        log.append(&line(1));
        log.rotate();
        assert_eq!(ports(&mut follower), [1]);
        // nginx goes on writing to the renamed file until it is told to reopen.
        let mut old = File::options().append(true).open(log.directory.path().join("error.log.1"));
        old.as_mut().unwrap().write_all(line(2).as_bytes()).unwrap();
        log.append(&line(3));
        assert_eq!(ports(&mut follower), [2, 3]);
        assert_eq!(rotations(&follower), 1);
    }

    #[test]
    fn starts_over_when_the_file_is_cut_short() {
        let log = Log::new();
        log.append("");
        let mut follower = Follower::new(&log.path);
        log.append(&line(1));
        log.append(&line(2));
        assert_eq!(ports(&mut follower), [1, 2]);
        File::create(&log.path).unwrap();
        log.append(&line(3));
        assert_eq!(ports(&mut follower), [3]);
        assert_eq!(rotations(&follower), 1);
    }

    #[test]
    fn a_file_that_appears_later_is_read_from_its_start() {
        let log = Log::new();
        let mut follower = Follower::new(&log.path);
        assert!(ports(&mut follower).is_empty());
        log.append(&line(7));
        assert_eq!(ports(&mut follower), [7]);
    }

    #[test]
    fn an_endless_line_takes_no_more_memory_and_is_counted() {
        let log = Log::new();
        log.append("");
        let mut follower = Follower::new(&log.path);
        for _ in 0..5 {
            log.append(&"x".repeat(LONGEST));
            assert!(ports(&mut follower).is_empty());
            assert!(follower.open.as_ref().unwrap().unfinished.len() <= LONGEST);
        }
        log.append("the end\n");
        log.append(&line(8));
        assert_eq!(ports(&mut follower), [8]);
        assert_eq!(follower.stats.lines_too_long.load(Ordering::Relaxed), 1);
    }
}
