//! One log file being read: its new bytes, cut into lines.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::MetadataExt,
    path::Path,
    sync::atomic::Ordering,
};

use bytes::{Buf, BytesMut};

use crate::proxy::source::{LONGEST_LINE, SourceStats, positions::Place};

/// Read at a time.
const CHUNK: usize = 64 * 1024;

/// An open log file.
pub(super) struct LogFile {
    file: File,
    device: u64,
    inode: u64,
    position: u64,
    /// Where lines begin that were written since it was opened.
    new_from: u64,
    unfinished: BytesMut,
    /// Inside a line that is too long: everything up to its end is thrown away.
    skipping: bool,
}

impl LogFile {
    /// Opens `path`, to be read from its end or from its start.
    pub(super) fn open(path: &Path, at_end: bool) -> io::Result<Self> {
        let place = if at_end { SeekFrom::End(0) } else { SeekFrom::Start(0) };
        Ok(Self { new_from: 0, ..Self::open_at(path, place)? })
    }

    /// Opens `path`, to be read on from a place in it.
    pub(super) fn open_at(path: &Path, place: SeekFrom) -> io::Result<Self> {
        // Before it is opened: opening a FIFO would wait for a writer.
        if !path.metadata()?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        let mut file = File::open(path)?;
        let metadata = file.metadata()?;
        let position = file.seek(place)?;
        Ok(Self {
            file,
            device: metadata.dev(),
            inode: metadata.ino(),
            position,
            new_from: metadata.len(),
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

    /// Reads one chunk and hands over the lines that end in it, without their line feeds. False at the
    /// end of the file.
    pub(super) fn read(
        &mut self,
        stats: &SourceStats,
        on_line: impl FnMut(&[u8]),
    ) -> io::Result<bool> {
        if self.file.metadata()?.len() < self.position {
            // Cut short and written anew (logrotate's copytruncate).
            self.position = self.file.seek(SeekFrom::Start(0))?;
            self.new_from = 0;
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
        cut_lines(&mut self.unfinished, &mut self.skipping, stats, on_line);
        Ok(length > 0)
    }

    /// Whether the next lines were written while nobody read them.
    pub(super) fn is_behind(&self) -> bool {
        self.position < self.new_from
    }

    /// Where to go on after a restart: behind the last line that was handed over.
    pub(super) fn place(&self) -> Place {
        let offset = self.position - self.unfinished.len() as u64;
        Place { device: self.device, inode: self.inode, offset }
    }

    /// Bytes held of a line whose end has not been written.
    pub(super) fn held(&self) -> usize {
        self.unfinished.len()
    }
}

/// Hands over the lines that end in `unfinished`, without their line feeds, and leaves the rest there. A
/// line that grows too long is thrown away up to its end, while `skipping`.
pub(in crate::proxy::source) fn cut_lines(
    unfinished: &mut BytesMut,
    skipping: &mut bool,
    stats: &SourceStats,
    mut on_line: impl FnMut(&[u8]),
) {
    while let Some(end) = memchr::memchr(b'\n', unfinished) {
        let line = unfinished.split_to(end);
        unfinished.advance(1);
        if !std::mem::replace(skipping, false) {
            on_line(&line);
        }
    }
    if unfinished.len() > LONGEST_LINE {
        unfinished.clear();
        if !std::mem::replace(skipping, true) {
            SourceStats::count(&stats.lines_too_long);
        }
    }
}
