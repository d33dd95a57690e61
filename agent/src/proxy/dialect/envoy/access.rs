//! Access logs.
//!
//! The default text format:
//!
//! ```text
//! [START] "METHOD PATH PROTOCOL" CODE FLAGS RECEIVED SENT DURATION TIME "XFF" "UA" "ID" "AUTHORITY" "UPSTREAM"
//! ```
//!
//! A client chooses PATH, XFF, UA and AUTHORITY, and nothing is escaped. So the code and flags are
//! taken right after the first ` HTTP/d"` or ` HTTP/d.d"`, since no path holds a space, and the
//! upstream from the line's end, where nothing of the client's follows.
//!
//! As JSON the keys are the operator's choice. Read are Istio's, which are the operators' names in
//! lower case, and short ones. JSON has a place of its own for each field, so nothing can be forged;
//! the text format names neither cluster nor reason.

use std::{borrow::Cow, net::SocketAddr};

use jiff::Timestamp;
use serde::{Deserialize, Deserializer};

use super::words;
use crate::{
    proxy::{
        bytes::{before, number, text},
        event::{Carrier, EventKind, ProxyEvent, ProxyKind, Upstream},
        timestamp::When,
    },
    time::UnixMs,
};

#[derive(Deserialize)]
struct Entry<'a> {
    #[serde(borrow, alias = "flags")]
    response_flags: Cow<'a, str>,
    #[serde(borrow, default, alias = "det")]
    response_code_details: Option<Cow<'a, str>>,
    #[serde(borrow, default, alias = "uh")]
    upstream_host: Option<Cow<'a, str>>,
    /// Null, or `-`, where there was no connection; the outer option: whether the key is there.
    #[serde(borrow, default, alias = "ul", deserialize_with = "present")]
    upstream_local_address: Option<Option<Cow<'a, str>>>,
    #[serde(borrow, default, alias = "cl")]
    upstream_cluster: Option<Cow<'a, str>>,
    #[serde(borrow, alias = "t")]
    start_time: Cow<'a, str>,
    #[serde(default, alias = "dur", deserialize_with = "milliseconds")]
    duration: u64,
}

fn present<'de: 'a, 'a, D: Deserializer<'de>>(
    value: D,
) -> Result<Option<Option<Cow<'a, str>>>, D::Error> {
    Option::<Cow<'a, str>>::deserialize(value).map(Some)
}

/// A number, or one in quotes, as Envoy writes it where `typed_json_format` is not used.
fn milliseconds<'de, D: Deserializer<'de>>(value: D) -> Result<u64, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        Number(u64),
        Text(String),
        Null(()),
    }
    Ok(match Either::deserialize(value)? {
        Either::Number(number) => number,
        Either::Text(text) => text.parse().unwrap_or(0),
        Either::Null(()) => 0,
    })
}

pub(super) fn of_json(line: &[u8], carrier: &Carrier<'_>) -> Option<ProxyEvent> {
    let entry: Entry<'_> = serde_json::from_slice(line).ok()?;
    let details = entry.response_code_details.as_deref().unwrap_or_default();
    let local: Option<Option<SocketAddr>> =
        entry.upstream_local_address.map(|addr| addr?.parse().ok());
    let kind = words::event_of(&entry.response_flags, details, local.map(|addr| addr.is_some()))?;
    // Istio names a cluster twice over, `outbound|80||host`; that is its name all the same.
    let group = entry.upstream_cluster.filter(|name| !name.is_empty() && name != "-");
    let upstream = match (kind, &group) {
        (EventKind::NoLivePeers, Some(group)) => Upstream::Group(group.to_string()),
        (EventKind::NoLivePeers, None) => Upstream::Unnamed,
        _ => entry.upstream_host.as_deref().and_then(host).unwrap_or(Upstream::Unnamed),
    };
    let at = end(&entry.start_time, entry.duration)?;
    Some(ProxyEvent {
        group: group.map(Cow::into_owned),
        local_addr: local.flatten(),
        took_ms: Some(entry.duration),
        ..ProxyEvent::at(When::exact(at), ProxyKind::Envoy, carrier, kind, upstream)
    })
}

pub(super) fn of_text(line: &[u8], carrier: &Carrier<'_>) -> Option<ProxyEvent> {
    let (start, rest) = before(line.strip_prefix(b"[")?, b"] \"")?;
    let rest = past_request(rest)?;
    let (_code, rest) = number(rest)?;
    let (flags, rest) = before(rest.strip_prefix(b" ")?, b" ")?;
    if flags == b"-" {
        return None;
    }
    let (_received, rest) = number(rest)?;
    let (_sent, rest) = number(rest.strip_prefix(b" ")?)?;
    let (duration, rest) = number(rest.strip_prefix(b" ")?)?;
    let kind = words::event_of(text(flags)?, "", None)?;
    let upstream = match kind {
        EventKind::NoLivePeers => Upstream::Unnamed,
        _ => last_quoted(rest).and_then(host).unwrap_or(Upstream::Unnamed),
    };
    let at = end(text(start)?, duration)?;
    let event = ProxyEvent::at(When::exact(at), ProxyKind::Envoy, carrier, kind, upstream);
    Some(ProxyEvent { took_ms: Some(duration), ..event })
}

/// What follows the first ` HTTP/2" ` or ` HTTP/1.1" `.
fn past_request(rest: &[u8]) -> Option<&[u8]> {
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

fn last_quoted(rest: &[u8]) -> Option<&str> {
    let inside = rest.trim_ascii_end().strip_suffix(b"\"")?;
    let open = inside.iter().rposition(|byte| *byte == b'"')?;
    text(&inside[open + 1..])
}

fn host(name: &str) -> Option<Upstream> {
    match name.parse::<SocketAddr>() {
        Ok(addr) => Some(Upstream::Inet(addr)),
        Err(_) => name.starts_with('/').then(|| Upstream::Unix(name.to_owned())),
    }
}

/// The request's end: the start, RFC 3339 or in seconds since the epoch, and how long it took.
fn end(start: &str, duration: u64) -> Option<UnixMs> {
    let start = match start.parse::<Timestamp>() {
        Ok(at) => u64::try_from(at.as_millisecond()).ok()?,
        Err(_) => {
            let (seconds, fraction) = start.split_once('.').unwrap_or((start, "0"));
            let thousandths: String = fraction.chars().chain("000".chars()).take(3).collect();
            let seconds: u64 = seconds.parse().ok()?;
            seconds.checked_mul(1000)?.checked_add(thousandths.parse().ok()?)?
        }
    };
    Some(UnixMs(start.checked_add(duration)?))
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
    }

    #[test]
    fn a_start_may_be_seconds_since_the_epoch() {
        assert_eq!(end("1795205456.879956000", 331), Some(UnixMs(1_795_205_457_210)));
        assert_eq!(end("2026-11-20T20:10:56.879Z", 331), Some(UnixMs(1_795_205_457_210)));
        assert_eq!(end("99999999999999999999", 0), None);
    }
}
