//! What happened: the message, and what nginx was doing.

use crate::proxy::{
    bytes::{after_any, find, number},
    event::{EventKind, Failure, Phase},
};

/// Where the fields of an active health check begin: nginx's own words, up to the line's end.
pub(super) const HEALTH_CHECK: &[u8] = b", health check \"";

/// What happened, and the rest of the line from the client's field on.
pub(super) fn event_of<'a>(message: &'a [u8], level: &[u8]) -> Option<(EventKind, &'a [u8])> {
    if let Some(rest) = message.strip_prefix(b"upstream server temporarily disabled") {
        let (phase, fields) = action(rest)?;
        return Some((EventKind::PeerMarked { phase, failure: None }, fields));
    }
    if let Some(rest) = message.strip_prefix(b"no live upstreams") {
        let (_, fields) = action(rest)?;
        return Some((EventKind::NoLivePeers, fields));
    }
    if let Some(rest) = message.strip_prefix(b"peer is unhealthy") {
        let (phase, fields) = action(rest)?;
        let failure = (phase == Phase::ResponseHeader).then_some(Failure::BadStatus);
        return Some((EventKind::PeerMarked { phase, failure }, fields));
    }
    if let Some(rest) = message.strip_prefix(b"peer is healthy") {
        let (_, fields) = action(rest)?;
        return Some((EventKind::PeerBack, fields));
    }
    // Said of either side's connection but for what is the upstream's by its words.
    if find(message, b" while proxying upgraded connection, ").is_some()
        && !message.starts_with(b"upstream ")
    {
        return None;
    }
    let (failure, (phase, fields)) = if let Some((errno, rest)) = errno_of(message) {
        (Failure::Errno { errno }, action(rest)?)
    } else if let Some(rest) = after_any(message, CLOSED) {
        (Failure::ClosedEarly, action(rest)?)
    } else if let Some(rest) = own_limit(message) {
        (Failure::OwnLimit, action(rest)?)
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
    b"socket() failed ",
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

/// "64 worker_connections are not enough": `ngx_get_connection` found none free. Since 1.19 a warning
/// of the same words goes on with ", reusing connections", and is no failure.
fn own_limit(message: &[u8]) -> Option<&[u8]> {
    number(message)?.1.strip_prefix(b" worker_connections are not enough")
}

/// What nginx was doing. Actions that concern the client's side are no event of an upstream.
const ACTIONS: &[(&[u8], Phase)] = &[
    (b"connecting to upstream", Phase::Connect),
    (b"SSL handshaking to upstream", Phase::TlsHandshake),
    (b"sending request to upstream", Phase::Send),
    (b"reading response header from upstream", Phase::ResponseHeader),
    (b"reading upstream", Phase::Body),
    (b"proxying and reading from upstream", Phase::Body),
    (b"proxying and sending to upstream", Phase::Send),
    (b"proxying upgraded connection", Phase::Body),
];

/// What an active health check of NGINX Plus or Angie was doing, beside those.
const CHECKS: &[(&[u8], Phase)] = &[
    (b"checking status", Phase::ResponseHeader),
    (b"checking header", Phase::ResponseHeader),
    (b"checking body", Phase::Body),
];

fn action(rest: &[u8]) -> Option<(Phase, &[u8])> {
    let rest = rest.strip_prefix(b" while ")?;
    if let Some(at) = find(rest, HEALTH_CHECK) {
        let name = &rest[..at];
        let known = ACTIONS.iter().chain(CHECKS).find(|(known, _)| name.starts_with(known));
        return Some((known.map_or(Phase::Other, |(_, phase)| *phase), &rest[at..]));
    }
    ACTIONS.iter().find_map(|(name, phase)| {
        let fields = rest.strip_prefix(*name)?;
        (fields.starts_with(b", client: ") || fields.starts_with(b", udp client: "))
            .then_some((*phase, fields))
    })
}
