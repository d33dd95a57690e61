//! Recordings in files.

use std::{
    collections::VecDeque,
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use super::{
    block::{Block, Header, Kind},
    reader::{Damage, Reader},
    recorder::Sink,
    redact::Redactor,
};
use crate::new_file;

/// Writes blocks to a file; where that has a greatest size, the oldest go when it is reached.
pub struct FileSink {
    file: File,
    path: PathBuf,
    header: Vec<u8>,
    most: u64,
    /// Length of each block in the file, and whether reading may begin with it.
    blocks: VecDeque<(u64, bool)>,
    size: u64,
    since_start: u64,
}

impl FileSink {
    /// Begins a new file, for its owner alone: it tells who talks with whom.
    ///
    /// # Errors
    ///
    /// When there is such a file already, or it cannot be written.
    pub fn create(path: &Path, header: &Header, most: Option<u64>) -> Result<Self> {
        let header = header.to_bytes();
        let created = new_file::create(path);
        let mut file = created.with_context(|| path.display().to_string())?;
        file.write_all(&header).with_context(|| format!("writing {}", path.display()))?;
        let (most, size) = (most.unwrap_or(u64::MAX), header.len() as u64);
        let blocks = VecDeque::new();
        Ok(Self { file, path: path.to_owned(), header, most, blocks, size, since_start: 0 })
    }

    /// Lets the older half go, as far as reading may begin after it. The file is at each moment one
    /// that can be read: the new one takes its place when it is whole.
    fn shorten(&mut self) -> Result<()> {
        let mut dropped = 0;
        let mut keep = None;
        for (place, (length, is_start)) in self.blocks.iter().enumerate() {
            if place > 0 && *is_start {
                keep = Some((place, dropped));
                if dropped >= self.size / 2 {
                    break;
                }
            }
            dropped += length;
        }
        let Some((first_kept, dropped)) = keep else { return Ok(()) };
        let (mut shorter, part) = new_file::create_part(&self.path)?;
        shorter.write_all(&self.header)?;
        self.file.seek(SeekFrom::Start(self.header.len() as u64 + dropped))?;
        io::copy(&mut self.file, &mut shorter)?;
        fs::rename(&part, &self.path)?;
        self.file = shorter;
        self.blocks.drain(..first_kept);
        self.size -= dropped;
        Ok(())
    }
}

impl Sink for FileSink {
    fn take(&mut self, block: Block) -> Result<()> {
        let path = self.path.display();
        self.file.write_all(&block.bytes).with_context(|| format!("writing {path}"))?;
        let length = block.bytes.len() as u64;
        self.size += length;
        self.since_start = if block.is_start { length } else { self.since_start + length };
        self.blocks.push_back((length, block.is_start));
        if self.size > self.most {
            self.shorten().with_context(|| format!("shortening {}", self.path.display()))?;
        }
        Ok(())
    }

    fn wants_start(&self) -> bool {
        self.since_start > self.most / 4
    }
}

/// Writes a recording anew, through `redactor`; tells what the old one lacked.
///
/// # Errors
///
/// When the one cannot be read or the other not be written.
pub fn transcribe(
    from: &mut Reader<impl Read>,
    to: &Path,
    mut redactor: Option<Redactor>,
) -> Result<Damage> {
    let is_redacted = redactor.is_some() || from.header().is_redacted;
    let header = Header { is_redacted, ..from.header().clone() };
    let mut sink = FileSink::create(to, &header, None)?;
    let mut last = header.watching_since;
    while let Some(block) = from.next_block()? {
        let mut entries = Vec::new();
        for mut entry in block.entries {
            if let Some(redactor) = &mut redactor {
                redactor.redact(&mut entry);
            }
            rmp_serde::encode::write_named(&mut entries, &entry)?;
        }
        let kind = if block.is_start { Kind::Start } else { Kind::Ticks };
        last = block.times.to;
        sink.take(Block::pack(kind, (block.times.from, last), &entries)?)?;
    }
    if from.damage().has_end {
        sink.take(Block::end(last)?)?;
    }
    Ok(from.damage().clone())
}
