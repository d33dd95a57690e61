//! Caddy 2's log as JSON. Caddy says nothing when it takes a peer out (`fail_duration`), only what
//! became of a request, in the words of Go's errors, and what became of an active health check:
//!
//! ```text
//! {"level":"error","ts":1.0,"logger":"http.log.error.log0","msg":"dial tcp 10.0.0.1:80: i/o timeout",…
//! {"level":"info","ts":1.0,"logger":"http.handlers.reverse_proxy.health_checker.active",
//!  "msg":"HTTP request failed","host":"10.0.0.1:80","error":"Get \"http://10.0.0.1:80/\": dial tcp …"}
//! ```

use std::{borrow::Cow, net::SocketAddr};

use serde::Deserialize;

use crate::{
    proxy::event::{Carrier, EventKind, Failure, Phase, ProxyEvent, ProxyKind, Upstream},
    proxy::timestamp::When,
    time::UnixMs,
};

#[derive(Deserialize)]
struct Entry<'a> {
    ts: f64,
    #[serde(borrow, default)]
    logger: Cow<'a, str>,
    #[serde(borrow)]
    msg: Cow<'a, str>,
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
        return None;
    }
    let entry: Entry<'_> = serde_json::from_slice(line).ok()?;
    let told = if entry.logger.starts_with("http.log.error") {
        of_request(&entry.msg)?
    } else if entry.logger.starts_with("http.handlers.reverse_proxy.health_checker.active") {
        of_check(&entry)?
    } else {
        return None;
    };
    let at = UnixMs((entry.ts * 1000.0) as u64);
    let took = entry.duration.map(|seconds| (seconds * 1000.0) as u64);
    let event =
        ProxyEvent::at(When::exact(at), ProxyKind::Caddy, carrier, told.kind, told.upstream);
    Some(ProxyEvent { local_addr: told.local, took_ms: took, ..event })
}

struct Told {
    kind: EventKind,
    upstream: Upstream,
    local: Option<SocketAddr>,
}

fn failed(phase: Phase, failure: Failure, upstream: Upstream) -> Told {
    Told { kind: EventKind::AttemptFailed { phase, failure }, upstream, local: None }
}

fn of_request(error: &str) -> Option<Told> {
    match error {
        "no upstreams available" => {
            let kind = EventKind::NoLivePeers;
            Some(Told { kind, upstream: Upstream::Unnamed, local: None })
        }
        "EOF" | "unexpected EOF" | "http: server closed idle connection" => {
            Some(failed(Phase::ResponseHeader, Failure::ClosedEarly, Upstream::Unnamed))
        }
        "net/http: timeout awaiting response headers" => {
            Some(failed(Phase::ResponseHeader, Failure::TIMEOUT, Upstream::Unnamed))
        }
        _ => of_socket(error),
    }
}

/// Go's `net.OpError`: `OP NET [SOURCE->]ADDR: [SYSCALL: ]WORDS`.
fn of_socket(error: &str) -> Option<Told> {
    let (operation, rest) = error.split_once(' ')?;
    let phase = match operation {
        "dial" => Phase::Connect,
        "read" => Phase::ResponseHeader,
        "write" => Phase::Send,
        _ => return None,
    };
    let (network, rest) = rest.split_once(' ')?;
    let (ends, words) = rest.split_once(": ")?;
    let words = words.rsplit_once(": ").map_or(words, |(_, words)| words);
    let failure = Failure::of_words(words).unwrap_or(Failure::Unknown);
    let (local, peer) = match ends.split_once("->") {
        Some((local, peer)) => (local.parse().ok(), peer),
        None => (None, ends),
    };
    let upstream = match network {
        "tcp" | "tcp4" | "tcp6" => Upstream::Inet(peer.parse().ok()?),
        "unix" => Upstream::Unix(peer.to_owned()),
        _ => return None,
    };
    Some(Told { local, ..failed(phase, failure, upstream) })
}

fn of_check(entry: &Entry<'_>) -> Option<Told> {
    if entry.msg != "HTTP request failed" {
        return None;
    }
    let peer = Upstream::Inet(entry.host.as_deref()?.parse().ok()?);
    // `Get "URL": CAUSE`; the URL is from Caddy's own configuration.
    let (_, cause) = entry.error.as_deref()?.rsplit_once("\": ")?;
    if let Some(Told { kind, local, .. }) = of_socket(cause) {
        return Some(Told { kind, upstream: peer, local });
    }
    let (phase, failure) = match cause {
        "EOF" => (Phase::ResponseHeader, Failure::ClosedEarly),
        _ if cause.contains("waiting for connection") => (Phase::Connect, Failure::TIMEOUT),
        // "…while awaiting headers" is said of the whole exchange, its dial included.
        _ if cause.contains("deadline exceeded") => (Phase::Other, Failure::TIMEOUT),
        _ => (Phase::Other, Failure::Unknown),
    };
    Some(failed(phase, failure, peer))
}
