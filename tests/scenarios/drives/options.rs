//! Listeners with options that change the handshake.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context, Result};
use socket2::{Protocol, Socket};

use crate::{
    claim::{at_least, exactly},
    counters::until_counted,
    faults::{Fault, skip_without_effect},
    namespace::{Namespace, sysctl},
    peer::Peer,
    scenario::{Driven, Scenario, Skip},
    sockets::{Listener, client, knock, knock_with, knocks, set_tcp_option},
    tun::{HERE, HERE_V6, Tun},
};

pub const ALL: &[Scenario] = &[
    Scenario::new("defer_accept", defer_accept),
    Scenario::new("fast_open_overflow", fast_open),
    Scenario::new("fast_open_child_failed", fast_open_child_failed),
    Scenario::new("fast_open_cookie_invalid", fast_open_cookie_invalid),
    Scenario::new("mptcp_overflow", mptcp),
];

/// A bare ACK only proves the client alive, and is asked for again in the end. It moves `sk_drops`,
/// yet nothing is lost.
fn defer_accept(_: &[Namespace]) -> Result<Driven> {
    let tun = Tun::open()?;
    let listener = Listener::with(Protocol::TCP, "0.0.0.0:0", 64, |socket| {
        set_tcp_option(socket, libc::TCP_DEFER_ACCEPT, 1)
    })?;
    let peers = Peer::half_open(&tun, 1..=20, listener.at(HERE))?;
    for peer in &peers {
        peer.ack()?;
    }
    until_counted("TCPSynRetrans", 20)?;
    drop(peers);
    let claims = [
        exactly("ack/deferred", 20).all_of("TCPDeferAcceptDrop"),
        at_least("synack_retransmit/deferred", 20).all_of("TCPSynRetrans"),
        exactly("ListenDrops", 0),
    ];
    Ok(Driven::new(claims, (listener, tun)))
}

/// Client and server, both without cookies (`TFO_*` in net/tcp.h).
const BOTH_WITHOUT_COOKIES: &str = "519";

/// Three connections come with their SYNs and fill the queue; the next SYNs find no room.
fn fast_open(_: &[Namespace]) -> Result<Driven> {
    sysctl("ipv4/tcp_fastopen", BOTH_WITHOUT_COOKIES)?;
    let listener = Listener::with(Protocol::TCP, "127.0.0.1:0", 2, |socket| {
        set_tcp_option(socket, libc::TCP_FASTOPEN, 64)
    })?;
    let clients = (0..12)
        .map(|_| {
            let client = client(Protocol::TCP, listener.addr)?;
            let sent = client.send_to_with_flags(b"x", &listener.addr.into(), libc::MSG_FASTOPEN);
            // Not sent yet, as without an answer the SYN goes alone.
            match sent {
                Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error.into()),
                _ => Ok(client),
            }
        })
        .collect::<Result<Vec<Socket>>>()?;
    until_counted("ListenOverflows", 9)?;
    let claims = [
        at_least("TCPFastOpenPassive", 3),
        at_least("syn/accept_queue_full", 9).all_of("ListenOverflows"),
        at_least("ListenDrops", 9).at(listener.addr),
    ];
    drop(clients);
    Ok(Driven::new(claims, listener))
}

/// Ten SYNs come with data, and no child comes about for any: each is counted as dropped, yet goes on
/// to be answered as one without data.
fn fast_open_child_failed(_: &[Namespace]) -> Result<Driven> {
    sysctl("ipv4/tcp_fastopen", BOTH_WITHOUT_COOKIES)?;
    let tun = Tun::open()?;
    let listener = Listener::with(Protocol::TCP, "[::]:0", 64, |socket| {
        set_tcp_option(socket, libc::TCP_FASTOPEN, 64)
    })?;
    let fault = Fault::refuse_children()?;
    for here in [IpAddr::from(HERE), HERE_V6.into()] {
        for peer in Peer::several(&tun, 1..=5, listener.at(here)) {
            peer.syn_with(b"x")?;
        }
    }
    skip_without_effect()?;
    drop(fault);
    let claims = [
        exactly("fast_open/child_failed", 10).all_of("ListenDrops"),
        exactly("TCPFastOpenPassiveFail", 10),
        exactly("ListenDrops", 10).at(listener.addr),
        exactly("ListenOverflows", 0),
    ];
    Ok(Driven::new(claims, (listener, tun)))
}

/// Cookies that the listener never gave, and later SYNs that find its queue full: what the first moved
/// is not taken for part of the others.
fn fast_open_cookie_invalid(_: &[Namespace]) -> Result<Driven> {
    const SERVER: &str = "3";
    sysctl("ipv4/tcp_fastopen", SERVER)?;
    let tun = Tun::open()?;
    let listener = Listener::with(Protocol::TCP, "[::]:0", 64, |socket| {
        set_tcp_option(socket, libc::TCP_FASTOPEN, 64)
    })?;
    for here in [IpAddr::from(HERE), HERE_V6.into()] {
        for peer in Peer::several(&tun, 1..=5, listener.at(here)) {
            peer.syn_with_cookie(b"x")?;
            peer.answer()?.context("no SYN/ACK")?;
            peer.rst()?;
        }
    }
    until_counted("EmbryonicRsts", 10)?;
    listener.set_backlog(1)?;
    let waiting = listener.fill(listener.at(Ipv4Addr::LOCALHOST), 2)?;
    let refused = knocks(listener.at(Ipv4Addr::LOCALHOST), 3)?;
    until_counted("ListenOverflows", 3)?;
    drop(refused);
    let claims = [
        exactly("fast_open/cookie_invalid", 10).all_of("TCPFastOpenPassiveFail"),
        exactly("fast_open/accept_queue_full", 0),
        at_least("syn/accept_queue_full", 3).all_of("ListenOverflows"),
        exactly("EmbryonicRsts", 10),
    ];
    Ok(Driven::new(claims, (listener, waiting, tun)))
}

/// The handshake runs on a subflow's socket (`subflow_v4_conn_request`), for clients of both kinds.
fn mptcp(_: &[Namespace]) -> Result<Driven> {
    let listener = Listener::with(Protocol::MPTCP, "127.0.0.1:0", 2, |_| Ok(()))
        .map_err(|error| Skip(format!("no MPTCP here: {error:#}")))?;
    let mut clients = listener.fill(listener.addr, 3)?;
    for _ in 0..10 {
        clients.push(knock_with(Protocol::MPTCP, listener.addr)?);
        clients.push(knock(listener.addr)?);
    }
    until_counted("ListenOverflows", 20)?;
    drop(clients);
    let claims = [
        at_least("syn/accept_queue_full", 20).all_of("ListenOverflows"),
        at_least("ListenDrops", 20).at(listener.addr),
    ];
    Ok(Driven::new(claims, listener))
}
