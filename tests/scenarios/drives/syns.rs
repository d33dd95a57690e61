//! SYNs that are dropped on arrival (`tcp_conn_request`), but for a full SYN queue.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Result;

use crate::{
    claim::{at_least, exactly},
    counters::until_counted,
    faults::{Fault, skip_without_effect},
    namespace::Namespace,
    peer::Peer,
    scenario::{Driven, Scenario},
    sockets::{Listener, knocks},
    tun::{BROADCAST, HERE, HERE_V6, Tun},
};

pub const ALL: &[Scenario] = &[
    Scenario::new("syn_overflow_ipv4", |_| overflow("127.0.0.1:0", Ipv4Addr::LOCALHOST.into())),
    Scenario::new("syn_overflow_ipv6", |_| overflow("[::1]:0", Ipv6Addr::LOCALHOST.into())),
    Scenario::new("syn_overflow_dual_stack", |_| overflow("[::]:0", Ipv4Addr::LOCALHOST.into())),
    Scenario::new("syn_overflow_every_family", every_family),
    Scenario::new("syn_overflow_crafted", crafted),
    Scenario::new("syn_no_route_back", no_route_back),
    Scenario::new("syn_to_broadcast", to_broadcast),
    Scenario::new("syn_refused_by_policy", refused_by_policy),
];

/// A queue of backlog 2 takes 3 and no more of 20; a listener next to it loses nothing.
fn overflow(listen_on: &str, ip: IpAddr) -> Result<Driven> {
    let full = Listener::new(listen_on, 2)?;
    let quiet = Listener::new(listen_on, 2)?;
    let waiting = full.fill(full.at(ip), 3)?;
    let others = quiet.fill(quiet.at(ip), 1)?;
    let clients = knocks(full.at(ip), 17)?;
    // Each SYN that was dropped is sent again.
    until_counted("ListenOverflows", 2 * 17)?;
    drop(clients);
    let claims = [
        at_least("syn/accept_queue_full", 2 * 17).all_of("ListenOverflows"),
        at_least("ListenDrops", 2 * 17),
        at_least("ListenOverflows", 2 * 17).at(full.addr),
        exactly("ListenDrops", 0).at(quiet.addr),
    ];
    Ok(Driven::new(claims, (full, quiet, waiting, others)))
}

/// Three listeners at once, each of which has to get its own.
fn every_family(_: &[Namespace]) -> Result<Driven> {
    let v4 = Listener::new("127.0.0.1:0", 1)?;
    let v6 = Listener::new("[::1]:0", 1)?;
    let dual = Listener::new("[::]:0", 1)?;
    let mut clients = Vec::new();
    let targets = [v4.addr, v6.addr, dual.at(Ipv4Addr::LOCALHOST)];
    for (listener, target) in [&v4, &v6, &dual].into_iter().zip(targets) {
        clients.extend(listener.fill(target, 2)?);
    }
    for target in targets {
        clients.extend(knocks(target, 10)?);
    }
    until_counted("ListenOverflows", 30)?;
    drop(clients);
    let mut claims = vec![at_least("syn/accept_queue_full", 30).all_of("ListenOverflows")];
    for listener in [&v4, &v6, &dual] {
        claims.push(at_least("ListenOverflows", 10).at(listener.addr));
    }
    Ok(Driven::new(claims, (v4, v6, dual)))
}

/// Peers that send one SYN each make the number exact.
fn crafted(_: &[Namespace]) -> Result<Driven> {
    let tun = Tun::open()?;
    let listener = Listener::new("[::]:0", 2)?;
    let waiting = listener.fill(listener.at(Ipv4Addr::LOCALHOST), 3)?;
    for here in [IpAddr::from(HERE), HERE_V6.into()] {
        for peer in Peer::several(&tun, 1..=50, listener.at(here)) {
            peer.syn()?;
        }
    }
    let claims = [
        exactly("syn/accept_queue_full", 100).all_of("ListenOverflows"),
        exactly("ListenDrops", 100),
        exactly("ListenDrops", 100).at(listener.addr),
    ];
    Ok(Driven::new(claims, (listener, waiting, tun)))
}

/// `inet_csk_route_req` finds no way to answer. IPv4 and IPv6, ten each.
fn no_route_back(_: &[Namespace]) -> Result<Driven> {
    let tun = Tun::open_with_unreachable()?;
    let listener = Listener::new("[::]:0", 64)?;
    for here in [IpAddr::from(HERE), HERE_V6.into()] {
        for peer in Peer::unreachables(&tun, 10, listener.at(here)) {
            peer.syn()?;
        }
    }
    let claims = [
        exactly("syn/no_route", 20).all_of("ListenDrops"),
        exactly("ListenDrops", 20),
        exactly("ListenOverflows", 0),
    ];
    Ok(Driven::new(claims, (listener, tun)))
}

/// `tcp_v4_conn_request` turns away what was not sent to one host.
fn to_broadcast(_: &[Namespace]) -> Result<Driven> {
    let tun = Tun::open()?;
    let listener = Listener::new("0.0.0.0:0", 64)?;
    for peer in Peer::several(&tun, 1..=10, listener.at(BROADCAST)) {
        peer.syn()?;
    }
    let claims =
        [exactly("syn/not_unicast", 10).all_of("ListenDrops"), exactly("ListenOverflows", 0)];
    Ok(Driven::new(claims, (listener, tun)))
}

/// `security_inet_conn_request` refuses, on behalf of a security module. IPv4 and IPv6, ten each.
fn refused_by_policy(_: &[Namespace]) -> Result<Driven> {
    let tun = Tun::open()?;
    let listener = Listener::new("[::]:0", 64)?;
    let refusal = Fault::refuse_port(listener.addr.port())?;
    for here in [IpAddr::from(HERE), HERE_V6.into()] {
        for peer in Peer::several(&tun, 1..=10, listener.at(here)) {
            peer.syn()?;
        }
    }
    skip_without_effect()?;
    let claims = [
        exactly("syn/policy", 20).all_of("ListenDrops"),
        exactly("ListenDrops", 20).at(listener.addr),
        exactly("ListenOverflows", 0),
    ];
    Ok(Driven::new(claims, (listener, tun, refusal)))
}
