//! SYN cookies: sent, received, refused, and received when there is no room.

use std::net::IpAddr;

use anyhow::Result;

use crate::{
    claim::{at_least, exactly},
    faults::{Fault, skip_without_effect},
    namespace::{Namespace, sysctl},
    peer::Peer,
    scenario::{Driven, Scenario},
    sockets::Listener,
    tun::{HERE, HERE_V6, Tun},
};

pub const ALL: &[Scenario] = &[
    Scenario::new("cookies_when_full", when_full),
    Scenario::new("cookies_always_ipv4", |_| always(HERE.into())),
    Scenario::new("cookies_always_ipv6", |_| always(HERE_V6.into())),
    Scenario::new("cookie_ack_overflow_ipv4", |_| overflow(HERE.into())),
    Scenario::new("cookie_ack_overflow_ipv6", |_| overflow(HERE_V6.into())),
    Scenario::new("cookie_ack_child_failed", child_failed),
];

/// tcp_syncookies 1: cookies take over from a full SYN queue, and no handshake is lost.
fn when_full(_: &[Namespace]) -> Result<Driven> {
    sysctl("ipv4/tcp_syncookies", "1")?;
    let tun = Tun::open()?;
    let listener = Listener::new("0.0.0.0:0", 4)?;
    let peers = Peer::half_open(&tun, 1..=40, listener.at(HERE))?;
    // The last ones have a cookie.
    for peer in &peers[36..] {
        peer.ack()?;
    }
    drop(peers);
    let claims = [
        at_least("syn/cookie_wanted", 35).all_of("TCPReqQFullDoCookies"),
        at_least("syn/cookie_sent", 35).all_of("SyncookiesSent"),
        exactly("cookie_ack/good", 4).all_of("SyncookiesRecv"),
        exactly("ListenDrops", 0),
    ];
    Ok(Driven::new(claims, (listener, tun)))
}

/// tcp_syncookies 2: a cookie for every SYN. Ten come back, ten ACKs carry something else.
fn always(here: IpAddr) -> Result<Driven> {
    sysctl("ipv4/tcp_syncookies", "2")?;
    let tun = Tun::open()?;
    let listener = Listener::new("[::]:0", 64)?;
    let peers = Peer::half_open(&tun, 1..=40, listener.at(here))?;
    for peer in &peers[..10] {
        peer.ack()?;
    }
    for peer in &peers[10..20] {
        peer.ack_of_nothing()?;
    }
    drop(peers);
    let claims = [
        exactly("syn/cookie_wanted", 40).all_of("TCPReqQFullDoCookies"),
        exactly("syn/cookie_sent", 40).all_of("SyncookiesSent"),
        exactly("cookie_ack/good", 10).all_of("SyncookiesRecv"),
        exactly("cookie_ack/bad", 10).all_of("SyncookiesFailed"),
        exactly("ListenDrops", 0),
    ];
    Ok(Driven::new(claims, (listener, tun)))
}

/// 40 cookies come back to a queue that takes 2 (`tcp_get_cookie_sock`).
fn overflow(here: IpAddr) -> Result<Driven> {
    sysctl("ipv4/tcp_syncookies", "2")?;
    let tun = Tun::open()?;
    let listener = Listener::new("[::]:0", 64)?;
    let peers = Peer::half_open(&tun, 1..=40, listener.at(here))?;
    listener.set_backlog(1)?;
    for peer in &peers {
        peer.ack()?;
    }
    drop(peers);
    let claims = [
        exactly("cookie_ack/accept_queue_full", 38).all_of("ListenOverflows"),
        exactly("ListenDrops", 38),
        exactly("ListenDrops", 38).at(listener.addr),
        exactly("cookie_ack/good", 40).all_of("SyncookiesRecv"),
    ];
    Ok(Driven::new(claims, (listener, tun)))
}

/// Twenty good cookies for which there is room, but no child comes about.
fn child_failed(_: &[Namespace]) -> Result<Driven> {
    sysctl("ipv4/tcp_syncookies", "2")?;
    let tun = Tun::open()?;
    let listener = Listener::new("[::]:0", 64)?;
    let mut peers = Peer::half_open(&tun, 1..=10, listener.at(HERE))?;
    peers.extend(Peer::half_open(&tun, 1..=10, listener.at(HERE_V6))?);
    let fault = Fault::refuse_children()?;
    for peer in &peers {
        peer.ack()?;
    }
    skip_without_effect()?;
    drop((peers, fault));
    let claims = [
        exactly("cookie_ack/child_failed", 20).all_of("ListenDrops"),
        exactly("ListenDrops", 20).at(listener.addr),
        exactly("cookie_ack/good", 20).all_of("SyncookiesRecv"),
        exactly("ListenOverflows", 0),
    ];
    Ok(Driven::new(claims, (listener, tun)))
}
