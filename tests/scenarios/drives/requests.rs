//! What can become of a request between its SYN and its final ACK.

use std::net::IpAddr;

use anyhow::{Result, ensure};

use crate::{
    claim::{at_least, exactly},
    counters::{half_open, until, until_counted},
    namespace::{Namespace, sysctl},
    peer::Peer,
    scenario::{Driven, Scenario},
    sockets::Listener,
    tun::{HERE, HERE_V6, Tun},
};

pub const ALL: &[Scenario] = &[
    Scenario::new("syn_repeated", repeated),
    Scenario::new("synack_silence", silence),
    Scenario::new("request_expired", expired),
    Scenario::new("request_expired_own_drop", expired_own_drop),
    Scenario::new("request_pruned", pruned),
    Scenario::new("request_reset_by_peer", reset_by_peer),
    Scenario::new("request_killed_by_icmp_ipv4", |_| killed_by_icmp(HERE.into())),
    Scenario::new("request_killed_by_icmp_ipv6", |_| killed_by_icmp(HERE_V6.into())),
];

/// A SYN that comes twice has its SYN/ACK sent twice (`tcp_check_req`).
fn repeated(_: &[Namespace]) -> Result<Driven> {
    let tun = Tun::open()?;
    let listener = Listener::new("0.0.0.0:0", 64)?;
    let mut peers = Peer::several(&tun, 1..=20, listener.at(HERE));
    for peer in &mut peers {
        peer.knock()?;
        peer.syn()?;
        ensure!(peer.answer()?.is_some_and(|answer| answer.syn), "no second SYN/ACK");
        peer.rst()?;
    }
    drop(peers);
    let claims = [
        exactly("synack_retransmit/client_repeated", 20),
        at_least("TCPSynRetrans", 20),
        exactly("EmbryonicRsts", 20),
        exactly("ListenDrops", 0),
    ];
    Ok(Driven::new(claims, (listener, tun)))
}

/// Nothing comes back: a SYN flood, or a path that works one way only.
fn silence(_: &[Namespace]) -> Result<Driven> {
    let tun = Tun::open()?;
    let listener = Listener::new("0.0.0.0:0", 64)?;
    let peers = Peer::half_open(&tun, 1..=20, listener.at(HERE))?;
    until_counted("TCPSynRetrans", 20)?;
    drop(peers);
    let claims = [
        at_least("synack_retransmit/silence", 20).all_of("TCPSynRetrans"),
        at_least("TCPSynRetrans", 20),
        exactly("ListenDrops", 0),
    ];
    Ok(Driven::new(claims, (listener, tun)))
}

/// After the last SYN/ACK the request ends (`reqsk_timer_handler`), which no counter shows.
fn expired(_: &[Namespace]) -> Result<Driven> {
    sysctl("ipv4/tcp_synack_retries", "1")?;
    let tun = Tun::open()?;
    let listener = Listener::new("0.0.0.0:0", 64)?;
    let peers = Peer::half_open(&tun, 1..=20, listener.at(HERE))?;
    until("requests to expire", || Ok(half_open()? == 0))?;
    drop(peers);
    let claims = [
        exactly("expired/silence", 20),
        exactly("synack_retransmit/silence", 20).all_of("TCPSynRetrans"),
        exactly("TCPSynRetrans", 20),
        exactly("ListenDrops", 0),
    ];
    Ok(Driven::new(claims, (listener, tun)))
}

/// The final ACK had come, and there was no room for the connection.
fn expired_own_drop(_: &[Namespace]) -> Result<Driven> {
    sysctl("ipv4/tcp_synack_retries", "1")?;
    let tun = Tun::open()?;
    let listener = Listener::new("0.0.0.0:0", 64)?;
    let peers = Peer::half_open(&tun, 1..=20, listener.at(HERE))?;
    listener.set_backlog(1)?;
    for peer in &peers {
        peer.ack()?;
    }
    until("requests to expire", || Ok(half_open()? == 0))?;
    drop(peers);
    let claims = [
        exactly("ack/accept_queue_full", 18).all_of("ListenOverflows"),
        exactly("expired/own_drop", 18),
        exactly("synack_retransmit/own_drop", 18).all_of("TCPSynRetrans"),
        exactly("TCPSynRetrans", 18),
    ];
    Ok(Driven::new(claims, (listener, tun)))
}

/// A SYN queue for 16 that is more than half full of requests none of which is young: after two
/// SYN/ACKs more instead of five they go until it is half full (`reqsk_timer_handler`).
fn pruned(_: &[Namespace]) -> Result<Driven> {
    let tun = Tun::open()?;
    let listener = Listener::new("0.0.0.0:0", 16)?;
    let peers = Peer::half_open(&tun, 1..=12, listener.at(HERE))?;
    until("requests to be given up", || Ok(half_open()? <= 8))?;
    drop(peers);
    let claims = [at_least("expired/pruned", 4), exactly("ListenDrops", 0)];
    Ok(Driven::new(claims, (listener, tun)))
}

fn reset_by_peer(_: &[Namespace]) -> Result<Driven> {
    let tun = Tun::open()?;
    let listener = Listener::new("0.0.0.0:0", 64)?;
    let peers = Peer::half_open(&tun, 1..=20, listener.at(HERE))?;
    for peer in &peers {
        peer.rst()?;
    }
    until("requests to go", || Ok(half_open()? == 0))?;
    drop(peers);
    let claims = [exactly("ack/reset", 20).all_of("EmbryonicRsts"), exactly("ListenDrops", 0)];
    Ok(Driven::new(claims, (listener, tun)))
}

/// `tcp_req_err`: the network says that the client cannot be reached.
fn killed_by_icmp(here: IpAddr) -> Result<Driven> {
    let tun = Tun::open()?;
    let listener = Listener::new("[::]:0", 64)?;
    let peers = Peer::half_open(&tun, 1..=20, listener.at(here))?;
    for peer in &peers {
        peer.unreachable()?;
    }
    until("requests to go", || Ok(half_open()? == 0))?;
    drop(peers);
    let claims =
        [exactly("icmp/request_killed", 20).all_of("ListenDrops"), exactly("ListenOverflows", 0)];
    Ok(Driven::new(claims, (listener, tun)))
}
