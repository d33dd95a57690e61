//! SYNs that this host sends again, and those that it means to and does not.

use std::{net::SocketAddr, thread::sleep, time::Duration};

use anyhow::Result;
use socket2::{Domain, Protocol, Socket, Type};

use crate::{
    claim::at_least,
    counters::until_counted,
    namespace::{Namespace, ip, tc},
    peer::Peer,
    scenario::{Driven, Scenario},
    tun::{HERE, Tun},
};

pub const ALL: &[Scenario] = &[
    Scenario::new("syn_retransmit_without_route", without_route),
    Scenario::new("syn_retransmit_refused_by_qdisc", refused_by_qdisc),
    Scenario::new("syn_retransmit_simultaneous_open", simultaneous_open),
];

/// A socket that connects to the peer, who says nothing.
fn connecting(tun: &Tun) -> Result<(Socket, SocketAddr)> {
    let to = Peer::new(tun, 1, (HERE, 1).into()).address();
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.bind(&SocketAddr::from((HERE, 41_000)).into())?;
    socket.set_nonblocking(true)?;
    // In progress, and to remain so.
    let _ = socket.connect(&to.into());
    let from = SocketAddr::from((HERE, 41_000));
    Ok((socket, from))
}

/// From Linux 6.17 on `tcp_retransmit_skb` fires with an error for SYNs that were not sent again.
fn without_route(_: &[Namespace]) -> Result<Driven> {
    let tun = Tun::open()?;
    let (client, _) = connecting(&tun)?;
    until_counted("TCPSynRetrans", 1)?;
    ip(&["route", "flush", "dev", "peers0"])?;
    ip(&["route", "add", "unreachable", "10.9.0.0/16"])?;
    sleep(Duration::from_secs(5));
    Ok(Driven::new([at_least("TCPSynRetrans", 1)], (client, tun)))
}

/// Counted before they are sent: the device's own queue refuses them all.
fn refused_by_qdisc(_: &[Namespace]) -> Result<Driven> {
    let tun = Tun::open()?;
    tc(&["qdisc", "replace", "dev", "peers0", "root", "pfifo", "limit", "0"])?;
    let (client, _) = connecting(&tun)?;
    until_counted("TCPSynRetrans", 2)?;
    // On the tracepoint rung the next one that is sent tells of them.
    tc(&["qdisc", "del", "dev", "peers0", "root"])?;
    until_counted("TCPSynRetrans", 3)?;
    Ok(Driven::new([at_least("TCPSynRetrans", 3)], (client, tun)))
}

/// The peer's SYN crosses the client's: what the client then sends again is a SYN/ACK, from a full socket.
fn simultaneous_open(_: &[Namespace]) -> Result<Driven> {
    let tun = Tun::open()?;
    let (client, from) = connecting(&tun)?;
    Peer::new(&tun, 1, from).syn()?;
    until_counted("TCPSynRetrans", 2)?;
    Ok(Driven::new([at_least("TCPSynRetrans", 2)], (client, tun)))
}
