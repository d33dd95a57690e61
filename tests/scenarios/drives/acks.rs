//! Final ACKs that are dropped (`tcp_check_req`).

use std::net::IpAddr;

use anyhow::Result;

use crate::{
    claim::{Claim, at_least, exactly},
    counters::until_counted,
    namespace::{Namespace, sysctl},
    peer::Peer,
    scenario::{Driven, Scenario},
    sockets::{Listener, knocks},
    tun::{HERE, HERE_V6, Tun},
};

pub const ALL: &[Scenario] = &[
    Scenario::new("ack_overflow_held", |_| held("0")),
    Scenario::new("ack_overflow_held_abort", |_| held("1")),
    Scenario::new("ack_overflow_crafted_ipv4", |_| crafted(HERE.into())),
    Scenario::new("ack_overflow_crafted_ipv6", |_| crafted(HERE_V6.into())),
    Scenario::new("ack_overflow_crafted_abort", crafted_abort),
    Scenario::new("ack_no_route_back", no_route_back),
];

/// Clients that believe themselves connected send data, again and again, to a listener that has
/// not seen their ACKs and has no room left when they are let through.
fn held(abort_on_overflow: &str) -> Result<Driven> {
    const CLIENTS: usize = 900;
    const LOST: u64 = CLIENTS as u64 - 2;
    sysctl("ipv4/tcp_abort_on_overflow", abort_on_overflow)?;
    sysctl("core/somaxconn", "4096")?;
    sysctl("ipv4/tcp_max_syn_backlog", "4096")?;
    let listener = Listener::new("127.0.0.1:0", 4096)?;
    listener.hold_acks()?;
    let clients = knocks(listener.addr, CLIENTS)?;
    for client in &clients {
        client.send(b"x")?;
    }
    listener.set_backlog(1)?;
    listener.release_acks()?;
    until_counted("ListenOverflows", LOST)?;
    drop(clients);
    let mut claims = vec![at_least("ListenDrops", LOST).at(listener.addr)];
    if abort_on_overflow == "1" {
        claims.push(at_least("ack/accept_queue_full/reset", LOST).all_of("ListenOverflows"));
        claims.extend(resets(LOST));
    } else {
        claims.push(at_least("ack/accept_queue_full", LOST).all_of("ListenOverflows"));
    }
    Ok(Driven::new(claims, listener))
}

/// 40 are half open when the queue shrinks to take 2. Each ACK of the other 38 is a loss, also when
/// it comes twice; and they get another SYN/ACK in time, for which nobody but the listener's own
/// queue is to blame.
fn crafted(here: IpAddr) -> Result<Driven> {
    let tun = Tun::open()?;
    let listener = Listener::new("[::]:0", 64)?;
    let peers = Peer::half_open(&tun, 1..=40, listener.at(here))?;
    listener.set_backlog(1)?;
    for peer in &peers {
        peer.ack()?;
        peer.ack()?;
    }
    until_counted("TCPSynRetrans", 38)?;
    let claims = [
        exactly("ack/accept_queue_full", 76).all_of("ListenOverflows"),
        exactly("ListenDrops", 76),
        exactly("ListenDrops", 76).at(listener.addr),
        at_least("synack_retransmit/own_drop", 38).all_of("TCPSynRetrans"),
        at_least("TCPSynRetrans", 38),
    ];
    drop(peers);
    Ok(Driven::new(claims, (listener, tun)))
}

fn crafted_abort(_: &[Namespace]) -> Result<Driven> {
    sysctl("ipv4/tcp_abort_on_overflow", "1")?;
    let tun = Tun::open()?;
    let listener = Listener::new("0.0.0.0:0", 64)?;
    let peers = Peer::half_open(&tun, 1..=40, listener.at(HERE))?;
    listener.set_backlog(1)?;
    for peer in &peers {
        peer.ack()?;
    }
    let mut claims = vec![
        exactly("ack/accept_queue_full/reset", 38).all_of("ListenOverflows"),
        exactly("ListenDrops", 38),
    ];
    claims.extend(resets(38));
    drop(peers);
    Ok(Driven::new(claims, (listener, tun)))
}

/// `tcp_v4_syn_recv_sock` and `tcp_v6_syn_recv_sock` find room in the queue, but no way to the
/// client any more.
fn no_route_back(_: &[Namespace]) -> Result<Driven> {
    let tun = Tun::open_with_unreachable()?;
    tun.set_reachable(true)?;
    let listener = Listener::new("[::]:0", 64)?;
    let mut peers = Peer::unreachables(&tun, 5, listener.at(HERE));
    peers.extend(Peer::unreachables(&tun, 5, listener.at(HERE_V6)));
    for peer in &mut peers {
        peer.knock()?;
    }
    tun.set_reachable(false)?;
    for peer in &peers {
        peer.ack()?;
    }
    drop(peers);
    let claims = [
        exactly("ack/child_failed", 10).all_of("ListenDrops"),
        exactly("ListenDrops", 10),
        exactly("ListenOverflows", 0),
    ];
    Ok(Driven::new(claims, (listener, tun)))
}

/// A reset ends the request, so it is given once for each.
fn resets(number: u64) -> [Claim; 2] {
    [exactly("ack/reset", number).all_of("EmbryonicRsts"), at_least("OutRsts", number)]
}
