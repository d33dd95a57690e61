//! Access logs, of HTTP and of TCP (`"- - -"`).
//!
//! Envoy's default text format, and Istio's, which has more on both sides of it:
//!
//! ```text
//! [START] "METHOD PATH PROTOCOL" CODE FLAGS RECEIVED SENT DURATION TIME "XFF" "UA" "ID" "AUTHORITY" "UPSTREAM"
//! [START] "METHOD PATH PROTOCOL" CODE FLAGS DETAILS TERMINATION "TRANSPORT FAILURE" RECEIVED SENT DURATION TIME
//!     "XFF" "UA" "ID" "AUTHORITY" "UPSTREAM" CLUSTER LOCAL DOWNSTREAM_LOCAL DOWNSTREAM_REMOTE SNI ROUTE
//! ```
//!
//! Istio before 1.9 has fewer fields before RECEIVED. A client chooses PATH, XFF, UA, AUTHORITY and SNI,
//! and nothing is escaped. So the code and flags are taken right after the first ` HTTP/d"` or
//! ` HTTP/d.d"`, since no path holds a space, and the upstream from the line's end. Where SNI follows, it
//! counts only if there are just the quotes that Envoy writes.
//!
//! As JSON the keys are the operator's choice. Read are the operators' names in any case and with any
//! punctuation, and short ones. JSON has a place of its own for each field, so nothing can be forged.

use std::net::SocketAddr;

use super::words;
use crate::{
    proxy::{
        bytes::{before, number, text},
        dialect::keys::Keys,
        event::{Carrier, EventKind, ProxyEvent, ProxyKind, Upstream},
        timestamp::{When, leading, whole},
    },
    time::UnixMs,
};

/// Fields between FLAGS and RECEIVED at most.
const MOST_BETWEEN: usize = 3;
/// Quotes around XFF, UA, ID, AUTHORITY and UPSTREAM.
const QUOTES: usize = 10;
/// Istio's fields behind UPSTREAM.
const BEHIND: usize = 6;

pub(super) fn of_json(line: &[u8], carrier: &Carrier<'_>) -> Option<ProxyEvent> {
    let keys = Keys::read(line)?;
    let flags = keys.text(&["response_flags", "response_flags_long", "response_flag", "flags"])?;
    let details = keys.text(&["response_code_details", "details", "det"]).unwrap_or_default();
    let transport = keys.text(&["upstream_transport_failure_reason", "transport_failure_reason"]);
    // Null, or `-`, where there was no connection.
    const LOCAL: &[&str] = &["upstream_local_address", "ul"];
    let local: Option<SocketAddr> = keys.text(LOCAL).and_then(|addr| addr.parse().ok());
    let said = words::Said {
        flags: &flags,
        details: &details,
        transport: transport.as_deref().unwrap_or_default(),
        was_connected: keys.has(LOCAL).then_some(local.is_some()),
    };
    let kind = said.event()?;
    let upstream = keys.text(&["upstream_host", "upstream_remote_address", "upstream", "uh"]);
    let group = keys.text(&["upstream_cluster", "upstream_cluster_name", "cluster", "cl"]);
    let took = keys.number(&["duration", "duration_ms", "response_duration", "dur"]);
    let took = took.and_then(|took| u64::try_from(took).ok()).unwrap_or(0);
    let start = keys.text(&["start_time", "@timestamp", "timestamp", "time", "date", "ts", "t"]);
    let when = match start.and_then(|text| whole(&text, carrier.read_at)) {
        Some(start) => When { at: UnixMs(start.at.0.checked_add(took)?), ..start },
        None => carrier.written(),
    };
    let told = Told { kind, upstream: upstream.as_deref(), group: group.as_deref(), took };
    Some(ProxyEvent { local_addr: local, ..told.event(when, carrier) })
}

pub(super) fn of_text(line: &[u8], carrier: &Carrier<'_>) -> Option<ProxyEvent> {
    let (start, rest) = leading(line.strip_prefix(b"[")?, carrier.read_at)?;
    let rest = past_request(rest.strip_prefix(b"] \"")?)?;
    let (_code, rest) = number(rest)?;
    let (flags, rest) = before(rest.strip_prefix(b" ")?, b" ")?;
    if flags == b"-" {
        return None;
    }
    let mut said = words::Said { flags: text(flags)?, ..words::Said::default() };
    let (took, rest) = between(rest, &mut said)?;
    let kind = said.event()?;
    let (upstream, group) = upstream(rest);
    let told = Told { kind, upstream, group, took };
    let when = When { at: UnixMs(start.at.0.checked_add(took)?), ..start };
    Some(told.event(when, carrier))
}

/// What a log tells, in whatever form.
struct Told<'a> {
    kind: EventKind,
    upstream: Option<&'a str>,
    group: Option<&'a str>,
    took: u64,
}

impl Told<'_> {
    fn event(&self, when: When, carrier: &Carrier<'_>) -> ProxyEvent {
        // Istio names a cluster twice over, `outbound|80||host`; that is its name all the same.
        let group = self.group.filter(|name| !name.is_empty() && *name != "-").map(str::to_owned);
        let upstream = match (self.kind, &group) {
            (EventKind::NoLivePeers, Some(group)) => Upstream::Group(group.clone()),
            (EventKind::NoLivePeers, None) => Upstream::Unnamed,
            _ => self.upstream.and_then(host).unwrap_or(Upstream::Unnamed),
        };
        ProxyEvent {
            group,
            took_ms: Some(self.took),
            ..ProxyEvent::at(when, ProxyKind::Envoy, carrier, self.kind, upstream)
        }
    }
}

/// What follows the first ` HTTP/2" ` or ` HTTP/1.1" `, or TCP's `- - -" `.
fn past_request(rest: &[u8]) -> Option<&[u8]> {
    if let Some(rest) = rest.strip_prefix(b"- - -\" ") {
        return Some(rest);
    }
    let mut from = rest;
    loop {
        let (_, after) = before(from, b" HTTP/")?;
        let version = after.iter().take_while(|byte| byte.is_ascii_digit() || **byte == b'.');
        if let Some(rest) = after[version.count()..].strip_prefix(b"\" ") {
            return Some(rest);
        }
        from = after;
    }
}

/// Reads what Istio has before `RECEIVED SENT DURATION `, and the duration: the details of the response
/// code, how the connection ended and, in quotes, why the transport failed.
fn between<'a>(mut rest: &'a [u8], said: &mut words::Said<'a>) -> Option<(u64, &'a [u8])> {
    for _ in 0..=MOST_BETWEEN {
        if let Some(found) = duration(rest) {
            return Some(found);
        }
        if let Some(quoted) = rest.strip_prefix(b"\"") {
            let (reason, after) = before(quoted, b"\" ")?;
            said.transport = text(reason)?;
            rest = after;
        } else {
            let (word, after) = before(rest, b" ")?;
            if word != b"-" && said.details.is_empty() {
                said.details = text(word)?;
            }
            rest = after;
        }
    }
    None
}

fn duration(rest: &[u8]) -> Option<(u64, &[u8])> {
    let (_received, rest) = number(rest)?;
    let (_sent, rest) = number(rest.strip_prefix(b" ")?)?;
    let (duration, rest) = number(rest.strip_prefix(b" ")?)?;
    Some((duration, rest.strip_prefix(b" ")?))
}

/// The upstream and the cluster at the end of a line.
fn upstream(rest: &[u8]) -> (Option<&str>, Option<&str>) {
    let rest = rest.trim_ascii_end();
    if rest.ends_with(b"\"") {
        return (last_quoted(rest), None);
    }
    let found = || {
        let mut from = rest;
        let mut cluster = None;
        for _ in 0..BEHIND {
            let at = from.iter().rposition(|byte| *byte == b' ')?;
            cluster = text(&from[at + 1..]);
            from = &from[..at];
        }
        let is_sure = memchr::memchr_iter(b'"', rest).count() == QUOTES;
        (is_sure && from.ends_with(b"\"")).then(|| (last_quoted(from), cluster))
    };
    found().unwrap_or_default()
}

fn last_quoted(rest: &[u8]) -> Option<&str> {
    let inside = rest.strip_suffix(b"\"")?;
    let open = inside.iter().rposition(|byte| *byte == b'"')?;
    text(&inside[open + 1..])
}

fn host(name: &str) -> Option<Upstream> {
    match name.parse::<SocketAddr>() {
        Ok(addr) => Some(Upstream::Inet(addr)),
        Err(_) => name.starts_with('/').then(|| Upstream::Unix(name.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(line: &str) -> Option<ProxyEvent> {
        of_text(line.as_bytes(), &Carrier::plain("test", UnixMs(0)))
    }

    #[test]
    fn an_upstream_is_none_of_the_clients_words() {
        let line = r#"[2026-11-20T20:10:56.879Z] "GET /" 503 UF 0 0 1 - "-" HTTP/1.1" 503 UF 0 91 331 - "-" "x" "6.6.6.6:80" "y" "id" "a" "127.0.0.1:9001""#;
        let found = event(line).unwrap();
        assert_eq!(found.upstream, Upstream::Inet("127.0.0.1:9001".parse().unwrap()));
        assert_eq!(found.took_ms, Some(331));
        let success = r#"[2026-11-20T20:10:56.879Z] "GET /" HTTP/1.1" 200 - 0 91 331 - "-" "x" 503 UF 0 0 1 - "id" "a" "127.0.0.1:9001""#;
        assert_eq!(event(success), None);
    }

    #[test]
    fn istios_keys_are_read_too() {
        let line = br#"{"start_time":"2026-11-20T20:10:56.879Z","response_flags":"UF,URX","response_code":503,"response_code_details":"upstream_reset_before_response_started{remote_connection_failure,delayed_connect_error:_111}","upstream_host":"10.0.0.1:80","upstream_cluster":"outbound|80||a.b","duration":5,"upstream_local_address":null,"user_agent":"\"upstream_host\":\"6.6.6.6:80\""}"#;
        let event = of_json(line, &Carrier::plain("test", UnixMs(0))).unwrap();
        assert_eq!(event.addr(), Some("10.0.0.1:80".parse().unwrap()));
        assert_eq!(event.group_name(), Some("outbound|80||a.b"));
        assert_eq!(event.failure(), Some(crate::proxy::Failure::REFUSED));
    }

    #[test]
    fn istios_text_names_cluster_and_reason() {
        let line = r#"[2026-11-20T20:10:56.879Z] "GET /x HTTP/1.1" 503 UF,URX upstream_reset_before_response_started{remote_connection_failure,delayed_connect_error:_111} - "delayed_connect_error:_111" 0 152 331 - "-" "x" "id" "a" "10.0.0.1:80" outbound|80||a.b - 10.0.0.2:80 10.0.0.3:1 - default"#;
        let found = event(line).unwrap();
        let failure = crate::proxy::Failure::REFUSED;
        let phase = crate::proxy::Phase::Connect;
        assert_eq!(found.kind, EventKind::AttemptFailed { phase, failure });
        assert_eq!(found.addr(), Some("10.0.0.1:80".parse().unwrap()));
        assert_eq!((found.group_name(), found.took_ms), (Some("outbound|80||a.b"), Some(331)));
        // A server's name that a client sent in its TLS handshake, with a quote more.
        let planted = line.replace("10.0.0.3:1 - ", r#"10.0.0.3:1 "6.6.6.6:80" c l d r s "#);
        assert_eq!(event(&planted).unwrap().upstream, Upstream::Unnamed);
    }

    #[test]
    fn tcp_has_no_request() {
        let line =
            r#"[2026-11-20T20:10:56.879Z] "- - -" 0 UF 0 0 331 - "-" "-" "-" "-" "10.0.0.1:80""#;
        assert_eq!(event(line).unwrap().addr(), Some("10.0.0.1:80".parse().unwrap()));
        let istio = r#"[2026-11-20T20:10:56.879Z] "- - -" 0 UF,URX - - "-" 0 0 331 - "-" "-" "-" "-" "10.0.0.1:80" outbound|80||a.b - 10.0.0.2:80 10.0.0.3:1 - -"#;
        assert_eq!(event(istio).unwrap().group_name(), Some("outbound|80||a.b"));
    }
}
