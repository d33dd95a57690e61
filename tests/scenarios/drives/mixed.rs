//! Several causes at one listener at once, each of which has to get its own.

use std::net::Ipv4Addr;

use anyhow::Result;

use crate::{
    claim::{at_least, exactly},
    counters::{half_open, until, until_counted},
    namespace::Namespace,
    peer::Peer,
    scenario::{Driven, Scenario},
    sockets::Listener,
    tun::{HERE, HERE_V6, Tun},
};

pub const ALL: &[Scenario] = &[
    Scenario::new("mixed_drops", drops),
    Scenario::new("mixed_synack_retransmits", synack_retransmits),
];

/// ICMP ends 5 requests, 10 SYNs come from where no way leads back, 12 final ACKs and 20 SYNs find
/// the queue full.
fn drops(_: &[Namespace]) -> Result<Driven> {
    let tun = Tun::open_with_unreachable()?;
    let listener = Listener::new("[::]:0", 64)?;
    let refused = Peer::half_open(&tun, 1..=5, listener.at(HERE_V6))?;
    for peer in &refused {
        peer.unreachable()?;
    }
    until("requests to go", || Ok(half_open()? == 0))?;
    for peer in Peer::unreachables(&tun, 10, listener.at(HERE)) {
        peer.syn()?;
    }
    let late = Peer::half_open(&tun, 1..=12, listener.at(HERE))?;
    listener.set_backlog(1)?;
    let waiting = listener.fill(listener.at(Ipv4Addr::LOCALHOST), 2)?;
    for peer in &late {
        peer.ack()?;
    }
    for peer in Peer::several(&tun, 101..=120, listener.at(HERE)) {
        peer.syn()?;
    }
    let claims = [
        exactly("icmp/request_killed", 5),
        exactly("syn/no_route", 10),
        exactly("ack/accept_queue_full", 12),
        exactly("syn/accept_queue_full", 20),
        exactly("ListenOverflows", 32),
        exactly("ListenDrops", 47),
    ];
    Ok(Driven::new(claims, (listener, waiting, tun)))
}

/// Of three groups one never answers, one repeats its SYN and then gives up, and one has completed
/// the handshake but for want of room.
fn synack_retransmits(_: &[Namespace]) -> Result<Driven> {
    let tun = Tun::open()?;
    let listener = Listener::new("0.0.0.0:0", 64)?;
    let target = listener.at(HERE);
    let repeating = Peer::half_open(&tun, 1..=10, target)?;
    for peer in &repeating {
        peer.syn()?;
        peer.rst()?;
    }
    let _silent = Peer::half_open(&tun, 11..=20, target)?;
    let complete = Peer::half_open(&tun, 21..=30, target)?;
    listener.set_backlog(1)?;
    for peer in &complete {
        peer.ack()?;
    }
    until_counted("TCPSynRetrans", 10 + 10 + 8)?;
    let claims = [
        exactly("synack_retransmit/client_repeated", 10),
        at_least("synack_retransmit/silence", 10),
        at_least("synack_retransmit/own_drop", 8),
        at_least("TCPSynRetrans", 28),
        exactly("ack/accept_queue_full", 8).all_of("ListenOverflows"),
    ];
    drop(complete);
    Ok(Driven::new(claims, (listener, tun)))
}
