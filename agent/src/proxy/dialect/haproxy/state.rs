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

use super::{reason::reason, server};
use crate::proxy::{
    bytes::{after_any, before, find, number, text},
    event::{Carrier, EventKind, Phase, ProxyEvent, ProxyKind, Upstream},
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
    if rest.starts_with(b"UP") && !rest.starts_with(b"UP/DRAIN") {
        return Some(event(EventKind::PeerBack, server, carrier));
    }
    // Without a reason from resolving its name (`snr_update_srv_status`) this is somebody's wish.
    if let Some(cause) = rest.strip_prefix(b"going DOWN for maintenance (") {
        after_any(cause, &[b"DNS ", b"No IP for server", b"unspecified DNS error"])?;
        let kind = EventKind::PeerMarked { phase: Phase::Other, failure: None };
        return Some(event(kind, server, carrier));
    }
    let rest = rest.strip_prefix(b"DOWN")?;
    // Leaving maintenance or drain, and what somebody changed: `DOWN/READY (`, ` (`, `, changed from CLI`.
    if rest.starts_with(b"/") || rest.starts_with(b" (") || rest.starts_with(b", changed from ") {
        return None;
    }
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

fn duration(rest: &[u8]) -> Option<u64> {
    const FIELD: &[u8] = b", check duration: ";
    let (milliseconds, rest) = number(&rest[find(rest, FIELD)? + FIELD.len()..])?;
    rest.starts_with(b"ms").then_some(milliseconds)
}
