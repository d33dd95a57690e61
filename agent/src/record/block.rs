//! Blocks: each with its length and checksums, so that what is whole can be told from what is not.
//!
//! All numbers are little-endian. A file is a header and blocks:
//!
//! ```text
//! header  "FLOODMRK" · major u16 · minor u16 · length u32 · CRC-32 of the body u32 · body
//! block   "FMBK" · kind u8 · 0 u8 · 0 u16 · length u32 · length unpacked u32 · first u64 · last u64
//!         · CRC-32 of the body u32 · CRC-32 of the 36 bytes before u32 · body
//! ```

use bytes::Bytes;
use nix::sys::utsname::uname;
use serde::{Deserialize, Serialize};

use super::{entry::Entry, weight};
use crate::time::UnixMs;

/// The version of the format: major, and minor for fields that were added.
pub const VERSION: (u16, u16) = (1, 1);
/// Begins a file.
const MAGIC: &[u8; 8] = b"FLOODMRK";
/// Begins a block.
pub(super) const BLOCK_MAGIC: &[u8; 4] = b"FMBK";
/// Length of a file's head before its body.
pub(super) const HEADER_HEAD: usize = 20;
/// Length of a block's head.
pub(super) const BLOCK_HEAD: usize = 40;
/// Longest body of a file's header.
const LONGEST_HEADER: usize = 64 << 10;
/// Longest block, unpacked. The inventory of a host with 100,000 listeners fits.
pub(super) const LONGEST_BLOCK: usize = 64 << 20;
/// How much a block may grow when it is unpacked, beyond [`FREE_GROWTH`]. The agent's own blocks grow
/// less than a hundredfold.
const HIGHEST_RATIO: usize = 1000;
const FREE_GROWTH: usize = 256 << 10;
/// Most entries in a block. The agent closes a block after 5 s, which are seven at most.
const MOST_ENTRIES: usize = 1000;
/// How hard zstd tries: its own default, which costs little and gains more than lower ones.
const LEVEL: i32 = 3;

/// What a file says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Version of the program that wrote it.
    #[serde(default)]
    pub program: String,
    /// `uname -r`.
    #[serde(default)]
    pub kernel: String,
    /// When the agent began to watch. What is recorded may begin later.
    #[serde(default)]
    pub watching_since: UnixMs,
    /// Whether client addresses and request lines were taken out.
    #[serde(default)]
    pub is_redacted: bool,
}

/// Why something cannot be read at all.
#[derive(Debug, thiserror::Error)]
pub enum NotARecording {
    /// It is no recording, or its header is damaged.
    #[error("this is no recording of Floodmark's, or its first bytes are damaged")]
    NoHeader,
    /// It was written by a later version.
    #[error(
        "this recording has format {0}, and this version of floodmark reads format {1} and \
         older: use the version that wrote it, or a later one"
    )]
    Newer(u16, u16),
    /// The file cannot be read.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

impl Header {
    /// Of a recording by this program on this host.
    pub fn here(watching_since: UnixMs, is_redacted: bool) -> Self {
        let kernel = uname().map(|name| name.release().to_string_lossy().into_owned());
        Self {
            program: env!("CARGO_PKG_VERSION").to_owned(),
            kernel: kernel.unwrap_or_default(),
            watching_since,
            is_redacted,
        }
    }

    /// The header as bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let body = rmp_serde::to_vec_named(self).unwrap_or_default();
        let mut bytes = MAGIC.to_vec();
        bytes.extend(VERSION.0.to_le_bytes());
        bytes.extend(VERSION.1.to_le_bytes());
        bytes.extend((body.len() as u32).to_le_bytes());
        bytes.extend(crc32fast::hash(&body).to_le_bytes());
        bytes.extend(body);
        bytes
    }

    /// Length of the body that follows a file's first [`HEADER_HEAD`] bytes.
    pub(super) fn body_length(head: &[u8; HEADER_HEAD]) -> Result<usize, NotARecording> {
        if !head.starts_with(MAGIC) {
            return Err(NotARecording::NoHeader);
        }
        let major = u16::from_le_bytes([head[8], head[9]]);
        if major > VERSION.0 {
            return Err(NotARecording::Newer(major, VERSION.0));
        }
        let length = u32_at(head, 12) as usize;
        (length <= LONGEST_HEADER).then_some(length).ok_or(NotARecording::NoHeader)
    }

    pub(super) fn of_body(head: &[u8; HEADER_HEAD], body: &[u8]) -> Result<Self, NotARecording> {
        if crc32fast::hash(body) != u32_at(head, 16) {
            return Err(NotARecording::NoHeader);
        }
        rmp_serde::from_slice(body).map_err(|_| NotARecording::NoHeader)
    }
}

/// A block, packed.
#[derive(Clone, Debug)]
pub struct Block {
    /// Whether reading may begin with it: its first entry is the whole state.
    pub is_start: bool,
    /// Time of its first tick.
    pub first: UnixMs,
    /// Time of its last tick.
    pub last: UnixMs,
    /// Head and body.
    pub bytes: Bytes,
}

/// What a block's head says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub kind: Kind,
    pub length: usize,
    pub unpacked: usize,
    pub first: UnixMs,
    pub last: UnixMs,
    body_checksum: u32,
}

/// The kinds of blocks, as in their heads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    Ticks = 0,
    /// The whole state, and ticks.
    Start = 1,
    /// The writer came to its end. Nothing is in it.
    End = 2,
}

impl Block {
    /// Packs entries, given as bytes one after the other.
    ///
    /// # Errors
    ///
    /// When zstd finds no memory.
    pub(super) fn pack(
        kind: Kind,
        (first, last): (UnixMs, UnixMs),
        entries: &[u8],
    ) -> std::io::Result<Self> {
        let body = zstd::bulk::compress(entries, LEVEL)?;
        let mut bytes = BLOCK_MAGIC.to_vec();
        bytes.extend([kind as u8, 0, 0, 0]);
        bytes.extend((body.len() as u32).to_le_bytes());
        bytes.extend((entries.len() as u32).to_le_bytes());
        bytes.extend(first.0.to_le_bytes());
        bytes.extend(last.0.to_le_bytes());
        bytes.extend(crc32fast::hash(&body).to_le_bytes());
        bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
        bytes.extend(body);
        Ok(Self { is_start: kind == Kind::Start, first, last, bytes: bytes.into() })
    }

    /// The block that ends a recording.
    pub(super) fn end(at: UnixMs) -> std::io::Result<Self> {
        Self::pack(Kind::End, (at, at), &[])
    }
}

impl Head {
    /// Reads a head; `None` where it is damaged.
    pub fn of(bytes: &[u8; BLOCK_HEAD]) -> Option<Self> {
        let is_whole = bytes.starts_with(BLOCK_MAGIC)
            && crc32fast::hash(&bytes[..BLOCK_HEAD - 4]) == u32_at(bytes, BLOCK_HEAD - 4);
        let kind = match bytes[4] {
            1 => Kind::Start,
            2 => Kind::End,
            _ => Kind::Ticks,
        };
        let unpacked = u32_at(bytes, 12) as usize;
        let length = u32_at(bytes, 8) as usize;
        // What zstd cannot make smaller grows by less than a hundredth.
        let is_likely = length <= unpacked + unpacked / 100 + 1024
            && unpacked <= LONGEST_BLOCK
            && unpacked <= FREE_GROWTH.saturating_add(length.saturating_mul(HIGHEST_RATIO));
        (is_whole && is_likely).then(|| Self {
            kind,
            length,
            unpacked,
            first: UnixMs(u64_at(bytes, 16)),
            last: UnixMs(u64_at(bytes, 24)),
            body_checksum: u32_at(bytes, 32),
        })
    }

    /// Unpacks a body; `None` where it is damaged, or claims more than this program can have written.
    pub fn entries(&self, body: &[u8]) -> Option<Entries> {
        if crc32fast::hash(body) != self.body_checksum {
            return None;
        }
        Entries::of(zstd::bulk::decompress(body, self.unpacked).ok()?.into())
    }
}

/// A block's entries, all known to be whole. They are decoded one at a time: decoded, an entry takes many
/// times its bytes.
#[derive(Debug)]
pub struct Entries {
    rest: Bytes,
    count: usize,
}

impl Entries {
    fn of(bytes: Bytes) -> Option<Self> {
        let mut rest = bytes.as_ref();
        let mut count = 0;
        while !rest.is_empty() {
            let (entry, behind) = rest.split_at(weight::length(rest)?);
            rmp_serde::from_slice::<Entry>(entry).ok()?;
            rest = behind;
            count += 1;
            if count > MOST_ENTRIES {
                return None;
            }
        }
        Some(Self { rest: bytes, count })
    }
}

impl Iterator for Entries {
    type Item = Entry;

    fn next(&mut self) -> Option<Entry> {
        self.count = self.count.checked_sub(1)?;
        let bytes = self.rest.split_to(weight::length(&self.rest)?);
        rmp_serde::from_slice(&bytes).ok()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.count, Some(self.count))
    }
}

impl ExactSizeIterator for Entries {}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}
