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
    pieces: Vec<u8>,
    /// The line being put together has grown too long: the rest of it is thrown away.
    overlong: bool,
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stamp {
    /// When it was written, where that is told with a zone.
    pub at: Option<UnixMs>,
    /// Who wrote it.
    pub pid: Option<u32>,
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
        if !inside.is_whole {
            self.keep(&inside.payload);
            return Unwrapped::Piece;
        }
        if self.pieces.is_empty() && !self.overlong {
            return past_syslog(inside.payload, inside.stamp);
        }
        self.keep(&inside.payload);
        let whole = std::mem::take(&mut self.pieces);
        if std::mem::take(&mut self.overlong) {
            return Unwrapped::TooLong;
        }
        past_syslog(Cow::Owned(whole), inside.stamp)
    }

    fn keep(&mut self, piece: &[u8]) {
        if self.pieces.len() + piece.len() > LONGEST_LINE {
            self.pieces.clear();
            self.overlong = true;
        }
        if !self.overlong {
            self.pieces.extend_from_slice(piece);
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
    if stream != b"stderr" && stream != b"stdout" {
        return None;
    }
    let (tags, payload) = before(rest, b" ").unwrap_or((rest, b""));
    let is_whole = match tags.split(|byte| *byte == b':').next()? {
        b"F" => true,
        b"P" => false,
        _ => return None,
    };
    let stamp = Stamp { at: time(stamp), pid: None };
    Some(Inside { payload: Cow::Borrowed(payload), stamp, is_whole })
}

/// Docker's json-file log. A line longer than 16 KiB comes in pieces, of which the last alone ends
/// in a line feed.
fn docker(line: &[u8]) -> Option<Inside<'_>> {
    #[derive(Deserialize)]
    struct Entry<'a> {
        #[serde(borrow)]
        log: Cow<'a, str>,
        #[serde(borrow)]
        time: Cow<'a, str>,
    }
    if !line.starts_with(b"{\"log\":") {
        return None;
    }
    let entry: Entry<'_> = serde_json::from_slice(line).ok()?;
    let is_whole = entry.log.ends_with('\n');
    let stamp = Stamp { at: time(entry.time.as_bytes()), pid: None };
    let payload = match entry.log {
        Cow::Borrowed(text) => Cow::Borrowed(text.trim_end_matches(['\r', '\n']).as_bytes()),
        Cow::Owned(text) => Cow::Owned(text.trim_end_matches(['\r', '\n']).as_bytes().to_vec()),
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
    }
    if line.first() != Some(&b'{') || before(line, b"\"__REALTIME_TIMESTAMP\"").is_none() {
        return None;
    }
    let entry: Entry = serde_json::from_slice(line).ok()?;
    let at = entry.microseconds.parse::<u64>().ok().map(|us| UnixMs(us / 1000));
    let stamp = Stamp { at, pid: entry.pid.and_then(|pid| pid.parse().ok()) };
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
    let pid = match message.procid {
        Some(syslog_loose::ProcId::PID(pid)) => u32::try_from(pid).ok(),
        Some(syslog_loose::ProcId::Name(name)) => name.parse().ok(),
        None => None,
    };
    // RFC 3164 has local time in whole seconds: no better than when the line was read.
    let at = match message.protocol {
        syslog_loose::Protocol::RFC5424(_) => message.timestamp,
        syslog_loose::Protocol::RFC3164 => None,
    };
    let at = at.and_then(|at| u64::try_from(at.timestamp_millis()).ok()).map(UnixMs);
    let payload = message.msg.trim_start_matches('\u{feff}').as_bytes().to_vec();
    Unwrapped::Line(Cow::Owned(payload), Stamp { at: at.or(stamp.at), pid: pid.or(stamp.pid) })
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
