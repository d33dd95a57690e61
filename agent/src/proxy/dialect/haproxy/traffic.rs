//! HAProxy's traffic logs (configuration manual, 8.2 "Log formats").
//!
//! ```text
//! CLIENT [ACCEPTED] FRONTEND BACKEND/SERVER [bi=A:P] [si=A:P] TR/Tw/Tc/Tr/Ta STATUS BYTES CC CS TERM … "REQUEST"
//! CLIENT [ACCEPTED] FRONTEND BACKEND/SERVER [bi=A:P] [si=A:P] Tw/Tc/Tt BYTES TERM …
//! ```
//!
//! HAProxy writes quotes in requests as `#22`, but a captured cookie (CC, CS) is the client's own
//! words. What it plants before TERM cannot make a failure of a success, for the timers stand before
//! it and are asked too.

use std::{net::SocketAddr, time::Duration};

use crate::proxy::{
    bytes::text,
    event::{Carrier, EventKind, Failure, Phase, ProxyEvent, ProxyKind, Upstream},
    timestamp::{self, When},
};

/// Fields of a line that are looked at; the request stands after them.
const MOST_FIELDS: usize = 16;

pub(super) fn event_of(message: &[u8], carrier: &Carrier<'_>) -> Option<ProxyEvent> {
    let mut fields = message.split(|byte| *byte == b' ').take(MOST_FIELDS);
    let _client = fields.next()?;
    let accepted = fields.next()?.strip_prefix(b"[")?.strip_suffix(b"]")?;
    let frontend = fields.next()?;
    let named = fields.next()?;
    let mut ends = Ends::default();
    let timers = loop {
        let field = fields.next()?;
        if !ends.take(field) {
            break Timers::read(field)?;
        }
    };
    let mut rest = fields.take_while(|field| !field.starts_with(b"\"") && !field.starts_with(b"{"));
    let is_http = timers.response.is_some();
    let term = rest.nth(if is_http { 4 } else { 1 })?;
    if term.len() != if is_http { 4 } else { 2 } {
        return None;
    }
    rest.for_each(|field| {
        ends.take(field);
    });
    let (group, server) = text(named)?.split_once('/')?;
    let (accepted, rest) = timestamp::leading(accepted, carrier.read_at)?;
    rest.is_empty().then_some(())?;
    let session = Session {
        frontend: text(frontend)?.trim_end_matches('~').to_owned(),
        group: group.to_owned(),
        server: server.to_owned(),
        term,
        connect: timers.connect,
        response: timers.response,
        total: Some(timers.total),
        ends,
    };
    session.event(Some(accepted), carrier)
}

/// What a log tells of one session, in whatever form.
pub(super) struct Session<'a> {
    pub frontend: String,
    pub group: String,
    pub server: String,
    /// The termination state.
    pub term: &'a [u8],
    /// Milliseconds until the connection was there; -1 if it never was.
    pub connect: i64,
    /// Until the response's header; HTTP only.
    pub response: Option<i64>,
    /// Of the whole session.
    pub total: Option<u64>,
    pub ends: Ends,
}

impl Session<'_> {
    pub fn event(self, accepted: Option<When>, carrier: &Carrier<'_>) -> Option<ProxyEvent> {
        let (kind, upstream) = if self.server == "<NOSRV>" {
            // Without a backend the frontend stands in its place: no server was looked for.
            let kind = self.without_server()?;
            let group = (self.group != self.frontend).then_some(self.group)?;
            (kind, Upstream::Group(group))
        } else {
            let (phase, failure) = self.failure()?;
            let upstream = match self.ends.peer {
                Some(addr) if self.server.is_empty() => Upstream::Inet(addr),
                _ => Upstream::Server { group: self.group, name: self.server },
            };
            (EventKind::AttemptFailed { phase, failure }, upstream)
        };
        let took = Duration::from_millis(self.total.unwrap_or(0));
        let ended = accepted.map(|accepted| When { at: accepted.at.later(took), ..accepted });
        let when = ended.unwrap_or_else(|| carrier.written());
        Some(ProxyEvent {
            took_ms: self.total,
            local_addr: self.ends.local,
            peer_addr: self.ends.peer,
            ..ProxyEvent::at(when, ProxyKind::Haproxy, carrier, kind, upstream)
        })
    }

    /// The termination state (manual, 8.5 "Session state at disconnection").
    fn failure(&self) -> Option<(Phase, Failure)> {
        let unconnected = self.connect < 0;
        let unanswered = !unconnected && self.response.is_some_and(|response| response < 0);
        Some(match self.term.get(..2)? {
            b"sC" if unconnected => (Phase::Connect, Failure::TIMEOUT),
            b"SC" if unconnected => (Phase::Connect, Failure::REFUSED),
            b"RC" | b"PC" if unconnected => (Phase::Connect, Failure::OwnLimit),
            b"sQ" | b"RQ" if unconnected => (Phase::Other, Failure::OwnLimit),
            b"SH" if unanswered => (Phase::ResponseHeader, Failure::Aborted),
            b"sH" if unanswered => (Phase::ResponseHeader, Failure::TIMEOUT),
            b"PH" if unanswered => (Phase::ResponseHeader, Failure::InvalidResponse),
            b"SD" | b"SL" if !unconnected => (Phase::Body, Failure::Aborted),
            b"sD" | b"sL" if !unconnected => (Phase::Body, Failure::TIMEOUT),
            _ => return None,
        })
    }

    /// No server took the request: none was up, or it waited too long for one with room (`maxconn`).
    fn without_server(&self) -> Option<EventKind> {
        match self.term.get(..2)? {
            b"SC" if self.connect < 0 => Some(EventKind::NoLivePeers),
            b"sQ" if self.connect < 0 => {
                let (phase, failure) = (Phase::Other, Failure::OwnLimit);
                Some(EventKind::AttemptFailed { phase, failure })
            }
            _ => None,
        }
    }
}

/// The connection to the server, where the format tells it.
#[derive(Default)]
pub(super) struct Ends {
    pub local: Option<SocketAddr>,
    pub peer: Option<SocketAddr>,
}

impl Ends {
    fn take(&mut self, field: &[u8]) -> bool {
        let of = |start: &[u8]| field.strip_prefix(start).and_then(text);
        if let Some(local) = of(b"bi=") {
            self.local = address(local);
        } else if let Some(peer) = of(b"si=") {
            self.peer = address(peer);
        } else {
            return false;
        }
        true
    }
}

/// HAProxy writes an IPv6 address without brackets: `::1:9001`. What is unknown is `-:-` or port 0.
pub(super) fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.rsplit_once(':')?;
    let addr = SocketAddr::new(ip.parse().ok()?, port.parse().ok()?);
    (addr.port() != 0).then_some(addr)
}

/// Timers in milliseconds; -1 for a step that was not reached.
struct Timers {
    connect: i64,
    /// Until the response's header; HTTP only.
    response: Option<i64>,
    total: u64,
}

impl Timers {
    fn read(field: &[u8]) -> Option<Self> {
        // A '+' tells that the log was written before the session's end (`option logasap`).
        let mut numbers = [0_i64; 5];
        let mut count = 0;
        for part in text(field)?.split('/') {
            *numbers.get_mut(count)? = part.trim_start_matches('+').parse().ok()?;
            count += 1;
        }
        let [_, second, third, fourth, fifth] = numbers;
        let (connect, response, total) = match count {
            5 => (third, Some(fourth), fifth),
            3 => (second, None, third),
            _ => return None,
        };
        Some(Self { connect, response, total: u64::try_from(total).ok()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::UnixMs;

    fn event(line: &str) -> Option<ProxyEvent> {
        // 2026-11-20T20:05:36Z
        event_of(line.as_bytes(), &Carrier::plain("test", UnixMs(1_795_205_136_000)))
    }

    fn kind(line: &str) -> Option<EventKind> {
        event(line).map(|event| event.kind)
    }

    #[test]
    fn both_ends_of_a_failed_connection_are_read() {
        let line = r#"127.0.0.1:35944 [20/Nov/2026:20:05:35.308] fe overflow/s1 bi=127.0.0.1:57306 si=127.0.0.1:9001 0/301/-1/-1/602 503 217 - - sC-- 1/1/0/0/1 0/0 "GET /x HTTP/1.1""#;
        let event = event(line).unwrap();
        assert_eq!(event.local_addr, Some("127.0.0.1:57306".parse().unwrap()));
        assert_eq!(event.addr(), Some("127.0.0.1:9001".parse().unwrap()));
        assert_eq!((event.at, event.took_ms), (UnixMs(1_795_205_135_910), Some(602)));
        let failure = Failure::TIMEOUT;
        assert_eq!(event.kind, EventKind::AttemptFailed { phase: Phase::Connect, failure });
        let line = line.replace("127.0.0.1:9001", "fd00::1:9001");
        let event = super::tests::event(&line).unwrap();
        assert_eq!(event.addr(), Some("[fd00::1]:9001".parse().unwrap()));
    }

    #[test]
    fn a_planted_cookie_makes_no_failure_of_a_success() {
        let success = r#"127.0.0.1:1 [20/Nov/2026:20:05:35.308] fe app/s1 0/0/0/1/1 200 50 x - sC-- 1/1/0/0/1 0/0 ---- 1/1/0/0/0 0/0 "GET / HTTP/1.1""#;
        assert_eq!(kind(success), None);
        let planted = r#"127.0.0.1:1 [20/Nov/2026:20:05:35.308] fe app/s1 0/0/0/1/1 200 50 - - ---- 1/1/0/0/1 0/0 {bi=6.6.6.6:1 si=6.6.6.6:2} "GET /sC-- HTTP/1.1""#;
        assert_eq!(kind(planted), None);
    }

    #[test]
    fn ends_after_the_request_are_the_clients_words() {
        let line = r#"127.0.0.1:1 [20/Nov/2026:20:05:35.308] fe app/s1 0/0/-1/-1/602 503 217 - - sC-- 1/1/0/0/1 0/0 "GET /x si=6.6.6.6:80 HTTP/1.1" si=6.6.6.6:80"#;
        assert_eq!(event(line).unwrap().addr(), None);
    }

    #[test]
    fn a_frontend_without_a_backend_has_no_group() {
        let line = r#"127.0.0.1:1 [20/Nov/2026:20:05:35.308] fe~ fe/<NOSRV> -1/-1/-1/-1/0 503 217 - - SC-- 1/1/0/0/0 0/0 "GET /x HTTP/1.1""#;
        assert_eq!(kind(line), None);
    }
}
