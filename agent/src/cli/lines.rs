//! Lines of JSON on standard output, which must not hold the agent up nor bring it down: whoever reads
//! them may hang or be gone, and the disk they go to may be full.

use std::{
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use log::warn;

use crate::essential;

/// Lines that may wait for whoever reads them; more are dropped, and that is said.
const MOST_WAITING: usize = 4096;
/// How long lines may go on being written after the agent was told to stop.
const GRACE: Duration = Duration::from_secs(1);

/// A writer of lines with a thread of its own.
pub(super) struct Lines {
    waiting: SyncSender<String>,
    lost: Arc<AtomicU64>,
    writer: JoinHandle<()>,
}

impl Lines {
    /// Begins to write to `out`.
    ///
    /// # Errors
    ///
    /// When there can be no thread.
    pub(super) fn to(out: impl Write + Send + 'static) -> Result<Self> {
        let (waiting, lines) = sync_channel(MOST_WAITING);
        let lost = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&lost);
        let writer = essential::thread("lines", move || write_all(out, &lines, &counter))
            .context("starting a thread for standard output")?;
        Ok(Self { waiting, lost, writer })
    }

    /// Writes a line when its turn comes.
    pub(super) fn write(&self, line: String) {
        if self.waiting.try_send(line).is_err() {
            lose(&self.lost, "the reader is too slow");
        }
    }

    /// Lets what waits be written, though not for long.
    pub(super) fn finish(self) {
        let Self { waiting, writer, .. } = self;
        drop(waiting);
        let begun = Instant::now();
        while !writer.is_finished() && begun.elapsed() < GRACE {
            thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Says the first of a stretch.
fn lose(lost: &AtomicU64, why: &str) {
    if lost.fetch_add(1, Ordering::Relaxed) == 0 {
        warn!(
            "cannot write verdicts to standard output: {why}; they are lost, counters are \
             unaffected"
        );
    }
}

fn write_all(mut out: impl Write, lines: &Receiver<String>, lost: &AtomicU64) {
    let mut is_torn = false;
    while let Ok(line) = lines.recv() {
        match write_one(&mut out, &line, is_torn) {
            Ok(()) => {
                is_torn = false;
                let before = lost.swap(0, Ordering::Relaxed);
                if before > 0 {
                    warn!("standard output works again; {before} verdicts were lost");
                }
            }
            Err(error) => {
                // Part of it may have been written.
                is_torn = true;
                lose(lost, &error.to_string());
            }
        }
    }
}

/// In one piece, so that lines of others' do not get in between.
fn write_one(out: &mut impl Write, line: &str, after_torn: bool) -> io::Result<()> {
    let begin = if after_torn { "\n" } else { "" };
    out.write_all(format!("{begin}{line}\n").as_bytes())?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, mpsc};

    use super::*;

    /// Fails while it is told to, after half of what was to be written.
    #[derive(Clone, Default)]
    struct Disk {
        is_full: Arc<Mutex<bool>>,
        written: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let full = *self.is_full.lock().unwrap();
            let mut written = self.written.lock().unwrap();
            if full && written.len() % 2 == 1 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            let part = if full { 1 } else { bytes.len() };
            written.extend(&bytes[..part]);
            Ok(part)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn until(what: impl Fn() -> bool) {
        let begun = Instant::now();
        while !what() {
            assert!(begun.elapsed() < Duration::from_secs(60));
            thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn a_full_disk_costs_lines_and_no_more() {
        let disk = Disk::default();
        let lines = Lines::to(disk.clone()).unwrap();
        lines.write("1".to_owned());
        until(|| disk.written.lock().unwrap().len() == 2);
        *disk.is_full.lock().unwrap() = true;
        lines.write("22".to_owned());
        until(|| lines.lost.load(Ordering::Relaxed) == 1);
        *disk.is_full.lock().unwrap() = false;
        lines.write("3".to_owned());
        lines.finish();
        // The line that was torn ends before the next one.
        assert_eq!(*disk.written.lock().unwrap(), b"1\n2\n3\n");
    }

    #[test]
    fn a_reader_that_hangs_holds_nobody_up() {
        struct Hanging(mpsc::Receiver<()>);
        impl Write for Hanging {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                let _ = self.0.recv();
                Ok(bytes.len())
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (release, hanging) = mpsc::channel();
        let lines = Lines::to(Hanging(hanging)).unwrap();
        (0..MOST_WAITING + 10).for_each(|n| lines.write(n.to_string()));
        assert!(lines.lost.load(Ordering::Relaxed) >= 9);
        drop(release);
        lines.finish();
    }
}
