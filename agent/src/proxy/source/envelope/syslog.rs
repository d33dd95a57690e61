//! Syslog's headers, as a datagram has them, a file written by a syslog daemon, and `journalctl`.

use super::{Inside, Peeled, Stamp, Tag};
use crate::{
    proxy::{
        bytes::{before, number, text},
        timestamp::{When, leading},
    },
    time::UnixMs,
};

/// RFC 5424: `<PRI>1 TIME HOST APP PID MSGID DATA MESSAGE`.
pub(super) fn rfc5424(line: &[u8], _near: UnixMs) -> Option<Peeled> {
    past_priority(line)?.strip_prefix(b"1 ")?;
    let text = String::from_utf8_lossy(line);
    let message = syslog_loose::parse_message(&text, syslog_loose::Variant::RFC5424);
    let pid = match &message.procid {
        Some(syslog_loose::ProcId::PID(pid)) => u32::try_from(*pid).ok(),
        Some(syslog_loose::ProcId::Name(name)) => name.parse().ok(),
        None => None,
    };
    let at = message.timestamp.and_then(|at| u64::try_from(at.timestamp_millis()).ok());
    let has_pid = message.procid.is_some();
    let tag = message.appname.map(|name| Tag { name: name.to_owned(), has_pid });
    let origin = message.hostname.map(str::to_owned);
    let at = at.map(|at| When::exact(UnixMs(at)));
    let stamp = Stamp { at, pid, tag, origin, ..Stamp::default() };
    Some(Peeled::decoded(message.msg.trim_start_matches('\u{feff}'), stamp))
}

/// RFC 3164 and its relatives: `<PRI>Nov 20 20:05:33 HOST TAG[PID]: MESSAGE`, without the priority in a
/// file, without the host where the program left it out, and with any form of time.
pub(super) fn rfc3164(line: &[u8], near: UnixMs) -> Option<Peeled> {
    let (header, has_priority) = match past_priority(line) {
        Some(rest) => (rest, true),
        None => (line, false),
    };
    let (at, rest) = match monotonic(header) {
        Some(rest) if !has_priority => (None, rest),
        _ => leading(header, near).map(|(at, rest)| (Some(at), rest))?,
    };
    let rest = rest.strip_prefix(b" ")?.trim_ascii_start();
    let (first, after) = before(rest, b" ")?;
    if !first.iter().all(|byte| byte.is_ascii_alphanumeric() || b"._-:/[]@".contains(byte))
        || first.starts_with(b"[")
    {
        return None;
    }
    let named = match tag(first) {
        Some(tag) => (None, tag, after),
        None => {
            let (second, after) = before(after.trim_ascii_start(), b" ").unwrap_or((after, b""));
            let is_old = has_priority || header.first().is_some_and(u8::is_ascii_alphabetic);
            match tag(second) {
                Some(tag) => (Some(text(first)?), tag, after),
                // A writer of such a header names the program, if not well.
                None if is_old => (Some(text(first)?), (lossy(second), None, false), after),
                None => return None,
            }
        }
    };
    let (host, (name, pid, has_pid), message) = named;
    let message = message.strip_prefix(b"\xef\xbb\xbf").unwrap_or(message);
    let stamp = Stamp {
        at,
        pid,
        tag: Some(Tag { name, has_pid }),
        origin: host.map(str::to_owned),
        ..Stamp::default()
    };
    let inside = Inside::Part(line.len() - message.len()..line.len());
    Some(Peeled { inside, stamp, is_whole: true })
}

/// What follows `<134>`.
fn past_priority(line: &[u8]) -> Option<&[u8]> {
    let (priority, rest) = number(line.strip_prefix(b"<")?)?;
    rest.strip_prefix(b">").filter(|_| priority < 192)
}

/// `[12345.678901]` (`journalctl -o short-monotonic`).
fn monotonic(line: &[u8]) -> Option<&[u8]> {
    let (_, rest) = number(line.strip_prefix(b"[")?.trim_ascii_start())?;
    let (_, rest) = number(rest.strip_prefix(b".")?)?;
    rest.strip_prefix(b"]")
}

/// `NAME:` and `NAME[PID]:`, or an odd one.
fn tag(word: &[u8]) -> Option<(String, Option<u32>, bool)> {
    let word = word.strip_suffix(b":")?;
    let Some((name, rest)) = before(word, b"[") else {
        return Some((lossy(word), None, false));
    };
    let pid = number(rest).and_then(|(pid, _)| u32::try_from(pid).ok());
    Some((lossy(name), pid, true))
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
