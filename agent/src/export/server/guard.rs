//! What keeps a browser from being used against the agent: headers for every answer, and names by which
//! alone a server on loopback answers.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use anyhow::{Result, ensure};
use axum::{
    extract::{Request, State},
    http::{
        HeaderValue, StatusCode,
        header::{
            CONTENT_SECURITY_POLICY as CSP, HOST, HeaderMap, REFERRER_POLICY,
            X_CONTENT_TYPE_OPTIONS,
        },
        uri::Authority,
    },
    middleware::Next,
    response::{IntoResponse, Response},
};

/// The policy of an answer that needs nothing: neither script, style, image nor frame.
pub const CONTENT_SECURITY_POLICY: &str =
    "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Adds the headers that say how little a browser may do with the answer.
pub async fn with_headers(mut response: Response) -> Response {
    let headers: &mut HeaderMap = response.headers_mut();
    headers.entry(CSP).or_insert(HeaderValue::from_static(CONTENT_SECURITY_POLICY));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}

/// The names by which a server on loopback answers. A page of another name that resolves to a loopback
/// address (DNS rebinding) would otherwise be of the same origin, and could read everything.
pub struct Hosts {
    listen: IpAddr,
    names: Arc<[String]>,
}

impl Hosts {
    /// Those of a server at `addr`; none where anybody may reach it anyway.
    pub fn of(addr: SocketAddr, names: &Arc<[String]>) -> Option<Self> {
        let listen = addr.ip().to_canonical();
        listen.is_loopback().then(|| Self { listen, names: Arc::clone(names) })
    }

    fn include(&self, authority: &str) -> bool {
        let Some(host) = host_of(authority) else { return false };
        if let Ok(ip) = host.parse::<IpAddr>() {
            let ip = ip.to_canonical();
            return ip.is_loopback() || ip == self.listen || self.is_named(&host);
        }
        // RFC 6761: whatever ends so is loopback's.
        host == "localhost" || host.ends_with(".localhost") || self.is_named(&host)
    }

    fn is_named(&self, host: &str) -> bool {
        self.names.iter().any(|name| name == host)
    }
}

/// The host of `HOST[:PORT]` in lower case, without an IPv6 address's brackets or a name's last dot.
fn host_of(authority: &str) -> Option<String> {
    let parsed: Authority = authority.parse().ok()?;
    let host = parsed.host().trim_start_matches('[').trim_end_matches(']');
    let is_sound = !host.is_empty() && !authority.contains('@');
    is_sound.then(|| host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase())
}

/// Reads a name that a server on loopback also answers to.
///
/// # Errors
///
/// When it is none, or has a port.
pub fn parse_host(text: &str) -> Result<String> {
    let is_address = text.parse::<IpAddr>().is_ok();
    ensure!(is_address || !text.contains([':', '/']), "give a host name without scheme or port");
    let bracketed = if text.contains(':') { format!("[{text}]") } else { text.to_owned() };
    let host = host_of(&bracketed);
    ensure!(host.is_some(), "not a host name");
    Ok(host.unwrap_or_default())
}

/// Refuses a request for another host (RFC 9110, 15.5.20). One without any host is no browser's.
pub async fn own_hosts_only(
    State(hosts): State<Arc<Hosts>>,
    request: Request,
    next: Next,
) -> Response {
    let headers = request.headers().get_all(HOST).into_iter();
    let from_headers = headers.map(|value| value.to_str().unwrap_or_default());
    let from_target = request.uri().authority().map(Authority::as_str);
    if from_headers.chain(from_target).all(|authority| hosts.include(authority)) {
        return next.run(request).await;
    }
    let text = "host name not allowed here; --allowed-host allows it\n";
    (StatusCode::MISDIRECTED_REQUEST, text).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_on_loopback_has_loopbacks_names_and_those_allowed() {
        let names: Arc<[String]> = ["metrics.example"].map(|it| parse_host(it).unwrap()).into();
        let hosts = Hosts::of("127.0.0.2:9435".parse().unwrap(), &names).unwrap();
        let own = [
            "localhost",
            "localhost:9435",
            "LOCALHOST.:1",
            "127.0.0.1:9435",
            "127.9.9.9",
            "[::1]:9435",
            "[::1]",
            "[::ffff:127.0.0.1]",
            "a.localhost",
            "Metrics.Example:9435",
        ];
        let foreign = [
            "",
            "evil.example",
            "evil.example:9435",
            "localhost.evil.example",
            "evillocalhost",
            "10.0.0.1",
            "[::2]",
            "0.0.0.0",
            "localhost@evil.example",
            "evil.example@localhost",
            "127.0.0.1.evil.example",
            "metrics.example.evil",
            "local host",
            "localhost:x/y",
        ];
        assert!(own.into_iter().all(|it| hosts.include(it) || panic!("{it:?} is refused")));
        assert!(foreign.into_iter().all(|it| !hosts.include(it) || panic!("{it:?} is taken")));
        assert!(Hosts::of("0.0.0.0:9435".parse().unwrap(), &names).is_none());
    }

    #[test]
    fn an_allowed_host_is_a_name_or_an_address() {
        assert_eq!(parse_host("Node-1.Example.").unwrap(), "node-1.example");
        assert_eq!(parse_host("fd00::1").unwrap(), "fd00::1");
        for wrong in ["", "a:1", "http://a", "a/b", "a b", "u@a"] {
            assert!(parse_host(wrong).is_err(), "{wrong:?}");
        }
    }
}
