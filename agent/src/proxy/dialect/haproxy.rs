//! HAProxy 1.8 and later: what it says of its servers (`state.rs`), and its traffic logs
//! (`traffic.rs`: `option httplog`, `option tcplog`, and formats that begin as those do; `json.rs`: JSON;
//! `custom.rs`: any `log-format` that is known).
//!
//! It names servers, not addresses. `bi=%bi:%bp si=%si:%sp` in the `log-format` tells both ends of
//! the connection, also of one that failed; elsewhere `servers.rs` looks the names up.

mod custom;
mod json;
mod log_format;
mod reason;
pub mod servers;
mod state;
mod traffic;

pub use log_format::LogFormat;

use crate::proxy::{
    bytes::number,
    event::{Carrier, ProxyEvent, Upstream},
};

/// Reads one line, without its line feed and without a syslog header. `None` for everything that is
/// no event of a server.
pub fn parse(line: &[u8], carrier: &Carrier<'_>) -> Option<ProxyEvent> {
    let (message, pid) = past_own_header(line);
    let carrier = Carrier { pid: pid.or(carrier.pid), ..*carrier };
    state::event_of(message, &carrier)
        .or_else(|| json::event_of(message, &carrier))
        .or_else(|| traffic::event_of(message, &carrier))
        .or_else(|| custom::event_of(message, &carrier))
}

/// What HAProxy itself puts before a message: `<1>` (`format short`), `[WARNING]  (PID) : ` and
/// before 2.4 `[WARNING] 350/091549 (PID) : ` (standard error).
fn past_own_header(line: &[u8]) -> (&[u8], Option<u32>) {
    let short = || number(line.strip_prefix(b"<")?)?.1.strip_prefix(b">");
    if let Some(rest) = short() {
        return (rest, None);
    }
    let standard_error = || {
        let end = line.strip_prefix(b"[")?.iter().take(8).position(|byte| *byte == b']')?;
        let rest = &line[end + 2..];
        let open = rest.iter().take(24).position(|byte| *byte == b'(')?;
        let (pid, rest) = number(&rest[open + 1..])?;
        Some((rest.strip_prefix(b") : ")?, u32::try_from(pid).ok()))
    };
    standard_error().unwrap_or((line, None))
}

/// `BACKEND/SERVER`. Neither may hold a slash or a space (`invalid_char`).
fn server(name: &[u8]) -> Option<Upstream> {
    let (group, name) = std::str::from_utf8(name).ok()?.split_once('/')?;
    Some(Upstream::Server { group: group.to_owned(), name: name.to_owned() })
}
