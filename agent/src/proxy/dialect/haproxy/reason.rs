//! Why HAProxy calls a server down: the status of its check and what it adds to it. From HAProxy's source,
//! 1.8 to 3.5: `check_statuses`, `analyze_statuses`, `chk_report_conn_err` and `__health_adjust`
//! (src/checks.c, since 2.2 src/check.c), `conn_err_code_str` (src/connection.c).

use crate::proxy::{
    bytes::{before, text},
    event::{Failure, Phase},
};

/// Statuses at which the added text comes from the server, or is not needed.
const STATUSES: &[(&[u8], Phase, Failure)] = &[
    (b"Layer4 timeout", Phase::Connect, Failure::TIMEOUT),
    (b"Layer6 timeout", Phase::TlsHandshake, Failure::TIMEOUT),
    (b"Layer7 timeout", Phase::ResponseHeader, Failure::TIMEOUT),
    (b"Layer7 invalid response", Phase::ResponseHeader, Failure::InvalidResponse),
    (b"Layer7 wrong status", Phase::ResponseHeader, Failure::BadStatus),
    (b"External check timeout", Phase::Other, Failure::TIMEOUT),
];

/// Statuses at which the added text is HAProxy's or the C library's, with the failure if it has none.
const STATUSES_WITH_ERROR: &[(&[u8], Phase, Failure)] = &[
    (b"Layer4 connection problem", Phase::Connect, Failure::Unknown),
    (b"Layer6 invalid response", Phase::TlsHandshake, Failure::InvalidResponse),
    (b"Socket error", Phase::Connect, Failure::Unknown),
];

/// Ends of "Detected N consecutive errors, last one was: …" (`option observe`).
const OBSERVED: &[(&str, Phase, Failure)] = &[
    ("L4 unsuccessful connection", Phase::Connect, Failure::Unknown),
    ("Wrong http response", Phase::ResponseHeader, Failure::BadStatus),
    ("Invalid http response", Phase::ResponseHeader, Failure::InvalidResponse),
    ("Invalid http response (headers)", Phase::ResponseHeader, Failure::InvalidResponse),
    ("Read error (http)", Phase::ResponseHeader, Failure::Aborted),
    ("Read timeout (http)", Phase::ResponseHeader, Failure::TIMEOUT),
    ("Close from server (http)", Phase::ResponseHeader, Failure::Aborted),
];

/// `conn_err_code_str`.
const CONNECTION_ERRORS: &[(&str, Failure)] = &[
    ("Reached maxconn value", Failure::OwnLimit),
    ("Reached configured maxconn value", Failure::OwnLimit),
    ("Too many sockets on the process", Failure::OwnLimit),
    ("Too many sockets on the system", Failure::OwnLimit),
    ("Out of system buffers", Failure::OwnLimit),
    ("Source port range exhausted", Failure::OwnLimit),
    ("Can't bind to source address", Failure::Errno { errno: libc::EADDRNOTAVAIL }),
    ("Out of local source ports on the system", Failure::Errno { errno: libc::EADDRNOTAVAIL }),
    ("Local source address already in use", Failure::Errno { errno: libc::EADDRINUSE }),
    ("Protocol or address family not supported", Failure::Errno { errno: libc::EAFNOSUPPORT }),
    ("Connection closed during SSL handshake", Failure::Aborted),
    ("Connection error during SSL handshake", Failure::Aborted),
    ("Timeout during SSL handshake", Failure::TIMEOUT),
    ("ECONNREFUSED returned by OS", Failure::REFUSED),
    ("ECONNRESET returned by OS", Failure::Errno { errno: libc::ECONNRESET }),
    ("ENETUNREACH returned by OS", Failure::Errno { errno: libc::ENETUNREACH }),
    ("EPIPE returned by OS", Failure::Errno { errno: libc::EPIPE }),
    ("ENOBUFS returned by OS", Failure::OwnLimit),
    ("ENOMEM returned by OS", Failure::OwnLimit),
];

/// Reads what follows `reason: `.
pub(super) fn reason(rest: &[u8]) -> (Phase, Failure) {
    if let Some((_, phase, failure)) = STATUSES.iter().find(|(start, ..)| rest.starts_with(start)) {
        return (*phase, *failure);
    }
    let with_error = STATUSES_WITH_ERROR.iter().find_map(|(start, phase, without)| {
        Some((*phase, info(rest.strip_prefix(*start)?).and_then(error).unwrap_or(*without)))
    });
    match with_error {
        // A connection that was there before: the check had been sent.
        Some((Phase::Connect, failure))
            if rest.starts_with(b"Socket error") && is_late(failure) =>
        {
            (Phase::ResponseHeader, failure)
        }
        Some(found) => found,
        None => rest
            .strip_prefix(b"Health analyze")
            .and_then(info)
            .and_then(observed)
            .unwrap_or((Phase::Other, Failure::Unknown)),
    }
}

fn info(rest: &[u8]) -> Option<&str> {
    let (info, _) = before(rest.strip_prefix(b", info: \"")?, b"\"")?;
    text(info)
}

fn observed(info: &str) -> Option<(Phase, Failure)> {
    let (_, last) = info.split_once("last one was: ")?;
    let row = OBSERVED.iter().find(|(words, ..)| *words == last)?;
    Some((row.1, row.2))
}

/// "Connection refused", with tcp-check followed by where: "… at step 1 of tcp-check (connect)", "… at
/// initial connection step of tcp-check"; or a connection error with that of the C library in parentheses:
/// "General socket error (Network is unreachable)". The latter says more.
fn error(info: &str) -> Option<Failure> {
    let what = info.split(" at ").next().unwrap_or(info);
    let (outer, inner) = what.split_once(" (").unwrap_or((what, ""));
    let by_code = || CONNECTION_ERRORS.iter().find(|row| row.0 == outer).map(|row| row.1);
    Failure::of_words(inner.trim_end_matches(')'))
        .or_else(|| Failure::of_words(outer))
        .or_else(by_code)
}

fn is_late(failure: Failure) -> bool {
    matches!(failure, Failure::Errno { errno: libc::ECONNRESET | libc::EPIPE })
}
