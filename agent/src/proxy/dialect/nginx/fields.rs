//! To whom: the upstream's field, found without trusting what a client wrote.

use std::net::SocketAddr;

use crate::proxy::{
    bytes::{find, text},
    event::{EventKind, Upstream},
};

/// The bytes from the start of the upstream field's value on.
pub(super) fn upstream(fields: &[u8], cut: bool) -> Option<&[u8]> {
    const UPSTREAM: &[u8] = b", upstream: \"";
    // Address and server name are not the client's to choose.
    let server = &fields[find(fields, b", server: ")?..];
    let request = find(server, b", request: \"");
    let Some(request) = request.filter(|at| find(server, UPSTREAM).is_none_or(|up| *at < up))
    else {
        // The stream module: no request.
        return Some(&server[find(server, UPSTREAM)? + UPSTREAM.len()..]);
    };
    let request = &server[request..];
    let Some(end) = request_end(request) else {
        // HTTP/0.9, without a version to end at. The field must be the only one of its name, for
        // the URI may hold another, before nginx's and once more inside it; in a line that was
        // cut the only one may be the URI's.
        let only = &request[find(request, UPSTREAM)? + UPSTREAM.len()..];
        return (!cut && find(only, UPSTREAM).is_none()).then_some(only);
    };
    let mut rest = &request[end..];
    if let Some(subrequest) = rest.strip_prefix(b", subrequest: \"") {
        rest = &subrequest[find(subrequest, b"\", upstream: \"")? + 1..];
    }
    rest.strip_prefix(UPSTREAM)
}

/// Length up to and with the first ` HTTP/d.d"`.
fn request_end(request: &[u8]) -> Option<usize> {
    const LENGTH: usize = b" HTTP/1.1\"".len();
    let version = |window: &[u8]| {
        window.starts_with(b" HTTP/")
            && window[6].is_ascii_digit()
            && window[7] == b'.'
            && window[8].is_ascii_digit()
            && window[9] == b'"'
    };
    Some(request.windows(LENGTH).position(version)? + LENGTH)
}

/// The peer, or the group, that the field's value begins with.
pub(super) fn peer(value: &[u8], kind: EventKind) -> Option<Upstream> {
    let name = match find(&value[..value.len().min(12)], b"://") {
        Some(at) => &value[at + 3..],
        None => value,
    };
    let upto = |ends: &[u8]| {
        let end = name.iter().position(|byte| ends.contains(byte))?;
        text(&name[..end])
    };
    if kind == EventKind::NoLivePeers {
        return Some(Upstream::Group(upto(b"/\"?")?.to_owned()));
    }
    if let Some(path) = name.strip_prefix(b"unix:") {
        let end = path.iter().position(|byte| b":\"".contains(byte))?;
        return Some(Upstream::Unix(String::from_utf8_lossy(&path[..end]).into_owned()));
    }
    let addr: SocketAddr = upto(b"/\"?")?.parse().ok()?;
    Some(Upstream::Inet(addr))
}
