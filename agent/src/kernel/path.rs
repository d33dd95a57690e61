//! The way to an address as the kernel takes it now: its route, and the neighbour that comes next.
//! kernel: net/ipv4/route.c (`inet_rtm_getroute`), net/ipv6/route.c (`inet6_rtm_getroute`),
//! net/core/neighbour.c (`neigh_get`, since Linux 5.0).

use std::net::IpAddr;

use anyhow::{Context, Result, anyhow};
use netlink_packet_core::{NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    neighbour::{NeighbourAttribute, NeighbourMessage, NeighbourState},
    route::{RouteAddress, RouteAttribute, RouteMessage, RouteType, RouteVia},
};
use netlink_sys::{Socket, SocketAddr as NetlinkAddr, protocols::NETLINK_ROUTE};
use serde::{Deserialize, Serialize};

/// Room for one answer.
const DATAGRAM: usize = 32 * 1024;

/// The way to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Path {
    /// No route leads there (ENETUNREACH).
    NoRoute,
    /// The route there says that it must not be used: `unreachable` (EHOSTUNREACH), `prohibit`
    /// (EACCES) or `blackhole` (EINVAL).
    Refused {
        /// The error number that the route gives.
        errno: i32,
    },
    /// The address belongs to the namespace itself.
    Local,
    /// A route leads to a neighbour on the link.
    Neighbour {
        /// The address itself, or its gateway's.
        addr: IpAddr,
        /// Whether it is a gateway.
        is_gateway: bool,
        /// What the kernel knows of it.
        state: Reachability,
    },
}

/// What the kernel knows of a neighbour (`NUD_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reachability {
    /// It has not answered ARP or neighbour discovery: `FAILED`, or `INCOMPLETE` so far.
    Unanswered,
    /// It was heard of a moment ago (`REACHABLE`).
    Answers,
    /// It answered once, and whether it still does is not known (`STALE`, `DELAY`, `PROBE`).
    Unconfirmed,
    /// Its hardware address is set by hand, or the link needs none (`PERMANENT`, `NOARP`).
    Fixed,
    /// There is no entry, or the kernel cannot be asked for one.
    Unknown,
}

/// The way to a peer, as it was a moment after an attempt to connect had failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerPath {
    /// The way.
    pub path: Path,
    /// Whether it is not the proxy's namespace that says so, but one that routes on for it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_router: bool,
}

impl PeerPath {
    /// Whether nothing can get there.
    pub fn is_closed(&self) -> bool {
        match self.path {
            Path::NoRoute | Path::Refused { .. } => true,
            Path::Neighbour { state, .. } => state == Reachability::Unanswered,
            Path::Local => false,
        }
    }
}

/// Asks for the way from the calling thread's namespace to `to`.
///
/// # Errors
///
/// When the kernel gives no answer that can be understood.
pub fn path_here(to: IpAddr) -> Result<Path> {
    let to = to.to_canonical();
    let mut socket = Socket::new(NETLINK_ROUTE).context("opening a route socket")?;
    socket.bind_auto().context("binding a route socket")?;
    socket.connect(&NetlinkAddr::new(0, 0)).context("connecting a route socket")?;
    let route = match ask(&socket, route_request(to))? {
        Ok(RouteNetlinkMessage::NewRoute(route)) => route,
        Ok(_) => return Err(anyhow!("the kernel's answer is not a route")),
        Err(errno) => return without_route(errno),
    };
    let Some((addr, is_gateway, link)) = next_hop(&route, to) else { return Ok(Path::Local) };
    let state = match ask(&socket, neighbour_request(addr, link)) {
        Ok(Ok(RouteNetlinkMessage::NewNeighbour(entry))) => reachability(entry.header.state),
        _ => Reachability::Unknown,
    };
    Ok(Path::Neighbour { addr, is_gateway, state })
}

/// `fib_props` (net/ipv4/fib_semantics.c) and `ip6_rt_type_to_error` (net/ipv6/route.c).
fn without_route(errno: i32) -> Result<Path> {
    match errno {
        libc::ENETUNREACH => Ok(Path::NoRoute),
        libc::EHOSTUNREACH | libc::EACCES | libc::EINVAL => Ok(Path::Refused { errno }),
        _ => Err(std::io::Error::from_raw_os_error(errno)).context("requesting a route"),
    }
}

/// The neighbour that a route leads to, whether it is a gateway, and the link it is on; none for an
/// address of the namespace itself.
fn next_hop(route: &RouteMessage, to: IpAddr) -> Option<(IpAddr, bool, u32)> {
    let is_own = matches!(route.header.kind, RouteType::Local | RouteType::Broadcast);
    let (mut gateway, mut link) = (None, None);
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Gateway(RouteAddress::Inet(ip)) => gateway = Some(IpAddr::V4(*ip)),
            RouteAttribute::Gateway(RouteAddress::Inet6(ip)) => gateway = Some(IpAddr::V6(*ip)),
            // A gateway of the other family.
            RouteAttribute::Via(RouteVia::Inet(ip)) => gateway = Some(IpAddr::V4(*ip)),
            RouteAttribute::Via(RouteVia::Inet6(ip)) => gateway = Some(IpAddr::V6(*ip)),
            RouteAttribute::Oif(index) => link = Some(*index),
            _ => {}
        }
    }
    let link = link.filter(|_| !is_own)?;
    // inet6_rtm_getroute names the address itself as gateway where a route was cached by it.
    let gateway = gateway.filter(|gateway| *gateway != to);
    Some((gateway.unwrap_or(to), gateway.is_some(), link))
}

fn reachability(state: NeighbourState) -> Reachability {
    match state {
        NeighbourState::Failed | NeighbourState::Incomplete => Reachability::Unanswered,
        NeighbourState::Reachable => Reachability::Answers,
        NeighbourState::Stale | NeighbourState::Delay | NeighbourState::Probe => {
            Reachability::Unconfirmed
        }
        NeighbourState::Permanent | NeighbourState::Noarp => Reachability::Fixed,
        _ => Reachability::Unknown,
    }
}

fn family(ip: IpAddr) -> AddressFamily {
    if ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

fn route_request(to: IpAddr) -> RouteNetlinkMessage {
    let mut request = RouteMessage::default();
    request.header.address_family = family(to);
    request.header.destination_prefix_length = if to.is_ipv4() { 32 } else { 128 };
    request.attributes.push(RouteAttribute::Destination(to.into()));
    RouteNetlinkMessage::GetRoute(request)
}

fn neighbour_request(addr: IpAddr, link: u32) -> RouteNetlinkMessage {
    let mut request = NeighbourMessage::default();
    request.header.family = family(addr);
    request.header.ifindex = link;
    request.attributes.push(NeighbourAttribute::Destination(addr.into()));
    RouteNetlinkMessage::GetNeighbour(request)
}

/// Asks one question; an error number of the kernel's is an answer as well.
fn ask(socket: &Socket, request: RouteNetlinkMessage) -> Result<Result<RouteNetlinkMessage, i32>> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::from(request));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send(&bytes, 0).context("requesting a route or neighbour")?;
    let mut buffer = Vec::with_capacity(DATAGRAM);
    socket.recv(&mut buffer, 0).context("reading a route or neighbour")?;
    answer(&buffer)
}

fn answer(bytes: &[u8]) -> Result<Result<RouteNetlinkMessage, i32>> {
    let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(bytes)
        .map_err(|error| anyhow!("cannot decode a route or neighbour: {error}"))?;
    match message.payload {
        NetlinkPayload::InnerMessage(answer) => Ok(Ok(answer)),
        NetlinkPayload::Error(error) => {
            Ok(Err(error.code.map_or(0, |code| code.get().saturating_neg())))
        }
        _ => Err(anyhow!("the kernel returned no route or neighbour")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_address_is_local() {
        assert_eq!(path_here([127, 0, 0, 1].into()).unwrap(), Path::Local);
        assert_eq!(path_here("::ffff:127.0.0.1".parse().unwrap()).unwrap(), Path::Local);
    }

    #[test]
    fn a_route_leads_to_the_address_or_its_gateway() {
        let (to, gateway) = (IpAddr::from([10, 0, 0, 9]), IpAddr::from([10, 0, 0, 1]));
        let mut route = RouteMessage::default();
        route.header.kind = RouteType::Unicast;
        route.attributes = vec![RouteAttribute::Oif(3)];
        assert_eq!(next_hop(&route, to), Some((to, false, 3)));
        route.attributes.push(RouteAttribute::Gateway(gateway.into()));
        assert_eq!(next_hop(&route, to), Some((gateway, true, 3)));
        route.header.kind = RouteType::Local;
        assert_eq!(next_hop(&route, to), None);
    }

    #[test]
    fn the_error_number_tells_no_route_from_a_refusing_one() {
        assert_eq!(without_route(libc::ENETUNREACH).unwrap(), Path::NoRoute);
        for errno in [libc::EHOSTUNREACH, libc::EACCES, libc::EINVAL] {
            assert_eq!(without_route(errno).unwrap(), Path::Refused { errno });
        }
        assert!(without_route(libc::EPERM).is_err());
    }

    #[test]
    fn a_damaged_answer_is_refused() {
        assert!(answer(&[1, 2, 3]).is_err());
    }
}
