//! nginx's error log, 1.12 and later: `ngx_http_upstream.c`, `ngx_http_upstream_round_robin.c` and
//! their stream twins write the lines, `ngx_log.c` and `ngx_http_log_error_handler` frame them.
//!
//! ```text
//! YYYY/MM/DD HH:MM:SS [level] PID#TID: *CID MESSAGE while ACTION, client: A, server: S,
//!     request: "R", subrequest: "U", upstream: "SCHEME://ADDR URI", host: "H", referrer: "F"
//! ```
//!
//! nginx escapes nothing: a client chooses the bytes of R, H and F (and of URI), and may put a
//! field of its own making there. So nothing is searched for across the line. The message is
//! matched where it begins, each field where the one before it ends, and the request ends at the
//! first ` HTTP/d.d"`, which `ngx_http_parse_request_line` lets no client put into a request line.
//! One gap cannot be closed from the line alone: over HTTP/2, nginx before 1.21.1 takes spaces in a
//! path. What is planted that way is one more unknown address, which is no known listener's.

use std::net::SocketAddr;

use jiff::{civil::DateTime, tz::TimeZone};

use super::event::{EventKind, Failure, Phase, ProxyEvent, ProxyKind, Upstream};
use crate::time::UnixMs;

/// NGX_MAX_ERROR_STR less the line feed: a line of this length has been cut.
pub const LONGEST_LINE: usize = 2047;

/// Reads one line, without its line feed, that was read at `read_at` from `source`. `None` for
/// everything that is no event of an upstream.
///
/// nginx stamps local time without a zone. The zone is taken to be the whole number of quarter hours
/// by which the stamp is off from `read_at`, so a line must be read within seven minutes of its
/// writing.
pub fn parse(line: &[u8], read_at: UnixMs, source: &str) -> Option<ProxyEvent> {
    let (stamp, rest) = line.split_at_checked(19)?;
    let (level, rest) = level_of(rest)?;
    let (pid, rest) = number(rest)?;
    let (_, rest) = number(rest.strip_prefix(b"#")?)?;
    let (connection, message) = number(rest.strip_prefix(b": *")?)?;
    let (kind, fields) = message_of(message.strip_prefix(b" ")?, level)?;
    let named = upstream_field(fields, line.len() >= LONGEST_LINE)?;
    Some(ProxyEvent {
        at: time_of(stamp, read_at)?,
        precision_ms: 1000,
        proxy: ProxyKind::Nginx,
        source: source.to_owned(),
        pid: u32::try_from(pid).ok(),
        connection: Some(connection),
        kind,
        upstream: upstream_of(named, kind)?,
    })
}

/// Reads ` [level] `.
fn level_of(rest: &[u8]) -> Option<(&[u8], &[u8])> {
    let rest = rest.strip_prefix(b" [")?;
    let end = rest.iter().take(8).position(|byte| *byte == b']')?;
    Some((&rest[..end], rest[end + 1..].strip_prefix(b" ")?))
}

fn number(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let end = bytes.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(bytes.len());
    let digits = std::str::from_utf8(&bytes[..end]).ok()?;
    Some((digits.parse().ok()?, &bytes[end..]))
}

/// What happened, and the rest of the line from the client's field on.
fn message_of<'a>(message: &'a [u8], level: &[u8]) -> Option<(EventKind, &'a [u8])> {
    if let Some(rest) = message.strip_prefix(b"upstream server temporarily disabled") {
        let (phase, fields) = action(rest)?;
        return Some((EventKind::PeerMarked { phase }, fields));
    }
    if let Some(rest) = message.strip_prefix(b"no live upstreams") {
        let (_, fields) = action(rest)?;
        return Some((EventKind::NoLivePeers, fields));
    }
    let (failure, (phase, fields)) = if let Some((errno, rest)) = errno_of(message) {
        (Failure::Errno { errno }, action(rest)?)
    } else if let Some(rest) = after_any(message, CLOSED) {
        (Failure::ClosedEarly, action(rest)?)
    } else if level != b"warn" && after_any(message, INVALID).is_some() {
        // The message may quote what the peer sent: it goes up to where an action stands.
        (Failure::InvalidResponse, (0..message.len()).find_map(|at| action(&message[at..]))?)
    } else {
        return None;
    };
    Some((EventKind::AttemptFailed { phase, failure }, fields))
}

/// Calls that fail with an error number, `CALL (NNN: text)`.
const CALLS: &[&[u8]] = &[
    b"upstream timed out ",
    b"connect() failed ",
    b"recv() failed ",
    b"readv() failed ",
    b"send() failed ",
    b"writev() failed ",
    b"sendfile() failed ",
    b"SSL_do_handshake() failed ",
    b"SSL_read() failed ",
    b"SSL_write() failed ",
    b"peer closed connection in SSL handshake ",
];

/// The peer ended the connection, and the call that found out gave no error number.
const CLOSED: &[&[u8]] = &[
    b"upstream prematurely closed connection",
    b"upstream prematurely closed FastCGI stdout",
    b"upstream prematurely closed FastCGI request",
    b"peer closed connection in SSL handshake",
];

/// The peer's answer would not do. At level `warn` the same words are a remark on an answer that
/// was taken: "upstream sent duplicate header line … ignored".
const INVALID: &[&[u8]] = &[
    b"upstream sent ",
    b"upstream rejected ",
    b"upstream SSL certificate ",
    b"SSL_do_handshake() failed (SSL: ",
];

fn after_any<'a>(message: &'a [u8], starts: &[&[u8]]) -> Option<&'a [u8]> {
    starts.iter().find_map(|start| message.strip_prefix(*start))
}

/// The error number of a failed call. Its text differs between C libraries and may be "Unknown
/// error"; the number does not.
fn errno_of(message: &[u8]) -> Option<(i32, &[u8])> {
    let rest = match message.strip_prefix(b"connect() to ") {
        // The peer's name, from nginx's own configuration.
        Some(named) => &named[find(named, b" failed (")? + b" failed ".len()..],
        None => after_any(message, CALLS)?,
    };
    let (errno, rest) = number(rest.strip_prefix(b"(")?)?;
    let end = find(rest, b")")?;
    Some((i32::try_from(errno).ok()?, &rest[end + 1..]))
}

/// What nginx was doing. Actions that concern the client's side are no event of an upstream.
const ACTIONS: &[(&[u8], Phase)] = &[
    (b"connecting to upstream", Phase::Connect),
    (b"SSL handshaking to upstream", Phase::TlsHandshake),
    (b"sending request to upstream", Phase::Send),
    (b"reading response header from upstream", Phase::ResponseHeader),
    (b"reading upstream", Phase::Body),
    (b"proxying and reading from upstream", Phase::Body),
];

fn action(rest: &[u8]) -> Option<(Phase, &[u8])> {
    let rest = rest.strip_prefix(b" while ")?;
    ACTIONS.iter().find_map(|(name, phase)| {
        let fields = rest.strip_prefix(*name)?;
        (fields.starts_with(b", client: ") || fields.starts_with(b", udp client: "))
            .then_some((*phase, fields))
    })
}

/// The bytes from the start of the upstream field's value on.
fn upstream_field(fields: &[u8], cut: bool) -> Option<&[u8]> {
    const UPSTREAM: &[u8] = b", upstream: \"";
    // Address and server name are not the client's to choose.
    let server = &fields[find(fields, b", server: ")?..];
    let request = find(server, b", request: \"");
    let Some(request) = request.filter(|at| find(server, UPSTREAM).is_none_or(|up| *at < up))
    else {
        // The stream module: no request.
        return Some(&server[find(server, UPSTREAM)? + UPSTREAM.len()..]);
    };
    let request = &server[request..];
    let Some(end) = request_end(request) else {
        // HTTP/0.9, without a version to end at. The field must be the only one of its name, for
        // the URI may hold another, before nginx's and once more inside it; in a line that was
        // cut the only one may be the URI's.
        let only = &request[find(request, UPSTREAM)? + UPSTREAM.len()..];
        return (!cut && find(only, UPSTREAM).is_none()).then_some(only);
    };
    let mut rest = &request[end..];
    if let Some(subrequest) = rest.strip_prefix(b", subrequest: \"") {
        rest = &subrequest[find(subrequest, b"\", upstream: \"")? + 1..];
    }
    rest.strip_prefix(UPSTREAM)
}

/// Length up to and with the first ` HTTP/d.d"`.
fn request_end(request: &[u8]) -> Option<usize> {
    const LENGTH: usize = b" HTTP/1.1\"".len();
    let version = |window: &[u8]| {
        window.starts_with(b" HTTP/")
            && window[6].is_ascii_digit()
            && window[7] == b'.'
            && window[8].is_ascii_digit()
            && window[9] == b'"'
    };
    Some(request.windows(LENGTH).position(version)? + LENGTH)
}

/// The peer, or the group, that the field's value begins with.
fn upstream_of(value: &[u8], kind: EventKind) -> Option<Upstream> {
    let name = match find(&value[..value.len().min(12)], b"://") {
        Some(at) => &value[at + 3..],
        None => value,
    };
    let upto = |ends: &[u8]| {
        let end = name.iter().position(|byte| ends.contains(byte))?;
        std::str::from_utf8(&name[..end]).ok()
    };
    if kind == EventKind::NoLivePeers {
        return Some(Upstream::Group(upto(b"/\"?")?.to_owned()));
    }
    if let Some(path) = name.strip_prefix(b"unix:") {
        let end = path.iter().position(|byte| b":\"".contains(byte))?;
        return Some(Upstream::Unix(String::from_utf8_lossy(&path[..end]).into_owned()));
    }
    let addr: SocketAddr = upto(b"/\"?")?.parse().ok()?;
    Some(Upstream::Inet(addr))
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

/// `YYYY/MM/DD HH:MM:SS` in the zone of whoever wrote it.
fn time_of(stamp: &[u8], read_at: UnixMs) -> Option<UnixMs> {
    const QUARTER_MS: i64 = 15 * 60 * 1000;
    let text = std::str::from_utf8(stamp).ok()?;
    let civil = DateTime::strptime("%Y/%m/%d %H:%M:%S", text).ok()?;
    let as_utc = civil.to_zoned(TimeZone::UTC).ok()?.timestamp().as_millisecond();
    let off = as_utc - i64::try_from(read_at.0).ok()?;
    let zone = (off + QUARTER_MS / 2).div_euclid(QUARTER_MS) * QUARTER_MS;
    u64::try_from(as_utc - zone).ok().map(UnixMs)
}

#[cfg(test)]
mod tests;
