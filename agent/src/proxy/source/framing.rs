//! Syslog over a stream, RFC 6587: messages by octet count (`LEN SP MSG`), or ended by a line feed.
//! A message that begins with a digit other than 0 has a count, for its `<PRI>` begins with `<`.

use bytes::{Buf, BytesMut};

use super::LONGEST_LINE;

/// Digits of a count at most: 99999 is longer than any line kept.
const MOST_DIGITS: usize = 5;

/// Cuts a stream into messages. Holds at most one message and what was read at once.
#[derive(Debug, Default)]
pub struct Frames {
    buffer: BytesMut,
    skip: Skip,
}

/// What is being thrown away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Skip {
    #[default]
    Nothing,
    /// So many bytes of a message that is too long.
    Bytes(usize),
    /// All up to the next line feed.
    Line,
}

/// A frame, or one that was too long.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame {
    /// A message, without its ending.
    Message(BytesMut),
    /// A message longer than is kept; it is thrown away.
    TooLong,
}

impl Frames {
    /// Takes in what was read.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Bytes held.
    pub fn held(&self) -> usize {
        self.buffer.len()
    }

    /// The message that the sender left without an ending when it closed.
    pub fn ending(&mut self) -> Option<BytesMut> {
        let rest = std::mem::take(&mut self.buffer);
        (self.skip == Skip::Nothing && !rest.is_empty()).then_some(rest)
    }
}

impl Iterator for Frames {
    type Item = Frame;

    /// The next message that is all there.
    fn next(&mut self) -> Option<Frame> {
        if !self.skip() {
            return None;
        }
        // Some senders end a counted message by a line feed as well.
        while self.buffer.first() == Some(&b'\n') {
            self.buffer.advance(1);
        }
        match count(&self.buffer) {
            Count::Of(length, digits) if length > LONGEST_LINE => {
                self.buffer.advance(digits + 1);
                self.skip = Skip::Bytes(length);
                Some(Frame::TooLong)
            }
            Count::Of(length, digits) => {
                let is_whole = self.buffer.len() > digits + length;
                is_whole.then(|| {
                    self.buffer.advance(digits + 1);
                    Frame::Message(self.buffer.split_to(length))
                })
            }
            Count::Unfinished => None,
            Count::None => self.line(),
        }
    }
}

impl Frames {
    /// Throws away what is to be; false while there is more of it to come.
    fn skip(&mut self) -> bool {
        match self.skip {
            Skip::Nothing => {}
            Skip::Bytes(rest) => {
                let gone = rest.min(self.buffer.len());
                self.buffer.advance(gone);
                self.skip = if gone == rest { Skip::Nothing } else { Skip::Bytes(rest - gone) };
            }
            Skip::Line => match memchr::memchr(b'\n', &self.buffer) {
                Some(end) => {
                    self.buffer.advance(end + 1);
                    self.skip = Skip::Nothing;
                }
                None => self.buffer.clear(),
            },
        }
        self.skip == Skip::Nothing
    }

    /// The message that ends in a line feed.
    fn line(&mut self) -> Option<Frame> {
        if let Some(end) = memchr::memchr(b'\n', &self.buffer) {
            let line = self.buffer.split_to(end);
            self.buffer.advance(1);
            return Some(if end > LONGEST_LINE { Frame::TooLong } else { Frame::Message(line) });
        }
        let is_too_long = self.buffer.len() > LONGEST_LINE;
        is_too_long.then(|| {
            self.skip = Skip::Line;
            self.buffer.clear();
            Frame::TooLong
        })
    }
}

enum Count {
    /// So many bytes, said in so many digits.
    Of(usize, usize),
    /// Digits only, so far.
    Unfinished,
    None,
}

fn count(buffer: &[u8]) -> Count {
    if !matches!(buffer.first(), Some(b'1'..=b'9')) {
        return Count::None;
    }
    let digits = buffer.iter().take(MOST_DIGITS + 1).take_while(|b| b.is_ascii_digit()).count();
    match buffer.get(digits) {
        None if digits <= MOST_DIGITS => Count::Unfinished,
        Some(b' ') if digits <= MOST_DIGITS => {
            let number = buffer[..digits].iter().fold(0, |n, b| n * 10 + usize::from(b - b'0'));
            Count::Of(number, digits)
        }
        _ => Count::None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The messages of a stream that comes in pieces of `size`.
    fn messages(stream: &[u8], size: usize) -> Vec<String> {
        let mut frames = Frames::default();
        let mut found = Vec::new();
        let mut told = |frame| match frame {
            Frame::Message(bytes) => found.push(String::from_utf8_lossy(&bytes).into_owned()),
            Frame::TooLong => found.push("too long".to_owned()),
        };
        for piece in stream.chunks(size) {
            frames.push(piece);
            frames.by_ref().for_each(&mut told);
        }
        if let Some(last) = frames.ending() {
            told(Frame::Message(last));
        }
        found
    }

    #[test]
    fn both_framings_are_read_however_the_stream_is_cut() {
        let stream = b"5 <1>ab<2>cd\n7 <3>e\nf\n\n<4>g\n<5>h";
        for size in [1, 2, 3, 100] {
            let expected = ["<1>ab", "<2>cd", "<3>e\nf\n", "<4>g", "<5>h"];
            assert_eq!(messages(stream, size), expected, "{size}");
        }
    }

    #[test]
    fn what_is_too_long_is_skipped_and_told_once() {
        let long = "x".repeat(LONGEST_LINE + 10);
        let counted = format!("{} {long}5 <1>ab", long.len());
        assert_eq!(messages(counted.as_bytes(), 1000), ["too long", "<1>ab"]);
        let lined = format!("<{long}\n<1>ab\n");
        assert_eq!(messages(lined.as_bytes(), 1000), ["too long", "<1>ab"]);
    }

    #[test]
    fn memory_is_bounded() {
        let mut frames = Frames::default();
        for _ in 0..1000 {
            frames.push(&[b'x'; 4096]);
            frames.by_ref().for_each(drop);
            assert!(frames.held() <= LONGEST_LINE + 4096);
        }
        let mut frames = Frames::default();
        frames.push(b"65536 ");
        for _ in 0..1000 {
            frames.push(&[b'x'; 4096]);
            frames.by_ref().for_each(drop);
            assert!(frames.held() <= LONGEST_LINE + 4096 + 6);
        }
    }

    #[test]
    fn digits_without_an_end_are_no_count() {
        assert_eq!(messages(b"999999 x\n", 1), ["999999 x"]);
        assert_eq!(messages(b"2026/11/20 19:47:51 [error]\n", 1), ["2026/11/20 19:47:51 [error]"]);
    }
}
