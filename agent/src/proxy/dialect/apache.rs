//! Apache httpd's error log, 2.2 and 2.4, of `mod_proxy` and its balancer, health checks and FastCGI.
//!
//! ```text
//! [TIME] [MODULE:LEVEL] [pid P:tid T] (111)Connection refused: [client A:P] AH00957: MESSAGE, referer: R
//! ```
//!
//! httpd escapes control characters (`ap_escape_errorlog_item`), and only the messages of `mod_proxy` are
//! read, each from its beginning. A worker that one connect failed to is disabled for `retry` seconds, 60
//! unless that is set.

use super::{go, keys::Keys};
use crate::proxy::{
    bytes::{after_any, before, number, text},
    event::{Carrier, EventKind, Failure, Phase, ProxyEvent, ProxyKind, Upstream},
    timestamp::{When, leading, whole},
};

/// Reads one line, without its line feed. `None` for everything that is no event of an upstream.
pub fn parse(line: &[u8], carrier: &Carrier<'_>) -> Option<ProxyEvent> {
    if line.first() == Some(&b'{') {
        return of_json(line, carrier);
    }
    let inside = line.strip_prefix(b"[")?;
    let (when, rest) = match leading(inside, carrier.read_at) {
        Some((when, rest)) => (Some(when), rest.strip_prefix(b"] [")?),
        // To syslog without one.
        None => (None, inside),
    };
    let (module, rest) = before(rest, b"] ")?;
    let of_proxy = module.split(|byte| *byte == b':').next()?;
    // 2.2 names no module.
    if !of_proxy.starts_with(b"proxy") && !LEVELS.contains(&of_proxy) {
        return None;
    }
    let (pid, rest) = match rest.strip_prefix(b"[pid ") {
        Some(rest) => {
            let (pid, rest) = number(rest)?;
            (u32::try_from(pid).ok(), before(rest, b"] ")?.1)
        }
        None => (None, rest),
    };
    let (error, rest) = error_of(rest);
    let rest = past_client(rest);
    let (error, message) = if error.is_none() { error_of(rest) } else { (error, rest) };
    event(when, pid.or(carrier.pid), error, past_client(message), carrier)
}

const LEVELS: &[&[u8]] = &[b"error", b"warn", b"notice", b"info", b"crit", b"debug"];

/// `ErrorLogFormat` as JSON, with keys of the operator's.
fn of_json(line: &[u8], carrier: &Carrier<'_>) -> Option<ProxyEvent> {
    let keys = Keys::read(line)?;
    let message = keys.text(&["message", "msg", "error_message"])?;
    let status = keys.text(&["error", "error_status", "apr_status", "os_error", "errno", "status"]);
    let time = keys.text(&["time", "timestamp", "@timestamp", "ts", "date"]);
    let when = time.and_then(|time| whole(&time, carrier.read_at));
    let pid = keys.number(&["pid", "process_id"]).and_then(|pid| u32::try_from(pid).ok());
    let (error, rest) = error_of(message.as_bytes());
    let by_status = || {
        let status = status.as_deref()?.trim_end_matches(':');
        error_of(format!("{status}: ").as_bytes()).0
    };
    // Another program's message is none of httpd's.
    let rest = past_client(rest);
    rest.starts_with(b"AH").then_some(())?;
    event(when, pid, error.or_else(by_status), rest, carrier)
}

/// `(111)Connection refused: `. Numbers from 20000 on are APR's own.
fn error_of(rest: &[u8]) -> (Option<Failure>, &[u8]) {
    let read = || {
        let (errno, after) = number(rest.strip_prefix(b"(")?)?;
        let (_, after) = before(after.strip_prefix(b")")?, b": ")?;
        let failure = match errno {
            // APR_TIMEUP
            70007 => Failure::TIMEOUT,
            // APR_EOF, APR_INCOMPLETE
            70014 | 70008 => Failure::ClosedEarly,
            errno => match i32::try_from(errno) {
                Ok(errno) if errno < 20_000 => Failure::Errno { errno },
                _ => Failure::Unknown,
            },
        };
        Some((failure, after))
    };
    read().map_or((None, rest), |(failure, after)| (Some(failure), after))
}

fn past_client(rest: &[u8]) -> &[u8] {
    let client = after_any(rest, &[b"[client ", b"[remote "]);
    client.and_then(|rest| before(rest, b"] ")).map_or(rest, |(_, rest)| rest)
}

fn event(
    when: Option<When>,
    pid: Option<u32>,
    error: Option<Failure>,
    message: &[u8],
    carrier: &Carrier<'_>,
) -> Option<ProxyEvent> {
    let numbered = message.strip_prefix(b"AH").and_then(|rest| Some(number(rest)?.1));
    let message = numbered.and_then(|rest| rest.strip_prefix(b": ")).unwrap_or(message);
    // 2.2
    let message = message.strip_prefix(b"proxy: ").unwrap_or(message);
    let told = told(message, error)?;
    let when = when.unwrap_or_else(|| carrier.written());
    let event = ProxyEvent::at(when, ProxyKind::Apache, carrier, told.kind, told.upstream);
    Some(ProxyEvent { pid, group: told.group, ..event })
}

struct Told {
    kind: EventKind,
    upstream: Upstream,
    group: Option<String>,
}

/// `modules/proxy/proxy_util.c`, `mod_proxy_http.c`, `mod_proxy_fcgi.c`, `mod_proxy_balancer.c`,
/// `mod_proxy_hcheck.c`. What only repeats another line (AH01114, AH01079, AH00898) is left out.
fn told(message: &[u8], error: Option<Failure>) -> Option<Told> {
    let failed = |phase, upstream| {
        let kind = EventKind::AttemptFailed { phase, failure: error.unwrap_or(Failure::Unknown) };
        Some(Told { kind, upstream, group: None })
    };
    let marked = |phase, failure, upstream| {
        let kind = EventKind::PeerMarked { phase, failure };
        Some(Told { kind, upstream, group: None })
    };
    if let Some(rest) = after_any(message, &[b"ap_proxy_connect_backend disabling worker for ("]) {
        return marked(Phase::Connect, None, host(before(rest, b")")?.0)?);
    }
    // "Threaded " where the watchdog has a pool of threads.
    let check = message.strip_prefix(b"Threaded ").unwrap_or(message);
    if let Some(name) = check.strip_prefix(b"Health check DISABLING ") {
        return marked(Phase::Other, None, worker(name)?);
    }
    if let Some(name) = check.strip_prefix(b"Health check ENABLING ") {
        return Some(Told { kind: EventKind::PeerBack, upstream: worker(name)?, group: None });
    }
    if let Some(rest) = message.strip_prefix(b"error reading status line from remote server ") {
        // APR_EGENERAL where the peer closed (`ap_proxygetline`).
        let failure = error.filter(|error| *error != Failure::Unknown);
        let failure = failure.unwrap_or(Failure::ClosedEarly);
        let kind = EventKind::AttemptFailed { phase: Phase::ResponseHeader, failure };
        let end = rest.iter().position(|byte| b" ,".contains(byte)).unwrap_or(rest.len());
        return Some(Told { kind, upstream: host(&rest[..end])?, group: None });
    }
    if message.starts_with(b"Failed to read FastCGI header")
        || (message.starts_with(b"Error dispatching request to") && error == Some(Failure::TIMEOUT))
    {
        let failure = error.unwrap_or(Failure::ClosedEarly);
        let kind = EventKind::AttemptFailed { phase: Phase::ResponseHeader, failure };
        return Some(Told { kind, upstream: Upstream::Unnamed, group: None });
    }
    if let Some(rest) = message.strip_prefix(b"pass request body failed to ") {
        return failed(Phase::Send, inet(before(rest, b" ")?.0)?);
    }
    // The rest begin with the function or the balancer that speaks.
    let (who, rest) = before(message, b": ")?;
    if let Some(rest) = rest.strip_prefix(b"attempt to connect to ") {
        let upstream = match rest.strip_prefix(b"Unix domain socket ") {
            Some(rest) => Upstream::Unix(text(before(rest, b" (")?.0)?.to_owned()),
            None => inet(before(rest, b" ")?.0)?,
        };
        return failed(Phase::Connect, upstream);
    }
    if let Some(rest) = rest.strip_prefix(b"failed to enable ssl support for ") {
        let kind = EventKind::AttemptFailed {
            phase: Phase::TlsHandshake,
            failure: error.unwrap_or(Failure::InvalidResponse),
        };
        return Some(Told { kind, upstream: inet(before(rest, b" ")?.0)?, group: None });
    }
    if let Some(rest) = rest.strip_prefix(b"disabled connection for (") {
        let name = text(before(rest, b")")?.0)?.to_owned();
        let kind = EventKind::NoLivePeers;
        return Some(Told { kind, upstream: Upstream::Group(name), group: None });
    }
    if rest.starts_with(b"All workers are in error state") {
        let upstream = Upstream::Group(text(who)?.to_owned());
        return Some(Told { kind: EventKind::NoLivePeers, upstream, group: None });
    }
    if let Some(rest) = rest.strip_prefix(b"Forcing worker (") {
        let (name, why) = before(rest, b") into error state due to ")?;
        let failure =
            if why.starts_with(b"timeout") { Failure::TIMEOUT } else { Failure::BadStatus };
        let kind = EventKind::PeerMarked { phase: Phase::ResponseHeader, failure: Some(failure) };
        let group = text(who).map(str::to_owned);
        return Some(Told { kind, upstream: worker(name)?, group });
    }
    if let Some(rest) = rest.strip_prefix(b"worker for (") {
        let (name, rest) = before(rest, b")")?;
        rest.starts_with(b" has been marked for retry").then_some(())?;
        return Some(Told { kind: EventKind::PeerBack, upstream: host(name)?, group: None });
    }
    None
}

fn inet(bytes: &[u8]) -> Option<Upstream> {
    text(bytes)?.parse().ok().map(Upstream::Inet)
}

/// `HOST:PORT` of a worker, by address or by name.
fn host(bytes: &[u8]) -> Option<Upstream> {
    inet(bytes).or_else(|| Some(Upstream::Host(text(bytes)?.to_owned())))
}

/// A worker's URL.
fn worker(bytes: &[u8]) -> Option<Upstream> {
    let end = bytes.iter().position(u8::is_ascii_whitespace).unwrap_or(bytes.len());
    let url = text(&bytes[..end])?;
    let authority = || url.split_once("://")?.1.split('/').next();
    go::peer_of_url(url).or_else(|| Some(Upstream::Host(authority()?.to_owned())))
}
