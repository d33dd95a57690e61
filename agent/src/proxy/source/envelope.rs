//! What lines are wrapped in on their way: container runtimes, journald, syslog, log shippers and the
//! commands that print logs each put something around a proxy's words, one around the other, and may
//! cut a line in pieces. [`LAYERS`] is the table of all; every format of every proxy is read through it.
//!
//! **What a client writes must not look like a wrapping.** nginx does not escape line feeds, so a client
//! may begin a line with the wrapping of its choice. All lines of a source have the same wrappings in the
//! same order: its [`Shape`]. It is taken from the first line that is in nginx's form, which stands
//! before whatever a client can add to it, and holds until nothing has been written for a while.

mod container;
mod json;
mod logfmt;
mod prefix;
mod stamp;
mod syslog;

use std::{borrow::Cow, ops::Range};

use super::LONGEST_LINE;
use crate::{
    proxy::{bytes::past_ansi, event::Carrier, timestamp::When},
    time::UnixMs,
};

/// A wrapping that this layer takes off, and how.
struct Layer {
    name: &'static str,
    peel: fn(&[u8], UnixMs) -> Option<Peeled>,
}

/// Every wrapping there is. Where several would fit, the first does.
const LAYERS: &[Layer] = &[
    Layer { name: "CRI", peel: container::cri },
    Layer { name: "Docker json-file", peel: container::docker },
    Layer { name: "journald JSON", peel: json::journal },
    Layer { name: "JSON", peel: json::any },
    Layer { name: "syslog", peel: syslog::rfc5424 },
    Layer { name: "syslog", peel: syslog::rfc3164 },
    Layer { name: "logfmt", peel: logfmt::any },
    Layer { name: "prefix", peel: prefix::any },
    Layer { name: "time", peel: stamp::any },
];
/// Wrappings around one line at most.
const DEEPEST: usize = 6;

/// The wrappings around a line, outermost first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shape(Vec<&'static str>);

/// Takes the wrappings off the lines of one source, and puts the pieces of cut lines together.
#[derive(Debug, Default)]
pub struct Unwrapper {
    pieces: [Pieces; Stream::COUNT],
    shape: Option<Shape>,
}

/// What has come of a cut line, on one stream.
#[derive(Debug, Default)]
struct Pieces {
    bytes: Vec<u8>,
    /// The line being put together has grown too long: the rest of it is thrown away.
    overlong: bool,
}

/// What a container's line was written to. Runtimes mix both in one file, each line cut on its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stream {
    /// No container's, or not told.
    #[default]
    Only,
    /// Standard output.
    Output,
    /// Standard error.
    Error,
}

impl Stream {
    pub const COUNT: usize = 3;

    fn of(name: &str) -> Option<Self> {
        match name {
            "stdout" => Some(Self::Output),
            "stderr" => Some(Self::Error),
            _ => None,
        }
    }
}

/// The program that a syslog header names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tag {
    /// Its name, as it calls itself.
    pub name: String,
    /// Whether its process's number stands beside it.
    pub has_pid: bool,
}

/// What became of a line.
#[derive(Debug, PartialEq, Eq)]
pub enum Unwrapped<'a> {
    /// A whole line, with what its wrappings say of it.
    Line(Cow<'a, [u8]>, Stamp),
    /// A piece; the rest will follow.
    Piece,
    /// The last piece of a line that had grown too long.
    TooLong,
}

/// What the wrappings say of a line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stamp {
    /// When it was written.
    pub at: Option<When>,
    /// Who wrote it.
    pub pid: Option<u32>,
    /// Which program, by a syslog header or by journald.
    pub tag: Option<Tag>,
    /// Where to, in a container.
    pub stream: Stream,
    /// Which of several writers: a host, pod or container.
    pub origin: Option<String>,
    /// Whether it came by way of a format in which any program's text may stand.
    pub is_relayed: bool,
}

impl Stamp {
    /// As the dialects want it.
    pub fn carrier<'a>(&self, source: &'a str, read_at: UnixMs) -> Carrier<'a> {
        Carrier { stamped: self.at, pid: self.pid, ..Carrier::plain(source, read_at) }
    }

    /// Adds what a wrapping further inside says. It is closer to the writer, but may be coarser; which
    /// of several writers it was is said by the outermost.
    fn add(&mut self, inner: Self) {
        let is_better = |new: When| {
            self.at.is_none_or(|old| {
                (new.is_local, new.precision_ms) <= (old.is_local, old.precision_ms)
            })
        };
        if let Some(at) = inner.at.filter(|at| is_better(*at)) {
            self.at = Some(at);
        }
        self.pid = inner.pid.or(self.pid);
        self.tag = inner.tag.or(self.tag.take());
        if inner.stream != Stream::Only {
            self.stream = inner.stream;
        }
        self.origin = self.origin.take().or(inner.origin);
        self.is_relayed |= inner.is_relayed;
    }
}

/// The inside of one wrapping.
struct Peeled {
    inside: Inside,
    stamp: Stamp,
    /// False for a piece of a line.
    is_whole: bool,
}

enum Inside {
    /// A part of the line.
    Part(Range<usize>),
    /// Text that had to be decoded.
    Decoded(Vec<u8>),
}

impl Peeled {
    /// What `line` ends with.
    fn rest(line: &[u8], rest: &[u8], stamp: Stamp) -> Self {
        let inside = Inside::Part(line.len() - rest.len()..line.len());
        Self { inside, stamp, is_whole: true }
    }

    fn decoded(inside: impl Into<Vec<u8>>, stamp: Stamp) -> Self {
        Self { inside: Inside::Decoded(inside.into()), stamp, is_whole: true }
    }
}

/// What is left of a line when some wrappings are off.
pub struct View<'a> {
    /// The rest of the line.
    pub line: &'a [u8],
    /// What the wrappings say.
    pub stamp: &'a Stamp,
    /// Whether the wrappings are those of the source's lines, so far as that is known.
    pub fits: bool,
}

/// What somebody found in a view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing: it may be wrapped.
    Nothing,
    /// A line of a proxy's that escapes what clients write.
    Line,
    /// A line of one that does not, which has the wrappings of all of the source's.
    First,
}

impl Unwrapper {
    /// Takes wrappings off one line, given without its line feed, until `look` finds a proxy's line in
    /// what is left.
    pub fn unwrap<'a>(
        &mut self,
        line: &'a [u8],
        read_at: UnixMs,
        mut look: impl FnMut(View<'_>) -> Found,
    ) -> Unwrapped<'a> {
        let mut line = Cow::Borrowed(line);
        let mut stamp = Stamp::default();
        let mut shape = Shape::default();
        // What is left at the depth at which the source's lines are found.
        let mut fitting = None;
        loop {
            uncolour(&mut line);
            let is_shape = self.shape.as_ref().is_some_and(|known| shape == *known);
            let fits = is_shape || self.shape.is_none();
            match look(View { line: &line, stamp: &stamp, fits }) {
                Found::Nothing => {}
                Found::Line => return Unwrapped::Line(line, stamp),
                Found::First => {
                    self.shape = Some(shape);
                    return Unwrapped::Line(line, stamp);
                }
            }
            let peel = |layer: &Layer| Some((layer.name, (layer.peel)(&line, read_at)?));
            let peeled = LAYERS.iter().find_map(peel).filter(|_| shape.0.len() < DEEPEST);
            let Some((name, peeled)) = peeled else {
                let (line, stamp) = fitting.unwrap_or((line, stamp));
                return Unwrapped::Line(line, stamp);
            };
            if is_shape {
                fitting = Some((line.clone(), stamp.clone()));
            }
            shape.0.push(name);
            stamp.add(peeled.stamp);
            line = match peeled.inside {
                Inside::Part(part) => match line {
                    Cow::Borrowed(line) => Cow::Borrowed(&line[part]),
                    Cow::Owned(line) => Cow::Owned(line[part].to_vec()),
                },
                Inside::Decoded(text) => Cow::Owned(text),
            };
            match self.pieces[stamp.stream as usize].take(line, peeled.is_whole) {
                Unwrapped::Line(whole, _) => line = whole,
                other => return other,
            }
        }
    }

    /// Takes in that nothing has followed for a while.
    pub fn settle(&mut self) {
        self.shape = None;
    }
}

impl Pieces {
    /// The whole line that this piece is, or ends.
    fn take<'a>(&mut self, piece: Cow<'a, [u8]>, is_whole: bool) -> Unwrapped<'a> {
        if is_whole && self.bytes.is_empty() && !self.overlong {
            return Unwrapped::Line(piece, Stamp::default());
        }
        if self.bytes.len() + piece.len() > LONGEST_LINE {
            self.bytes.clear();
            self.overlong = true;
        }
        if !self.overlong {
            self.bytes.extend_from_slice(&piece);
        }
        if !is_whole {
            return Unwrapped::Piece;
        }
        let whole = std::mem::take(self);
        if whole.overlong {
            return Unwrapped::TooLong;
        }
        Unwrapped::Line(Cow::Owned(whole.bytes), Stamp::default())
    }
}

/// Takes colours off the line's beginning and end. Those inside stay: a client may have put them there,
/// and without them the line might read otherwise.
fn uncolour(line: &mut Cow<'_, [u8]>) {
    let from = line.len() - past_ansi(line).len();
    let end = line.strip_suffix(b"\x1b[0m").map_or(line.len(), <[u8]>::len).max(from);
    if (from, end) != (0, line.len()) {
        *line = match std::mem::take(line) {
            Cow::Borrowed(line) => Cow::Borrowed(&line[from..end]),
            Cow::Owned(line) => Cow::Owned(line[from..end].to_vec()),
        };
    }
}

#[cfg(test)]
mod tests;
