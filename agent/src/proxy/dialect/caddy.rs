//! Caddy 2's log, as JSON and in zap's console format. Caddy says nothing when it takes a peer out
//! (`fail_duration`), only what became of a request, in the words of Go's errors, and what became of an
//! active health check:
//!
//! ```text
//! {"level":"error","ts":1.0,"logger":"http.log.error.log0","msg":"dial tcp 10.0.0.1:80: i/o timeout",…
//! {"level":"info","ts":1.0,"logger":"http.handlers.reverse_proxy.health_checker.active",
//!  "msg":"HTTP request failed","host":"10.0.0.1:80","error":"Get \"http://10.0.0.1:80/\": dial tcp …"}
//! 2026/11/28 12:00:00.000<TAB>ERROR<TAB>http.log.error.log0<TAB>dial tcp …<TAB>{…}
//! ```

use std::borrow::Cow;

use serde::Deserialize;

use super::go::{self, Error};
use crate::proxy::{
    bytes::{text, without_ansi},
    event::{Carrier, EventKind, Failure, Phase, ProxyEvent, ProxyKind, Upstream},
    timestamp::{When, of_number, whole},
};

#[derive(Deserialize)]
struct Entry<'a> {
    #[serde(borrow)]
    ts: Time<'a>,
    #[serde(borrow, default)]
    logger: Cow<'a, str>,
    #[serde(borrow)]
    msg: Cow<'a, str>,
}

/// A number, or a text where the log's `time_format` says so.
#[derive(Deserialize)]
#[serde(untagged)]
enum Time<'a> {
    Number(f64),
    #[serde(borrow)]
    Text(Cow<'a, str>),
}

#[derive(Default, Deserialize)]
struct Fields<'a> {
    #[serde(borrow, default)]
    host: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    error: Option<Cow<'a, str>>,
    /// In seconds.
    #[serde(default)]
    duration: Option<f64>,
}

/// Reads one line, without its line feed. `None` for everything that is no event of an upstream.
pub fn parse(line: &[u8], carrier: &Carrier<'_>) -> Option<ProxyEvent> {
    if line.first() != Some(&b'{') {
        return console(line, carrier);
    }
    let entry: Entry<'_> = serde_json::from_slice(line).ok()?;
    let when = match &entry.ts {
        Time::Number(number) => of_number(*number)?,
        Time::Text(text) => whole(text, carrier.read_at)?,
    };
    event(when, &entry.logger, &entry.msg, || serde_json::from_slice(line).ok(), carrier)
}

/// `TIME<TAB>LEVEL<TAB>LOGGER<TAB>MESSAGE<TAB>{…}`, the level in colour on a terminal.
fn console(line: &[u8], carrier: &Carrier<'_>) -> Option<ProxyEvent> {
    let plain = without_ansi(line);
    let mut columns = text(&plain)?.splitn(5, '\t');
    let when = whole(columns.next()?, carrier.read_at)?;
    let _level = columns.next()?;
    let (logger, message) = (columns.next()?, columns.next()?);
    let fields =
        || columns.next().map_or(Some(Fields::default()), |it| serde_json::from_str(it).ok());
    event(when, logger, message, fields, carrier)
}

/// `fields` is asked only of a logger that speaks of upstreams: most lines are of others.
fn event<'a>(
    when: When,
    logger: &str,
    message: &str,
    fields: impl FnOnce() -> Option<Fields<'a>>,
    carrier: &Carrier<'_>,
) -> Option<ProxyEvent> {
    let is_check = logger.starts_with("http.handlers.reverse_proxy.health_checker.active");
    if !is_check && !logger.starts_with("http.log.error") {
        return None;
    }
    let fields = fields()?;
    let (kind, upstream, local) = match message {
        _ if is_check => of_check(message, &fields)?,
        "no upstreams available" => (EventKind::NoLivePeers, Upstream::Unnamed, None),
        _ => failed(go::error(message)?, None),
    };
    let took = fields.duration.map(|seconds| (seconds * 1000.0) as u64);
    let event = ProxyEvent::at(when, ProxyKind::Caddy, carrier, kind, upstream);
    Some(ProxyEvent { local_addr: local, took_ms: took, ..event })
}

type Told = (EventKind, Upstream, Option<std::net::SocketAddr>);

fn failed(error: Error, peer: Option<Upstream>) -> Told {
    let Error { phase, failure, .. } = error;
    let upstream = peer.or(error.peer).unwrap_or(Upstream::Unnamed);
    (EventKind::AttemptFailed { phase, failure }, upstream, error.local)
}

/// `doActiveHealthCheck` in `reverseproxy/healthchecks.go`.
fn of_check(message: &str, fields: &Fields<'_>) -> Option<Told> {
    let peer = Upstream::Inet(fields.host.as_deref()?.parse().ok()?);
    let of = |phase, failure| Error { phase, failure, peer: None, local: None };
    let error = match message {
        "host is up" => return Some((EventKind::PeerBack, peer, None)),
        "unexpected status code" | "status code out of tolerances" => {
            of(Phase::ResponseHeader, Failure::BadStatus)
        }
        "response body failed expectations" => of(Phase::Body, Failure::InvalidResponse),
        "failed to read response body" => {
            let error = fields.error.as_deref().and_then(go::error);
            let failure = error.map_or(Failure::Unknown, |error| error.failure);
            of(Phase::Body, failure)
        }
        "HTTP request failed" => {
            let error = go::error(fields.error.as_deref()?);
            error.unwrap_or_else(|| of(Phase::Other, Failure::Unknown))
        }
        _ => return None,
    };
    Some(failed(error, Some(peer)))
}
