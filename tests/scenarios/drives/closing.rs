//! What a listener takes with it when it closes, which no counter shows.

use std::net::Ipv4Addr;

use anyhow::Result;

use crate::{
    claim::exactly,
    counters::{half_open, until},
    namespace::Namespace,
    peer::Peer,
    scenario::{Driven, Scenario},
    sockets::Listener,
    tun::{HERE, Tun},
};

pub const ALL: &[Scenario] = &[
    Scenario::new("closed_with_unaccepted", with_unaccepted),
    Scenario::new("closed_with_half_open", with_half_open),
];

/// Connections that wait to be accepted are reset (`inet_csk_listen_stop`).
fn with_unaccepted(_: &[Namespace]) -> Result<Driven> {
    let listener = Listener::new("127.0.0.1:8080", 64)?;
    let clients = listener.fill(listener.at(Ipv4Addr::LOCALHOST), 7)?;
    drop(listener);
    let claims = [exactly("accept/listener_closed", 7), exactly("ListenDrops", 0)];
    Ok(Driven::new(claims, clients).and_listeners_went())
}

/// Requests end when their timer next runs (`reqsk_timer_handler`).
fn with_half_open(_: &[Namespace]) -> Result<Driven> {
    let tun = Tun::open()?;
    let listener = Listener::new("0.0.0.0:8080", 64)?;
    let peers = Peer::half_open(&tun, 1..=20, listener.at(HERE))?;
    drop(listener);
    until("requests to go", || Ok(half_open()? == 0))?;
    drop(peers);
    let claims = [
        exactly("expired/listener_closed", 20),
        exactly("expired/pruned", 0),
        exactly("ListenDrops", 0),
    ];
    Ok(Driven::new(claims, tun).and_listeners_went())
}
