//! Health checks that write into nginx's error log: lua-resty-healthcheck (APISIX, Kong),
//! lua-resty-upstream-healthcheck (OpenResty), nginx_upstream_check_module (Tengine), and the active ones
//! of NGINX Plus and Angie; and what scripts say of whole groups and of their own connections.
//!
//! ```text
//! [lua] healthcheck.lua:1107: log(): [healthcheck] (NAME) unhealthy TCP increment (1/2) for 'HOST(ADDR:PORT)' …
//! [lua] healthcheck.lua:53: errlog(): healthcheck: peer ADDR:PORT is turned down after 2 failure(s) …
//! disable check peer: ADDR:PORT
//! peer is unhealthy while connecting to upstream, health check "NAME" of peer ADDR:PORT in upstream "GROUP"
//! ```

use std::net::SocketAddr;

use crate::proxy::{
    bytes::{after_any, before, number, text},
    event::{EventKind, Failure, Phase, Upstream},
};

type Told = (EventKind, Upstream, Option<String>);

/// What a health check's message tells: event, peer, and the group where it is named.
pub(super) fn event_of(message: &[u8]) -> Option<Told> {
    if let Some(rest) = message.strip_prefix(b"[lua] ") {
        let (file, said) = script(rest)?;
        return match file {
            b"healthcheck.lua" => increment(said).or_else(|| turned(said)).or_else(|| failed(said)),
            _ => whole_group(said),
        };
    }
    message
        .strip_prefix(b"lua tcp socket connect timed out, when connecting to ")
        .map_or_else(|| tengine(message), cosocket)
}

/// Reads `FILE:LINE: FUNCTION(): SAID`, without the function where the script was stripped of it.
fn script(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let (file, rest) = before(text, b":")?;
    let rest = number(rest)?.1.strip_prefix(b": ")?;
    let said = before(rest, b"(): ").map_or(rest, |(function, after)| {
        if function.iter().all(|byte| is_name(*byte)) { after } else { rest }
    });
    Some((file, said))
}

/// Every peer of a group is out: Kong's balancer, and APISIX as it looks for a peer.
fn whole_group(said: &[u8]) -> Option<Told> {
    let upstream = if let Some(rest) = said.strip_prefix(b"[healthchecks] balancer ") {
        let (name, rest) = before(rest, b" reported health status changed to ")?;
        rest.starts_with(b"UNHEALTHY").then_some(())?;
        Upstream::Group(String::from_utf8_lossy(name).into_owned())
    } else {
        after_any(said, NO_PEERS)?;
        Upstream::Unnamed
    };
    Some((EventKind::NoLivePeers, upstream, None))
}

/// `apisix/balancer.lua`, `apisix/init.lua`, and Kong's `balancer.lua`.
const NO_PEERS: &[&[u8]] = &[
    b"all upstream nodes is unhealthy",
    b"failed to pick server: failed to find valid upstream server",
    b"failed to pick server: no valid upstream node",
    b"failure to get a peer from the ring-balancer",
];

/// A peer's answer to a check, in the words of `lua-resty-upstream-healthcheck` (`healthcheck: failed to
/// connect to A:P: …`) and of lua-resty-healthcheck (`[healthcheck] (NAME) failed to receive status line
/// from 'HOST (A:P)': …`).
fn failed(said: &[u8]) -> Option<Told> {
    const STEPS: &[(&[u8], Phase)] = &[
        (b"failed to connect to ", Phase::Connect),
        (b"failed SSL handshake with ", Phase::TlsHandshake),
        (b"failed to ssl handshake to ", Phase::TlsHandshake),
        (b"failed to send request to ", Phase::Send),
        (b"failed to send http request to ", Phase::Send),
        (b"failed to receive status line from ", Phase::ResponseHeader),
        (b"bad status line from ", Phase::ResponseHeader),
        (b"bad status code from ", Phase::ResponseHeader),
    ];
    let (group, rest) = match said.strip_prefix(b"[healthcheck] (") {
        Some(rest) => {
            let (group, rest) = before(rest, b") ")?;
            (Some(String::from_utf8_lossy(group).into_owned()), rest)
        }
        None => (None, said.strip_prefix(b"healthcheck: ")?),
    };
    let (start, phase) = STEPS.iter().find(|(start, _)| rest.starts_with(start))?;
    let rest = rest[start.len()..].trim_ascii_start();
    let (peer, rest) = match rest.strip_prefix(b"'") {
        Some(quoted) => before(quoted, b"': ")?,
        None => before(rest, b": ")?,
    };
    let upstream = inet(peer).or_else(|| named(peer))?;
    let end = rest.iter().position(|byte| b",\n".contains(byte)).unwrap_or(rest.len());
    let failure = match &rest[..end] {
        _ if start.starts_with(b"bad status line") => Failure::InvalidResponse,
        _ if start.starts_with(b"bad status code") => Failure::BadStatus,
        b"timeout" => Failure::TIMEOUT,
        b"closed" => Failure::ClosedEarly,
        words => text(words).and_then(Failure::of_words).unwrap_or(Failure::Unknown),
    };
    Some((EventKind::AttemptFailed { phase: *phase, failure }, upstream, group))
}

/// `A:P, client: …`.
fn cosocket(rest: &[u8]) -> Option<Told> {
    let (peer, _) = before(rest, b", ")?;
    let upstream = match peer.strip_prefix(b"unix:") {
        Some(path) => Upstream::Unix(text(path)?.to_owned()),
        None => inet(peer)?,
    };
    let kind = EventKind::AttemptFailed { phase: Phase::Connect, failure: Failure::TIMEOUT };
    Some((kind, upstream, None))
}

/// `NAME" of peer A:P in upstream "GROUP"`, as NGINX Plus and Angie end what they say of a check.
pub(super) fn checked(fields: &[u8]) -> Option<(Upstream, String)> {
    let (_, rest) = before(fields, b"\" of peer ")?;
    let (peer, rest) = before(rest, b" in upstream \"")?;
    let group = rest.strip_suffix(b"\"")?;
    let upstream = match peer.strip_prefix(b"unix:") {
        Some(path) => Upstream::Unix(text(path)?.to_owned()),
        None => inet(peer)?,
    };
    Some((upstream, text(group)?.to_owned()))
}

fn is_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"_.:<>/-".contains(&byte)
}

/// lua-resty-healthcheck `incr_counter`: a peer changes sides when the count reaches its limit.
fn increment(message: &[u8]) -> Option<Told> {
    let (group, rest) = before(message.strip_prefix(b"[healthcheck] (")?, b") ")?;
    let (is_failure, rest) = match rest.strip_prefix(b"unhealthy ") {
        Some(rest) => (true, rest),
        None => (false, rest.strip_prefix(b"healthy ")?),
    };
    let (what, rest) = before(rest, b" increment (")?;
    let (count, rest) = number(rest)?;
    let (limit, rest) = number(rest.strip_prefix(b"/")?)?;
    let (peer, _) = before(rest.strip_prefix(b") for '")?, b"'")?;
    let upstream = named(peer)?;
    let (phase, failure) = match what {
        b"TCP" => (Phase::Connect, Failure::Unknown),
        b"TIMEOUT" => (Phase::Other, Failure::TIMEOUT),
        b"HTTP" => (Phase::ResponseHeader, Failure::BadStatus),
        _ => (Phase::Other, Failure::Unknown),
    };
    let kind = match (is_failure, count >= limit) {
        (true, true) => EventKind::PeerMarked { phase, failure: Some(failure) },
        (true, false) => EventKind::AttemptFailed { phase, failure },
        (false, true) => EventKind::PeerBack,
        (false, false) => return None,
    };
    Some((kind, upstream, Some(String::from_utf8_lossy(group).into_owned())))
}

/// `HOST(ADDR:PORT)`, `HOST (ADDR:PORT)`.
fn named(peer: &[u8]) -> Option<Upstream> {
    let open = peer.iter().rposition(|byte| *byte == b'(')?;
    inet(peer[open + 1..].strip_suffix(b")")?)
}

/// lua-resty-upstream-healthcheck.
fn turned(message: &[u8]) -> Option<Told> {
    let (peer, rest) = before(message.strip_prefix(b"healthcheck: peer ")?, b" is turned ")?;
    let kind = match after_any(rest, &[b"down after "]) {
        Some(_) => EventKind::PeerMarked { phase: Phase::Other, failure: None },
        None => rest.starts_with(b"up after ").then_some(EventKind::PeerBack)?,
    };
    Some((kind, inet(peer)?, None))
}

/// `ngx_http_upstream_check_module.c`.
fn tengine(message: &[u8]) -> Option<Told> {
    let marked = EventKind::PeerMarked { phase: Phase::Other, failure: None };
    let failed = EventKind::AttemptFailed { phase: Phase::Other, failure: Failure::TIMEOUT };
    if let Some(rest) = message.strip_prefix(b"check protocol ") {
        let (_, peer) = before(rest, b" error with peer: ")?;
        let (phase, failure) = (Phase::ResponseHeader, Failure::InvalidResponse);
        let kind = EventKind::AttemptFailed { phase, failure };
        return Some((kind, inet(peer.trim_ascii_end())?, None));
    }
    for (start, kind) in [
        (b"disable check peer: ".as_slice(), marked),
        (b"enable check peer: ", EventKind::PeerBack),
        (b"check time out with peer: ", failed),
    ] {
        if let Some(peer) = message.strip_prefix(start) {
            return Some((kind, inet(peer.trim_ascii_end())?, None));
        }
    }
    None
}

fn inet(bytes: &[u8]) -> Option<Upstream> {
    text(bytes)?.parse::<SocketAddr>().ok().map(Upstream::Inet)
}
