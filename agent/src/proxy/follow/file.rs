//! One log file being read: its new bytes, cut into lines.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::MetadataExt,
    path::Path,
    sync::atomic::Ordering,
};

use bytes::{Buf, BytesMut};

use super::SourceStats;

/// A line without an end is given up at this length.
pub(super) const LONGEST: usize = 64 * 1024;
/// Read at a time.
const CHUNK: usize = 64 * 1024;

/// An open log file.
pub(super) struct LogFile {
    file: File,
    device: u64,
    inode: u64,
    position: u64,
    unfinished: BytesMut,
    /// Inside a line that is too long: everything up to its end is thrown away.
    skipping: bool,
}

impl LogFile {
    /// Opens `path`, to be read from its end or from its start.
    pub(super) fn open(path: &Path, at_end: bool) -> io::Result<Self> {
        // Before it is opened: opening a FIFO would wait for a writer.
        if !path.metadata()?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        let mut file = File::open(path)?;
        let metadata = file.metadata()?;
        let position = if at_end { file.seek(SeekFrom::End(0))? } else { 0 };
        Ok(Self {
            file,
            device: metadata.dev(),
            inode: metadata.ino(),
            position,
            unfinished: BytesMut::new(),
            skipping: false,
        })
    }

    /// Whether `path` leads to another file by now. A path that leads nowhere has no successor to
    /// this file yet.
    pub(super) fn has_successor(&self, path: &Path) -> bool {
        path.metadata().is_ok_and(|there| (there.dev(), there.ino()) != (self.device, self.inode))
    }

    /// Bytes written and not read yet.
    pub(super) fn lag(&self) -> u64 {
        self.file.metadata().map_or(0, |metadata| metadata.len().saturating_sub(self.position))
    }

    /// Reads one chunk and hands over the lines that end in it, without their ends. False at the
    /// end of the file.
    pub(super) fn read(
        &mut self,
        stats: &SourceStats,
        on_line: impl FnMut(&[u8]),
    ) -> io::Result<bool> {
        if self.file.metadata()?.len() < self.position {
            // Cut short and written anew (logrotate's copytruncate).
            self.position = self.file.seek(SeekFrom::Start(0))?;
            self.unfinished.clear();
            self.skipping = false;
            stats.rotations.fetch_add(1, Ordering::Relaxed);
        }
        let from = self.unfinished.len();
        self.unfinished.resize(from + CHUNK, 0);
        let read = self.file.read(&mut self.unfinished[from..]);
        let length = *read.as_ref().unwrap_or(&0);
        self.unfinished.truncate(from + length);
        self.position += length as u64;
        read?;
        self.cut_lines(stats, on_line);
        Ok(length > 0)
    }

    fn cut_lines(&mut self, stats: &SourceStats, mut on_line: impl FnMut(&[u8])) {
        while let Some(end) = self.unfinished.iter().position(|byte| *byte == b'\n') {
            let line = self.unfinished.split_to(end);
            self.unfinished.advance(1);
            if std::mem::replace(&mut self.skipping, false) {
                continue;
            }
            stats.lines.fetch_add(1, Ordering::Relaxed);
            on_line(line.strip_suffix(b"\r").unwrap_or(&line));
        }
        if self.unfinished.len() > LONGEST {
            self.unfinished.clear();
            if !std::mem::replace(&mut self.skipping, true) {
                stats.lines_too_long.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Bytes held of a line whose end has not been written.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.unfinished.len()
    }
}
