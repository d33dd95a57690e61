//! From a file's bytes to entries, whatever befell the file.

use std::io::{self, Read};

use bytes::{Buf, BytesMut};
use memchr::memmem;

use super::block::{
    BLOCK_HEAD, BLOCK_MAGIC, Entries, HEADER_HEAD, Head, Header, Kind, NotARecording,
};
use crate::time::{UnixMs, Window};

/// Read from the file at a time.
const CHUNK: usize = 64 << 10;

/// Reads blocks. After a damaged one it goes on where the whole state is told again.
pub struct Reader<R> {
    input: R,
    header: Header,
    /// Bytes read, and not yet taken.
    buffer: BytesMut,
    /// Whether what comes next can be made sense of.
    is_in_step: bool,
    /// End of the last block that was read.
    last: UnixMs,
    damage: Damage,
}

/// What a file lacks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Damage {
    /// Stretches of time that cannot be read, for a block was damaged. One that lasts to the end of
    /// the file ends where it begins.
    pub gaps: Vec<Window>,
    /// Bytes after the last whole block.
    pub cut_bytes: u64,
    /// Whether the writer came to its end.
    pub has_end: bool,
}

impl Damage {
    /// Whether nothing is missing inside of what was recorded. The end may be.
    pub fn is_whole(&self) -> bool {
        self.gaps.is_empty()
    }
}

/// A block's entries.
#[derive(Debug)]
pub struct Unpacked {
    /// Its first entry is the whole state.
    pub is_start: bool,
    /// Times of its first and last tick.
    pub times: Window,
    pub entries: Entries,
}

impl<R: Read> Reader<R> {
    /// Reads the header.
    ///
    /// # Errors
    ///
    /// When it is no recording, or of a later major version.
    pub fn open(mut input: R) -> Result<Self, NotARecording> {
        let mut head = [0; HEADER_HEAD];
        read_exactly(&mut input, &mut head)?;
        let mut body = vec![0; Header::body_length(&head)?];
        read_exactly(&mut input, &mut body)?;
        let header = Header::of_body(&head, &body)?;
        Ok(Self {
            input,
            last: header.watching_since,
            header,
            buffer: BytesMut::new(),
            is_in_step: false,
            damage: Damage::default(),
        })
    }

    /// What the file says of itself.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// What the file lacks, as far as it was read.
    pub fn damage(&self) -> &Damage {
        &self.damage
    }

    /// The next block that can be made sense of; `None` at the end.
    ///
    /// # Errors
    ///
    /// When the file cannot be read.
    pub fn next_block(&mut self) -> io::Result<Option<Unpacked>> {
        while self.fill(BLOCK_HEAD)? {
            let Some(head) = self.head() else {
                self.lose_step();
                self.search()?;
                continue;
            };
            if !self.fill(BLOCK_HEAD + head.length)? {
                break;
            }
            let block = self.buffer.split_to(BLOCK_HEAD + head.length);
            match head.entries(&block[BLOCK_HEAD..]) {
                Some(entries) => {
                    if let Some(unpacked) = self.keep(&head, entries) {
                        return Ok(Some(unpacked));
                    }
                }
                None => self.lose_step(),
            }
        }
        self.damage.cut_bytes = self.buffer.len() as u64;
        Ok(None)
    }

    fn head(&self) -> Option<Head> {
        Head::of(self.buffer.first_chunk()?)
    }

    /// A block that comes in step.
    fn keep(&mut self, head: &Head, entries: Entries) -> Option<Unpacked> {
        self.damage.has_end = head.kind == Kind::End;
        if head.kind == Kind::End {
            return None;
        }
        let is_start = head.kind == Kind::Start;
        if is_start && !self.is_in_step {
            self.is_in_step = true;
            if let Some(gap) = self.damage.gaps.last_mut() {
                gap.to = gap.to.max(head.first);
            }
        }
        self.is_in_step.then(|| {
            self.last = head.last;
            Unpacked { is_start, times: Window { from: head.first, to: head.last }, entries }
        })
    }

    /// What comes next means nothing until the whole state is told again.
    fn lose_step(&mut self) {
        let is_known = !self.is_in_step && !self.damage.gaps.is_empty();
        self.is_in_step = false;
        if !is_known {
            self.damage.gaps.push(Window { from: self.last, to: self.last });
        }
    }

    /// Goes on to whatever looks like a block.
    fn search(&mut self) -> io::Result<()> {
        self.buffer.advance(1);
        loop {
            if let Some(at) = memmem::find(&self.buffer, BLOCK_MAGIC) {
                self.buffer.advance(at);
                return Ok(());
            }
            // The magic may lie across two chunks.
            let rest = self.buffer.len().min(BLOCK_MAGIC.len() - 1);
            self.buffer.advance(self.buffer.len() - rest);
            if !self.fill(rest + 1)? {
                return Ok(());
            }
        }
    }

    /// Reads on until `wanted` bytes wait; false where the file ends before.
    fn fill(&mut self, wanted: usize) -> io::Result<bool> {
        while self.buffer.len() < wanted {
            let before = self.buffer.len();
            self.buffer.resize(before + CHUNK, 0);
            let read = self.input.read(&mut self.buffer[before..]);
            self.buffer.truncate(before + *read.as_ref().unwrap_or(&0));
            match read {
                Ok(0) => return Ok(false),
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
        }
        Ok(true)
    }
}

fn read_exactly(input: &mut impl Read, bytes: &mut [u8]) -> Result<(), NotARecording> {
    input.read_exact(bytes).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => NotARecording::NoHeader,
        _ => error.into(),
    })
}
