//! What lines are wrapped in on their way: container runtimes, journald and syslog each put
//! something before a proxy's words, and may cut a line in pieces.

use std::borrow::Cow;

use jiff::Timestamp;
use serde::Deserialize;

use super::LONGEST_LINE;
use crate::{
    proxy::{bytes::before, event::Carrier},
    time::UnixMs,
};

/// Takes the wrapping off the lines of one source, and puts the pieces of cut lines together.
#[derive(Debug, Default)]
pub struct Unwrapper {
    pieces: [Pieces; Stream::COUNT],
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
    /// How many there are.
    pub const COUNT: usize = 3;

    fn of(name: &[u8]) -> Option<Self> {
        match name {
            b"stdout" => Some(Self::Output),
            b"stderr" => Some(Self::Error),
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
    /// A whole line, with what its carriers say of it.
    Line(Cow<'a, [u8]>, Stamp),
    /// A piece; the rest will follow.
    Piece,
    /// The last piece of a line that had grown too long.
    TooLong,
}

/// What the carriers say of a line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stamp {
    /// When it was written, where that is told with a zone.
    pub at: Option<UnixMs>,
    /// Who wrote it.
    pub pid: Option<u32>,
    /// Which program, by a syslog header or by journald.
    pub tag: Option<Tag>,
    /// Where to, in a container.
    pub stream: Stream,
}

impl Stamp {
    /// As the dialects want it.
    pub fn carrier<'a>(&self, source: &'a str, read_at: UnixMs) -> Carrier<'a> {
        Carrier { source, read_at, stamped: self.at, pid: self.pid }
    }
}

/// The inside of one wrapping.
struct Inside<'a> {
    payload: Cow<'a, [u8]>,
    stamp: Stamp,
    is_whole: bool,
}

impl Unwrapper {
    /// Takes the wrapping off one line, given without its line feed.
    pub fn unwrap<'a>(&mut self, line: &'a [u8]) -> Unwrapped<'a> {
        let inside = cri(line).or_else(|| docker(line)).or_else(|| journal(line));
        let Some(inside) = inside else {
            return past_syslog(Cow::Borrowed(line), Stamp::default());
        };
        let pieces = &mut self.pieces[inside.stamp.stream as usize];
        if !inside.is_whole {
            pieces.keep(&inside.payload);
            return Unwrapped::Piece;
        }
        if pieces.bytes.is_empty() && !pieces.overlong {
            return past_syslog(inside.payload, inside.stamp);
        }
        pieces.keep(&inside.payload);
        let whole = std::mem::take(pieces);
        if whole.overlong {
            return Unwrapped::TooLong;
        }
        past_syslog(Cow::Owned(whole.bytes), inside.stamp)
    }
}

impl Pieces {
    fn keep(&mut self, piece: &[u8]) {
        if self.bytes.len() + piece.len() > LONGEST_LINE {
            self.bytes.clear();
            self.overlong = true;
        }
        if !self.overlong {
            self.bytes.extend_from_slice(piece);
        }
    }
}

fn time(text: &[u8]) -> Option<UnixMs> {
    let at: Timestamp = std::str::from_utf8(text).ok()?.parse().ok()?;
    u64::try_from(at.as_millisecond()).ok().map(UnixMs)
}

/// The container runtime interface's log format: `TIME stderr F LINE`, and `P` for a piece.
fn cri(line: &[u8]) -> Option<Inside<'_>> {
    if !line.first()?.is_ascii_digit() || line.get(4) != Some(&b'-') {
        return None;
    }
    let (stamp, rest) = before(line, b" ")?;
    let (stream, rest) = before(rest, b" ")?;
    let stream = Stream::of(stream)?;
    let (tags, payload) = before(rest, b" ").unwrap_or((rest, b""));
    let is_whole = match tags.split(|byte| *byte == b':').next()? {
        b"F" => true,
        b"P" => false,
        _ => return None,
    };
    let stamp = Stamp { at: time(stamp), stream, ..Stamp::default() };
    Some(Inside { payload: Cow::Borrowed(payload), stamp, is_whole })
}

/// Docker's json-file log. A line longer than 16 KiB comes in pieces, of which the last alone ends
/// in a line feed.
fn docker(line: &[u8]) -> Option<Inside<'_>> {
    #[derive(Deserialize)]
    struct Entry<'a> {
        #[serde(borrow)]
        log: Cow<'a, str>,
        #[serde(borrow, default)]
        stream: Cow<'a, str>,
        #[serde(borrow)]
        time: Cow<'a, str>,
    }
    if !line.starts_with(b"{\"log\":") {
        return None;
    }
    let entry: Entry<'_> = serde_json::from_slice(line).ok()?;
    let is_whole = entry.log.ends_with('\n');
    let stream = Stream::of(entry.stream.as_bytes()).unwrap_or_default();
    let stamp = Stamp { at: time(entry.time.as_bytes()), stream, ..Stamp::default() };
    let end = entry.log.len() - usize::from(is_whole);
    let payload = match entry.log {
        Cow::Borrowed(text) => Cow::Borrowed(&text.as_bytes()[..end]),
        Cow::Owned(text) => Cow::Owned(text.as_bytes()[..end].to_vec()),
    };
    Some(Inside { payload, stamp, is_whole })
}

/// `journalctl -o json`: fields as text, or as an array of bytes where they are no UTF-8.
fn journal(line: &[u8]) -> Option<Inside<'_>> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Message {
        Text(String),
        Bytes(Vec<u8>),
    }
    #[derive(Deserialize)]
    struct Entry {
        #[serde(rename = "MESSAGE")]
        message: Message,
        #[serde(rename = "__REALTIME_TIMESTAMP")]
        microseconds: String,
        #[serde(rename = "_PID")]
        pid: Option<String>,
        #[serde(rename = "SYSLOG_IDENTIFIER")]
        identifier: Option<String>,
        /// Told by those who use syslog(3), and not of what a service's standard error brings.
        #[serde(rename = "SYSLOG_PID")]
        syslog_pid: Option<String>,
        /// Set by Docker's journald driver, whose identifier is the container's.
        #[serde(rename = "CONTAINER_ID")]
        container: Option<String>,
    }
    if line.first() != Some(&b'{') || before(line, b"\"__REALTIME_TIMESTAMP\"").is_none() {
        return None;
    }
    let entry: Entry = serde_json::from_slice(line).ok()?;
    let at = entry.microseconds.parse::<u64>().ok().map(|us| UnixMs(us / 1000));
    let identifier = entry.identifier.filter(|_| entry.container.is_none());
    let tag = identifier.map(|name| Tag { name, has_pid: entry.syslog_pid.is_some() });
    let pid = entry.pid.and_then(|pid| pid.parse().ok());
    let stamp = Stamp { at, pid, tag, stream: Stream::Only };
    let payload = Cow::Owned(match entry.message {
        Message::Text(text) => text.into_bytes(),
        Message::Bytes(bytes) => bytes,
    });
    Some(Inside { payload, stamp, is_whole: true })
}

/// Takes a syslog header off, RFC 3164 or 5424, as a datagram has it or a file written by a syslog
/// daemon.
fn past_syslog(line: Cow<'_, [u8]>, stamp: Stamp) -> Unwrapped<'_> {
    if !may_be_syslog(&line) {
        return Unwrapped::Line(line, stamp);
    }
    let text = String::from_utf8_lossy(&line);
    let message = syslog_loose::parse_message(&text, syslog_loose::Variant::Either);
    let pid = match &message.procid {
        Some(syslog_loose::ProcId::PID(pid)) => u32::try_from(*pid).ok(),
        Some(syslog_loose::ProcId::Name(name)) => name.parse().ok(),
        None => None,
    };
    // RFC 3164 has local time in whole seconds: no better than when the line was read.
    let at = match message.protocol {
        syslog_loose::Protocol::RFC5424(_) => message.timestamp,
        syslog_loose::Protocol::RFC3164 => None,
    };
    let at = at.and_then(|at| u64::try_from(at.timestamp_millis()).ok()).map(UnixMs);
    let tag = message
        .appname
        .map(|name| Tag { name: name.to_owned(), has_pid: message.procid.is_some() })
        .or_else(|| tag_in(&text));
    let payload = message.msg.trim_start_matches('\u{feff}').as_bytes().to_vec();
    let told = Stamp {
        at: at.or(stamp.at),
        pid: pid.or(stamp.pid),
        tag: tag.or(stamp.tag),
        stream: stamp.stream,
    };
    Unwrapped::Line(Cow::Owned(payload), told)
}

/// The tag of a header in RFC 3164's form, with or without a host before it, where it is an odd one.
fn tag_in(line: &str) -> Option<Tag> {
    let rest = line.strip_prefix('<').and_then(|rest| rest.split_once('>'));
    let rest = rest.map_or(line, |(_, rest)| rest);
    let rest = if is_month(rest.as_bytes()) { rest.get(16..)? } else { rest.split_once(' ')?.1 };
    let tag = rest.split(' ').take(2).find_map(|word| word.strip_suffix(':'))?;
    let (name, has_pid) = tag.split_once('[').map_or((tag, false), |(name, _)| (name, true));
    Some(Tag { name: name.to_owned(), has_pid })
}

/// `<134>…`, `Nov 20 …` and `2026-11-20T… HOST TAG: …`, at little cost for all that is none.
fn may_be_syslog(line: &[u8]) -> bool {
    const MONTHS: &[u8] = b"JFMASOND";
    match line {
        // `<1>`, without a header behind it, is HAProxy's `format short`.
        [b'<', digit, rest @ ..] if digit.is_ascii_digit() => {
            let after = rest.iter().position(|byte| *byte == b'>').map(|at| &rest[at + 1..]);
            after.is_some_and(|rest| rest.starts_with(b"1 ") || is_month(rest) || is_date(rest))
        }
        [first, ..] if MONTHS.contains(first) => is_month(line),
        _ => is_date(line),
    }
}

/// `Nov 20 `.
fn is_month(line: &[u8]) -> bool {
    line.len() > 16
        && line[..3].iter().all(u8::is_ascii_alphabetic)
        && line[3] == b' '
        && line[6] == b' '
        && line[9] == b':'
}

/// `2026-11-20T20:05:33`.
fn is_date(line: &[u8]) -> bool {
    line.len() > 19 && line[4] == b'-' && line[7] == b'-' && line[10] == b'T' && line[13] == b':'
}

#[cfg(test)]
mod tests;
