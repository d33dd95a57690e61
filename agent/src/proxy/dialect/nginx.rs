//! nginx's error log, 1.12 and later: `ngx_http_upstream.c`, `ngx_http_upstream_round_robin.c` and
//! their stream twins write the lines, `ngx_log.c` and `ngx_http_log_error_handler` frame them.
//!
//! ```text
//! YYYY/MM/DD HH:MM:SS [level] PID#TID: *CID MESSAGE while ACTION, client: A, server: S,
//!     request: "R", subrequest: "U", upstream: "SCHEME://ADDR URI", host: "H", referrer: "F"
//! ```
//!
//! nginx escapes nothing: a client chooses the bytes of R, H and F (and of URI), and may put a
//! field of its own making there. So nothing is searched for across the line. The message is
//! matched where it begins, each field where the one before it ends, and the request ends at the
//! first ` HTTP/d.d"`, which `ngx_http_parse_request_line` lets no client put into a request line.
//! `message.rs` says what happened, `fields.rs` to whom, `health.rs` reads the lines of health checks
//! that OpenResty, APISIX and Tengine write into the same log.
//!
//! One gap cannot be closed from the line alone: over HTTP/2, nginx before 1.21.1 takes spaces in a
//! path. What is planted that way is one more unknown address, which is no known listener's.

mod fields;
mod health;
mod message;
mod records;

pub use records::{Judged, Records};

use std::net::{IpAddr, Ipv4Addr};

use crate::proxy::{
    bytes::number,
    event::{Carrier, ProxyEvent, ProxyKind, Upstream},
    timestamp,
};

/// NGX_MAX_ERROR_STR less the line feed: a line of this length has been cut.
pub const LONGEST_LINE: usize = 2047;

/// The peer that balancers in Lua name in `upstream {}`, where nginx wants one
/// (`server 0.0.0.1; # placeholder`).
const PLACEHOLDER: IpAddr = IpAddr::V4(Ipv4Addr::new(0, 0, 0, 1));

/// Reads one line, without its line feed. `None` for everything that is no event of an upstream.
///
/// nginx stamps local time without a zone.
pub fn parse(line: &[u8], carrier: &Carrier<'_>) -> Option<ProxyEvent> {
    let Framed { stamp, level, pid, connection, message, .. } = framed(line)?;
    let (kind, upstream, group) = if let Some(told) = health::event_of(message) {
        told
    } else {
        let (kind, fields) = message::event_of(message, level)?;
        if let Some(check) = fields.strip_prefix(message::HEALTH_CHECK) {
            // No request has a part in it.
            connection.is_none().then_some(())?;
            let (upstream, group) = health::checked(check)?;
            (kind, upstream, Some(group))
        } else {
            // What concerns a request has its connection's number.
            connection?;
            let named = fields::upstream(fields, line.len() >= LONGEST_LINE)?;
            (kind, fields::peer(named, kind)?, None)
        }
    };
    if matches!(upstream, Upstream::Inet(addr) if addr.ip() == PLACEHOLDER) {
        return None;
    }
    let (when, _) = timestamp::leading(stamp, carrier.read_at)?;
    let event = ProxyEvent::at(when, ProxyKind::Nginx, carrier, kind, upstream);
    Some(ProxyEvent { pid: u32::try_from(pid).ok(), connection, group, ..event })
}

/// Whether a line has the form of a record's first.
pub fn is_record(line: &[u8]) -> bool {
    framed(line).is_some()
}

/// The process and thread that a record says it is from.
pub fn numbers(line: &[u8]) -> Option<(u32, u32)> {
    let Framed { pid, thread, .. } = framed(line)?;
    Some((u32::try_from(pid).ok()?, u32::try_from(thread).ok()?))
}

/// A record's frame, `ngx_log_error_core`.
struct Framed<'a> {
    stamp: &'a [u8],
    level: &'a [u8],
    pid: u64,
    thread: u64,
    connection: Option<u64>,
    message: &'a [u8],
}

fn framed(line: &[u8]) -> Option<Framed<'_>> {
    let (stamp, rest) = line.split_at_checked(19)?;
    let (level, rest) = level_of(rest)?;
    let (pid, rest) = number(rest)?;
    let (thread, rest) = number(rest.strip_prefix(b"#")?)?;
    let rest = rest.strip_prefix(b": ")?;
    let (connection, message) = match rest.strip_prefix(b"*") {
        Some(rest) => {
            let (connection, rest) = number(rest)?;
            (Some(connection), rest.strip_prefix(b" ")?)
        }
        None => (None, rest),
    };
    Some(Framed { stamp, level, pid, thread, connection, message })
}

/// Reads ` [level] `.
fn level_of(rest: &[u8]) -> Option<(&[u8], &[u8])> {
    let rest = rest.strip_prefix(b" [")?;
    let end = rest.iter().take(8).position(|byte| *byte == b']')?;
    Some((&rest[..end], rest[end + 1..].strip_prefix(b" ")?))
}

#[cfg(test)]
mod tests;
