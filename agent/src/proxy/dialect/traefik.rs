//! Traefik's log: v3's (zerolog) and v2's and v1's (logrus), as text and as JSON. It says when an active
//! health check fails and, at level debug, how a request failed, in the words of Go's errors.
//!
//! ```text
//! 2026-11-28T12:00:00Z WRN Health check failed. error="checking HTTP health: …" targetURL=http://10.0.0.1:80
//! {"level":"error","error":"dial tcp 10.0.0.1:80: i/o timeout","time":"…","message":"Error while dialing backend"}
//! time="…" level=warning msg="Health check failed, removing from server list. Backend: \"x\" URL: \"…\" …"
//! ```

use std::borrow::Cow;

use super::{
    go::{self, Error},
    keys::Keys,
};
use crate::proxy::{
    bytes::{text, without_ansi},
    event::{Carrier, EventKind, Failure, Phase, ProxyEvent, ProxyKind, Upstream},
    logfmt::Pairs,
    timestamp::{When, leading, whole},
};

/// What a line says, in whatever form.
struct Said<'a> {
    when: Option<When>,
    message: Cow<'a, str>,
    error: Option<Cow<'a, str>>,
    url: Option<Cow<'a, str>>,
    service: Option<Cow<'a, str>>,
}

/// Reads one line, without its line feed. `None` for everything that is no event of an upstream.
pub fn parse(line: &[u8], carrier: &Carrier<'_>) -> Option<ProxyEvent> {
    if line.first() == Some(&b'{') {
        return of_json(line, carrier);
    }
    let plain = without_ansi(line);
    match Pairs::read(&plain) {
        Some(pairs) => of_pairs(&pairs, None, pairs.get("msg")?, carrier),
        None => console(&plain, carrier),
    }
}

fn of_json(line: &[u8], carrier: &Carrier<'_>) -> Option<ProxyEvent> {
    let keys = Keys::read(line)?;
    let time = keys.text(&["time"]);
    // Traefik's own lines have a level and a time.
    keys.has(&["level"]).then_some(())?;
    let said = Said {
        when: time.and_then(|time| whole(&time, carrier.read_at)),
        message: keys.text(&["message", "msg"])?,
        error: keys.text(&["error"]),
        url: keys.text(&["targetURL"]),
        service: keys.text(&["serviceName"]),
    };
    said.event(carrier)
}

/// zerolog's `ConsoleWriter`: `TIME LEVEL [CALLER >] MESSAGE KEY=VALUE…`, where the message ends at the
/// first word that has a `=` in it.
fn console(line: &[u8], carrier: &Carrier<'_>) -> Option<ProxyEvent> {
    const LEVELS: &[&str] = &["TRC", "DBG", "INF", "WRN", "ERR"];
    let (when, rest) = leading(line, carrier.read_at)?;
    let rest = text(rest)?.strip_prefix(' ')?;
    let (level, rest) = rest.split_once(' ')?;
    LEVELS.contains(&level).then_some(())?;
    // The caller's place in the source, which holds no blank.
    let rest = rest.split_once(" > ").map_or(
        rest,
        |(caller, after)| {
            if caller.contains(' ') { rest } else { after }
        },
    );
    let mut message = 0;
    for word in rest.split_inclusive(' ') {
        let is_key = word.split_once('=').is_some_and(|(key, _)| {
            !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        });
        if is_key {
            break;
        }
        message += word.len();
    }
    let pairs = Pairs::read(&rest.as_bytes()[message..]);
    let pairs = pairs.unwrap_or_default();
    of_pairs(&pairs, Some(when), rest[..message].trim_end(), carrier)
}

fn of_pairs(
    pairs: &Pairs<'_>,
    when: Option<When>,
    message: &str,
    carrier: &Carrier<'_>,
) -> Option<ProxyEvent> {
    let when = when.or_else(|| whole(pairs.get("time")?, carrier.read_at));
    let of = |key| pairs.get(key).map(Cow::Borrowed);
    let (error, url, service) = (of("error"), of("targetURL"), of("serviceName"));
    Said { when, message: message.into(), error, url, service }.event(carrier)
}

impl Said<'_> {
    fn event(self, carrier: &Carrier<'_>) -> Option<ProxyEvent> {
        let Told { kind, upstream, group, local } = self.told()?;
        let when = self.when.unwrap_or_else(|| carrier.written());
        let event = ProxyEvent::at(when, ProxyKind::Traefik, carrier, kind, upstream);
        Some(ProxyEvent { group, local_addr: local, ..event })
    }

    fn told(&self) -> Option<Told> {
        let error = self.error.as_deref();
        let service = self.service.as_deref().map(str::to_owned);
        if self.message == "Health check failed." {
            let error = how(error?);
            let kind = EventKind::PeerMarked { phase: error.phase, failure: Some(error.failure) };
            let upstream = go::peer_of_url(self.url.as_deref()?).or(error.peer)?;
            return Some(Told { kind, upstream, group: service, local: error.local });
        }
        if let Some(check) = self.message.strip_prefix("Health check ") {
            return of_check(check);
        }
        const DIALING: &[&str] =
            &["Error while connecting to backend: ", "Error while dialing backend: "];
        let dialing = DIALING.iter().find_map(|start| self.message.strip_prefix(start));
        let caused = || self.message.strip_prefix('\'')?.split_once("' caused by: ");
        let error = if let Some(error) = dialing {
            error
        } else if let Some((_, error)) = caused() {
            error
        } else if self.message == "Error while dialing backend" || is_status(&self.message) {
            error?
        } else {
            return None;
        };
        if matches!(error, "no servers in the pool" | "no available server") {
            let kind = EventKind::NoLivePeers;
            let upstream = service.map_or(Upstream::Unnamed, Upstream::Group);
            return Some(Told { kind, upstream, group: None, local: None });
        }
        let Error { phase, failure, peer, local } = go::error(error)?;
        let kind = EventKind::AttemptFailed { phase, failure };
        let upstream = peer.unwrap_or(Upstream::Unnamed);
        Some(Told { kind, upstream, group: service, local })
    }
}

struct Told {
    kind: EventKind,
    upstream: Upstream,
    group: Option<String>,
    local: Option<std::net::SocketAddr>,
}

/// `502 Bad Gateway`, as `pkg/proxy` logs what it answers.
fn is_status(message: &str) -> bool {
    message.len() < 64 && ["502 ", "504 ", "500 "].iter().any(|status| message.starts_with(status))
}

fn how(error: &str) -> Error {
    let unknown = Error { phase: Phase::Other, failure: Failure::Unknown, peer: None, local: None };
    go::error(error).unwrap_or(unknown)
}

/// v2 and v1, behind "Health check ": `failed, removing from server list. Backend: "B" URL: "U" Weight: 1
/// Reason: R`, `still failing. Backend: "B" URL: "U" Reason: R`, `up: Returning to server list. Backend: …`.
fn of_check(said: &str) -> Option<Told> {
    let (state, rest) = said.split_once(" Backend: \"")?;
    let (backend, rest) = rest.split_once("\" URL: \"")?;
    let (url, rest) = rest.split_once('"')?;
    let reason = rest.split_once(" Reason: ").map(|(_, reason)| how(reason));
    let kind = match (state, &reason) {
        (state, _) if state.starts_with("up") => EventKind::PeerBack,
        (state, Some(error)) if state.starts_with("failed, removing") => {
            EventKind::PeerMarked { phase: error.phase, failure: Some(error.failure) }
        }
        ("still failing.", Some(error)) => {
            EventKind::AttemptFailed { phase: error.phase, failure: error.failure }
        }
        _ => return None,
    };
    let local = reason.as_ref().and_then(|error| error.local);
    let upstream = go::peer_of_url(url).or_else(|| reason?.peer)?;
    Some(Told { kind, upstream, group: Some(backend.to_owned()), local })
}
