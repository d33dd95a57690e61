//! The words of Go's errors, which Caddy and Traefik hand on as they are.

use std::net::SocketAddr;

use crate::proxy::event::{Failure, Phase, Upstream};

/// What an error tells of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Error {
    pub phase: Phase,
    pub failure: Failure,
    /// The peer, where the error names it.
    pub peer: Option<Upstream>,
    /// The proxy's own end.
    pub local: Option<SocketAddr>,
}

/// Reads an error of `net/http`'s or of a socket's, whatever was put before it with a colon (`fmt.Errorf`,
/// `url.Error`: `Get "URL": …`). The URL in it is from a proxy's configuration, for checks, or a client's;
/// nothing is searched for in it.
pub(super) fn error(mut words: &str) -> Option<Error> {
    while let Some(rest) = past_quoted(words).or_else(|| past_context(words)) {
        words = rest;
    }
    of_socket(words).or_else(|| of_http(words))
}

/// What follows `Get "URL": `.
fn past_quoted(words: &str) -> Option<&str> {
    let (method, rest) = words.split_once(" \"")?;
    let is_method = !method.is_empty() && method.bytes().all(|byte| byte.is_ascii_alphabetic());
    // Go writes a quote inside as `\"`.
    let mut from = 0;
    loop {
        let at = from + rest[from..].find("\": ")?;
        if !rest[..at].ends_with('\\') {
            return is_method.then(|| &rest[at + 3..]);
        }
        from = at + 1;
    }
}

/// What follows a context that programs give.
fn past_context(words: &str) -> Option<&str> {
    const CONTEXTS: &[&str] = &[
        "HTTP request failed: ",
        "checking HTTP health: ",
        "checking gRPC health: ",
        "making request: ",
        "Error while dialing backend: ",
        "transport: Error while dialing: ",
        "proxyconnect ",
    ];
    CONTEXTS.iter().find_map(|context| words.strip_prefix(context))
}

/// `net.OpError`: `OP NET [SOURCE->]ADDR: [SYSCALL: ]WORDS`.
fn of_socket(error: &str) -> Option<Error> {
    let (operation, rest) = error.split_once(' ')?;
    let phase = match operation {
        "dial" => Phase::Connect,
        "read" => Phase::ResponseHeader,
        "write" => Phase::Send,
        _ => return None,
    };
    let (network, rest) = rest.split_once(' ')?;
    let (ends, words) = rest.split_once(": ")?;
    // A name that was not found is no peer's failure: `dial tcp: lookup x: no such host`.
    let words = words.rsplit_once(": ").map_or(words, |(_, words)| words);
    let failure = Failure::of_words(words).unwrap_or(Failure::Unknown);
    let (local, peer) = match ends.split_once("->") {
        Some((local, peer)) => (local.parse().ok(), peer),
        None => (None, ends),
    };
    let peer = match network {
        "tcp" | "tcp4" | "tcp6" => Upstream::Inet(peer.parse().ok()?),
        "unix" => Upstream::Unix(peer.to_owned()),
        _ => return None,
    };
    Some(Error { phase, failure, peer: Some(peer), local })
}

/// What `net/http` says of an exchange. It names no peer.
fn of_http(error: &str) -> Option<Error> {
    let (phase, failure) = match error {
        "EOF" | "unexpected EOF" | "http: server closed idle connection" => {
            (Phase::ResponseHeader, Failure::ClosedEarly)
        }
        "net/http: timeout awaiting response headers" => (Phase::ResponseHeader, Failure::TIMEOUT),
        "net/http: TLS handshake timeout" => (Phase::TlsHandshake, Failure::TIMEOUT),
        _ if error.starts_with("tls: ")
            || error.starts_with("x509: ")
            || error.starts_with("remote error: tls: ") =>
        {
            (Phase::TlsHandshake, Failure::InvalidResponse)
        }
        _ if error.starts_with("net/http: HTTP/1.x transport connection broken: malformed")
            || error.starts_with("malformed HTTP ")
            || error.starts_with("http2: ")
            || error.starts_with("http: server gave HTTP response to HTTPS client") =>
        {
            (Phase::ResponseHeader, Failure::InvalidResponse)
        }
        _ if error.contains("waiting for connection") => (Phase::Connect, Failure::TIMEOUT),
        // "…while awaiting headers" is said of the whole exchange, its dial included.
        _ if error.contains("deadline exceeded") || error.contains("Client.Timeout") => {
            (Phase::Other, Failure::TIMEOUT)
        }
        _ if error.starts_with("received error status code: ") => {
            (Phase::ResponseHeader, Failure::BadStatus)
        }
        _ => return None,
    };
    Some(Error { phase, failure, peer: None, local: None })
}

/// The peer in a URL that the proxy's configuration has: `http://10.0.0.1:80/health`.
pub(super) fn peer_of_url(url: &str) -> Option<Upstream> {
    let (scheme, rest) = url.split_once("://").unwrap_or(("http", url));
    let authority = rest.split(['/', '?']).next()?;
    let port = if scheme == "https" { 443 } else { 80 };
    let with_port = authority.parse().ok();
    let without = || Some(SocketAddr::new(authority.trim_matches(['[', ']']).parse().ok()?, port));
    with_port.or_else(without).map(Upstream::Inet)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inet(addr: &str) -> Option<Upstream> {
        Some(Upstream::Inet(addr.parse().unwrap()))
    }

    #[test]
    fn an_error_is_found_behind_what_was_put_before_it() {
        let refused = "dial tcp 10.0.0.1:80: connect: connection refused";
        for words in [
            refused.to_owned(),
            format!("HTTP request failed: Get \"http://10.0.0.1/x\": {refused}"),
            format!(
                "checking HTTP health: HTTP request failed: Get \"http://10.0.0.1/x\": {refused}"
            ),
            format!("Get \"http://10.0.0.1/\\\": dial tcp 6.6.6.6:1: EOF\": {refused}"),
        ] {
            let found = error(&words).unwrap_or_else(|| panic!("{words}"));
            assert_eq!((found.phase, found.failure), (Phase::Connect, Failure::REFUSED), "{words}");
            assert_eq!(found.peer, inet("10.0.0.1:80"));
        }
    }

    #[test]
    fn both_ends_and_other_failures_are_read() {
        let found =
            error("read tcp 10.0.0.2:5->10.0.0.1:80: read: connection reset by peer").unwrap();
        assert_eq!((found.failure, found.peer), (Failure::RESET, inet("10.0.0.1:80")));
        assert_eq!(found.local, Some("10.0.0.2:5".parse().unwrap()));
        for (words, phase, failure) in [
            ("EOF", Phase::ResponseHeader, Failure::ClosedEarly),
            (
                "net/http: HTTP/1.x transport connection broken: malformed HTTP response \"x\"",
                Phase::ResponseHeader,
                Failure::InvalidResponse,
            ),
            (
                "x509: certificate signed by unknown authority",
                Phase::TlsHandshake,
                Failure::InvalidResponse,
            ),
            (
                "Get \"http://a\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)",
                Phase::Other,
                Failure::TIMEOUT,
            ),
        ] {
            let found = error(words).unwrap();
            assert_eq!((found.phase, found.failure, found.peer), (phase, failure, None), "{words}");
        }
        for other in ["", "context canceled", "dial tcp: lookup a: no such host", "client said EOF"]
        {
            assert_eq!(error(other), None, "{other}");
        }
    }

    #[test]
    fn a_url_names_its_peer() {
        assert_eq!(peer_of_url("http://10.0.0.1:80/health"), inet("10.0.0.1:80"));
        assert_eq!(peer_of_url("https://[fd00::1]/health"), inet("[fd00::1]:443"));
        assert_eq!(peer_of_url("http://name:80"), None);
    }
}
