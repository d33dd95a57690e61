//! From records to events, and what a record must look like to be believed.

#![allow(unsafe_code, reason = "reads the kernel's records")]

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    ptr,
};

use floodmark_common::{AF_INET, AF_INET6, NginxKind, NginxRecord};

use super::SOURCE;
use crate::{
    clock::AgentClock,
    proxy::{Carrier, EventKind, Failure, Phase, ProxyEvent, ProxyKind, Upstream},
};

const AF_UNIX: u16 = 1;
/// Fails of a peer that nobody would believe.
const MOST_FAILS: u64 = 1 << 32;

/// A record that does not look as it must.
#[derive(Debug, PartialEq, Eq)]
pub struct Untrustworthy {
    pub pid: u32,
    /// What is odd.
    pub why: &'static str,
}

/// Reads a record.
///
/// # Errors
///
/// When it is not what an nginx that is understood would send: then its structures are others.
pub fn event(bytes: &[u8], clock: &AgentClock) -> Result<ProxyEvent, Untrustworthy> {
    let odd = |why| Untrustworthy { pid: 0, why };
    if bytes.len() < size_of::<NginxRecord>() {
        return Err(odd("a record is too short"));
    }
    // SAFETY: long enough (above), and any bytes are a valid NginxRecord: integers, no padding.
    let record = unsafe { ptr::read_unaligned(bytes.as_ptr().cast::<NginxRecord>()) };
    let odd = |why| Untrustworthy { pid: record.pid, why };
    let name = record.name.get(..record.name_len as usize).ok_or(odd("a name is too long"))?;
    let name = std::str::from_utf8(name).map_err(|_| odd("a name is no text"))?;
    let at = clock.at(record.at_ns);
    let carrier = Carrier { pid: Some(record.pid), ..Carrier::plain(SOURCE, at) };
    let at = (at, 1);
    let event = |kind, upstream| ProxyEvent::new(ProxyKind::Nginx, &carrier, at, kind, upstream);
    if record.kind == NginxKind::NoLivePeers as u32 {
        return Ok(event(EventKind::NoLivePeers, Upstream::Group(name.to_owned())));
    }
    if record.fails > MOST_FAILS || record.max_fails > MOST_FAILS {
        return Err(odd("a peer's counts of failures make no sense"));
    }
    if record.is_same_peer != 1 {
        return Err(odd("a connection's address is not its peer's"));
    }
    let upstream = peer(&record, name).map_err(odd)?;
    let (phase, failure) = by_state(record.state);
    let kind = if record.kind == NginxKind::Marked as u32 {
        EventKind::PeerMarked { phase, failure: Some(failure) }
    } else {
        EventKind::AttemptFailed { phase, failure }
    };
    Ok(ProxyEvent { local_addr: local(&record, &upstream), ..event(kind, upstream) })
}

/// How far the connection had come when nginx gave it up (`net/tcp_states.h`).
fn by_state(state: u32) -> (Phase, Failure) {
    match state {
        // ESTABLISHED: no answer, or one that nginx counts as a failure.
        1 => (Phase::ResponseHeader, Failure::Unknown),
        // SYN_SENT.
        2 => (Phase::Connect, Failure::TIMEOUT),
        // CLOSE_WAIT.
        8 => (Phase::ResponseHeader, Failure::ClosedEarly),
        // CLOSE: refused or reset, and nginx has taken the error already.
        _ => (Phase::Other, Failure::Unknown),
    }
}

/// The peer by its address, which nginx's own text of it must repeat.
fn peer(record: &NginxRecord, name: &str) -> Result<Upstream, &'static str> {
    let family = u16::from_ne_bytes([record.sockaddr[0], record.sockaddr[1]]);
    let port = u16::from_be_bytes([record.sockaddr[2], record.sockaddr[3]]);
    let bytes = |from: usize, to: usize| record.sockaddr.get(from..to).unwrap_or_default();
    let ip = match (family, record.socklen) {
        (AF_UNIX, 2..=110) => {
            let path = name.strip_prefix("unix:").ok_or("a socket's name is no path")?;
            return Ok(Upstream::Unix(path.to_owned()));
        }
        (AF_INET, 16) => {
            let octets: [u8; 4] = bytes(4, 8).try_into().map_err(|_| "an address is too short")?;
            IpAddr::V4(Ipv4Addr::from(octets))
        }
        (AF_INET6, 28) => {
            let octets: [u8; 16] =
                bytes(8, 24).try_into().map_err(|_| "an address is too short")?;
            IpAddr::V6(Ipv6Addr::from(octets))
        }
        _ => return Err("an address has a family or length that there is not"),
    };
    let addr = SocketAddr::new(ip, port);
    if name.parse() != Ok(addr) {
        return Err("a peer's name is not its address");
    }
    Ok(Upstream::Inet(addr))
}

/// The proxy's end: its port is known, its address is the one that leads to the peer, and that the
/// join does not need to know for a listener on the same host.
fn local(record: &NginxRecord, upstream: &Upstream) -> Option<SocketAddr> {
    let Upstream::Inet(peer) = upstream else { return None };
    let any: IpAddr = match peer.ip() {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    (record.local_port != 0).then(|| SocketAddr::new(any, record.local_port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{clock::Reading, time::UnixMs};

    fn record(name: &str) -> NginxRecord {
        let mut record = NginxRecord {
            at_ns: 48_000_000_000,
            fails: 1,
            max_fails: 1,
            pid: 77,
            kind: NginxKind::Marked as u32,
            socklen: 16,
            name_len: name.len() as u32,
            local_port: 40_000,
            is_same_peer: 1,
            state: 2,
            sockaddr: [0; 32],
            name: [0; floodmark_common::NGINX_NAME],
        };
        record.sockaddr[..2].copy_from_slice(&AF_INET.to_ne_bytes());
        record.sockaddr[2..8].copy_from_slice(&[0x1f, 0x40, 10, 0, 0, 1]);
        record.name[..name.len()].copy_from_slice(name.as_bytes());
        record
    }

    fn read(record: &NginxRecord) -> Result<ProxyEvent, Untrustworthy> {
        let start = ptr::from_ref(record).cast::<u8>();
        // SAFETY: NginxRecord has no padding, so each of its bytes is initialised.
        let bytes = unsafe { std::slice::from_raw_parts(start, size_of::<NginxRecord>()) };
        let (monotonic_ns, wall_ns) = (50_000_000_000, 1_000_000_000_000);
        let reading = Reading { monotonic_ns, wall_ns, spread_ns: 0 };
        event(bytes, &AgentClock::new(move || reading))
    }

    #[test]
    fn a_marking_has_its_peer_its_time_and_its_local_port() {
        let event = read(&record("10.0.0.1:8000")).unwrap();
        assert_eq!(event.at, UnixMs(998_000));
        assert_eq!(event.addr(), Some("10.0.0.1:8000".parse().unwrap()));
        assert_eq!(event.local_addr, Some("0.0.0.0:40000".parse().unwrap()));
        let failure = Some(Failure::TIMEOUT);
        assert_eq!(event.kind, EventKind::PeerMarked { phase: Phase::Connect, failure });
    }

    #[test]
    fn what_does_not_look_as_it_must_is_not_believed() {
        let good = record("10.0.0.1:8000");
        for (what, odd) in [
            ("name", record("10.0.0.2:8000")),
            ("family", NginxRecord { sockaddr: [9; 32], ..good }),
            ("length", NginxRecord { socklen: 17, ..good }),
            ("fails", NginxRecord { fails: u64::MAX, ..good }),
            ("peer", NginxRecord { is_same_peer: 0, ..good }),
            ("name's length", NginxRecord { name_len: 65, ..good }),
        ] {
            assert_eq!(read(&odd).unwrap_err().pid, 77, "{what}");
        }
    }
}
