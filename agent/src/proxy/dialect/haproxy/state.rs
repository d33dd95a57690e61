//! What HAProxy says when a server or backend changes its state (`src/server.c`, `src/check.c`).
//!
//! ```text
//! Server B/S is DOWN, reason: Layer4 timeout, check duration: 300ms. 1 active and …
//! backend B has no server available!
//! Server B/S is going DOWN for maintenance (DNS timeout status). 0 active and …
//! Health check for server B/S failed, reason: Layer4 timeout, check duration: 300ms, status: 0/1 DOWN.
//! ```
//!
//! With `option log-health-checks` the reason is in the check's own line, and the server's has none.

use super::server;
use crate::proxy::{
    bytes::{after_any, before, find, number, text},
    event::{Carrier, EventKind, Failure, Phase, ProxyEvent, ProxyKind, Upstream},
};

pub(super) fn event_of(message: &[u8], carrier: &Carrier<'_>) -> Option<ProxyEvent> {
    // `proxy_type_str`: a `listen` section is a proxy.
    if let Some(rest) = after_any(message, &[b"backend ", b"proxy ", b"listen ", b"frontend "]) {
        let (name, _) = before(rest, b" has no server available!")?;
        // Quoted on standard error only.
        let name = text(name)?.trim_matches('\'').to_owned();
        return Some(event(EventKind::NoLivePeers, Upstream::Group(name), carrier));
    }
    let check = message.strip_prefix(b"Health check for ");
    let named = check.unwrap_or(message);
    let named = named.strip_prefix(b"Backup ").or(named.strip_prefix(b"backup ")).unwrap_or(named);
    let named = named.strip_prefix(b"Server ").or(named.strip_prefix(b"server "))?;
    let (name, rest) = before(named, b" ")?;
    let server = server(name)?;
    if check.is_some() {
        let (phase, failure) = reason(rest.strip_prefix(b"failed, reason: ")?);
        let kind = EventKind::AttemptFailed { phase, failure };
        return Some(ProxyEvent { took_ms: duration(rest), ..event(kind, server, carrier) });
    }
    // A server that is resolved has its host's name behind its own.
    let rest =
        rest.strip_prefix(b"('").map_or(Some(rest), |named| Some(before(named, b"') ")?.1))?;
    let rest = rest.strip_prefix(b"is ")?;
    if rest.starts_with(b"UP") {
        return Some(event(EventKind::PeerBack, server, carrier));
    }
    // Without a reason from resolving its name (`snr_update_srv_status`) this is somebody's wish.
    if let Some(cause) = rest.strip_prefix(b"going DOWN for maintenance (") {
        after_any(cause, &[b"DNS ", b"No IP for server", b"unspecified DNS error"])?;
        let kind = EventKind::PeerMarked { phase: Phase::Other, failure: None };
        return Some(event(kind, server, carrier));
    }
    let rest = rest.strip_prefix(b"DOWN")?;
    let (phase, failure) = match rest.strip_prefix(b", reason: ") {
        Some(rest) => {
            let (phase, failure) = reason(rest);
            (phase, Some(failure))
        }
        None => (Phase::Other, None),
    };
    let kind = EventKind::PeerMarked { phase, failure };
    Some(ProxyEvent { took_ms: duration(rest), ..event(kind, server, carrier) })
}

fn event(kind: EventKind, upstream: Upstream, carrier: &Carrier<'_>) -> ProxyEvent {
    ProxyEvent::at(carrier.written(), ProxyKind::Haproxy, carrier, kind, upstream)
}

/// The reasons there are (`get_check_status_description`).
fn reason(rest: &[u8]) -> (Phase, Failure) {
    const REASONS: &[(&[u8], Phase, Failure)] = &[
        (b"Layer4 timeout", Phase::Connect, Failure::TIMEOUT),
        (b"Layer6 timeout", Phase::TlsHandshake, Failure::TIMEOUT),
        (b"Layer6 invalid response", Phase::TlsHandshake, Failure::InvalidResponse),
        (b"Layer7 timeout", Phase::ResponseHeader, Failure::TIMEOUT),
        (b"Layer7 invalid response", Phase::ResponseHeader, Failure::InvalidResponse),
        (b"Layer7 wrong status", Phase::ResponseHeader, Failure::BadStatus),
    ];
    if let Some((_, phase, failure)) = REASONS.iter().find(|(start, ..)| rest.starts_with(start)) {
        return (*phase, *failure);
    }
    // Here the information is HAProxy's or the C library's, not the server's.
    let info =
        rest.strip_prefix(b"Layer4 connection problem").or(rest.strip_prefix(b"Socket error"));
    if let Some(info) = info {
        return (Phase::Connect, info_of(info).and_then(words).unwrap_or(Failure::Unknown));
    }
    match rest.strip_prefix(b"Health analyze").and_then(info_of) {
        Some(info) if info.contains("L4 unsuccessful") => (Phase::Connect, Failure::Unknown),
        Some(info) if info.contains("Wrong http response") => {
            (Phase::ResponseHeader, Failure::BadStatus)
        }
        _ => (Phase::Other, Failure::Unknown),
    }
}

fn info_of(rest: &[u8]) -> Option<&str> {
    let (info, _) = before(rest.strip_prefix(b", info: \"")?, b"\"")?;
    text(info)
}

/// "Connection refused", with tcp-check followed by where: "… at step 1 of tcp-check (connect)", "… at
/// initial connection step of tcp-check"; or `conn_err_code_str` with the error in parentheses: "General
/// socket error (Network is unreachable)".
fn words(info: &str) -> Option<Failure> {
    let what = info.split(" at ").next().unwrap_or(info);
    let inner = what.split_once('(').map(|(_, rest)| rest.trim_end_matches(')'));
    let outer = what.split('(').next().unwrap_or(what).trim_end();
    let by_errno = inner.and_then(Failure::of_words).or_else(|| Failure::of_words(outer));
    let by_code = || match outer {
        "Out of local source ports on the system" | "Can't bind to source address" => {
            Some(Failure::Errno { errno: libc::EADDRNOTAVAIL })
        }
        "Local source address already in use" => Some(Failure::Errno { errno: libc::EADDRINUSE }),
        "Source port range exhausted"
        | "Reached maxconn value"
        | "Reached configured maxconn value"
        | "Too many sockets on the process"
        | "Too many sockets on the system"
        | "Out of system buffers" => Some(Failure::OwnLimit),
        "Connection timed out during SSL handshake" => Some(Failure::TIMEOUT),
        _ => None,
    };
    by_errno.or_else(by_code)
}

fn duration(rest: &[u8]) -> Option<u64> {
    const FIELD: &[u8] = b", check duration: ";
    let (milliseconds, rest) = number(&rest[find(rest, FIELD)? + FIELD.len()..])?;
    rest.starts_with(b"ms").then_some(milliseconds)
}
