//! Health checks that write into nginx's error log: lua-resty-healthcheck (APISIX, Kong),
//! lua-resty-upstream-healthcheck (OpenResty) and nginx_upstream_check_module (Tengine).
//!
//! ```text
//! [lua] healthcheck.lua:1107: log(): [healthcheck] (NAME) unhealthy TCP increment (1/2) for 'HOST(ADDR:PORT)' …
//! [lua] healthcheck.lua:53: errlog(): healthcheck: peer ADDR:PORT is turned down after 2 failure(s) …
//! disable check peer: ADDR:PORT
//! ```

use std::net::SocketAddr;

use crate::proxy::{
    bytes::{after_any, before, number, text},
    event::{EventKind, Failure, Phase, Upstream},
};

type Told = (EventKind, Upstream, Option<String>);

/// What a health check's message tells: event, peer, and the group where it is named.
pub(super) fn event_of(message: &[u8]) -> Option<Told> {
    match message.strip_prefix(b"[lua] healthcheck.lua:") {
        Some(rest) => {
            let rest = number(rest)?.1.strip_prefix(b": ")?;
            // The function's name, where the script was not stripped of it.
            let rest = before(rest, b"(): ").map_or(rest, |(function, after)| {
                if function.iter().all(|byte| is_name(*byte)) { after } else { rest }
            });
            increment(rest).or_else(|| turned(rest))
        }
        None => tengine(message),
    }
}

fn is_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'.' || byte == b':'
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

/// `HOST(ADDR:PORT)`.
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
