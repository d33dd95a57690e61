//! One log file being read: its new bytes, cut into lines.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::MetadataExt,
    path::Path,
    sync::atomic::Ordering,
};

use bytes::{Buf, BytesMut};

use crate::{
    proxy::source::{LONGEST_LINE, SourceStats, positions::Place},
    untrusted_file,
};

/// Read at a time.
const CHUNK: usize = 64 * 1024;
/// When more bytes than this wait to be read, most are skipped: a sparse file of any length costs its
/// writer nothing.
const LONGEST_LAG: u64 = 4 << 30;
/// What of these is still read.
const READ_AFTER_SKIP: u64 = 64 << 20;

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
        let mut file = untrusted_file::open(path)?;
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

    /// Whether both are the same file, whatever its names.
    pub(super) fn is_same_as(&self, other: &Self) -> bool {
        (self.device, self.inode) == (other.device, other.inode)
    }

    /// Whether `path` leads to another file by now. A path that leads nowhere has no successor to
    /// this file yet.
    pub(super) fn has_successor(&self, path: &Path) -> bool {
        untrusted_file::metadata(path)
            .is_ok_and(|there| (there.dev(), there.ino()) != (self.device, self.inode))
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
        let length = self.file.metadata()?.len();
        if length < self.position {
            // Cut short and written anew (logrotate's copytruncate).
            self.position = self.file.seek(SeekFrom::Start(0))?;
            self.new_from = 0;
            self.unfinished.clear();
            self.skipping = false;
            stats.rotations.fetch_add(1, Ordering::Relaxed);
        }
        let unread = length.saturating_sub(self.position);
        if unread > LONGEST_LAG {
            self.skip_to(length - READ_AFTER_SKIP, stats)?;
        }
        // No further than the file is long: what has no length gives no end of bytes.
        let from = self.unfinished.len();
        self.unfinished.resize(from + CHUNK.min(unread as usize), 0);
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

    /// Leaves out what there is no time to read: everything before `place`, and the line there.
    fn skip_to(&mut self, place: u64, stats: &SourceStats) -> io::Result<()> {
        stats.skipped_bytes.fetch_add(place - self.position, Ordering::Relaxed);
        self.position = self.file.seek(SeekFrom::Start(place))?;
        self.unfinished.clear();
        self.skipping = true;
        Ok(())
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
