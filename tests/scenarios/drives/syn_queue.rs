//! SYN queues that are full, without cookies.

use std::net::IpAddr;

use anyhow::Result;

use crate::{
    claim::{at_least, exactly},
    namespace::sysctl,
    peer::Peer,
    scenario::{Driven, Scenario},
    sockets::Listener,
    tun::{HERE, HERE_V6, Tun},
};

pub const ALL: &[Scenario] = &[
    Scenario::new("syn_queue_full_ipv4", |_| full(HERE.into())),
    Scenario::new("syn_queue_full_ipv6", |_| full(HERE_V6.into())),
    Scenario::new("syn_queue_last_quarter_ipv4", |_| last_quarter(HERE.into())),
    Scenario::new("syn_queue_last_quarter_ipv6", |_| last_quarter(HERE_V6.into())),
];

/// The SYN queue is as long as the accept queue may be: it holds 4 or, in some versions, 5
/// (`inet_csk_reqsk_queue_is_full`).
fn full(here: IpAddr) -> Result<Driven> {
    sysctl("ipv4/tcp_syncookies", "0")?;
    sysctl("ipv4/tcp_max_syn_backlog", "4096")?;
    let tun = Tun::open()?;
    let listener = Listener::new("[::]:0", 4)?;
    for peer in Peer::several(&tun, 1..=40, listener.at(here)) {
        peer.syn()?;
    }
    let claims = [
        at_least("syn/syn_queue_full", 35).all_of("TCPReqQFullDrop"),
        at_least("ListenDrops", 35),
        exactly("ListenOverflows", 0),
        exactly("SyncookiesSent", 0),
    ];
    Ok(Driven::new(claims, (listener, tun)))
}

/// Without cookies the last quarter of `tcp_max_syn_backlog` is for peers known from before. Of 8
/// places the first SYNs take 7, as 8 - 7 < 8 / 4.
fn last_quarter(here: IpAddr) -> Result<Driven> {
    sysctl("ipv4/tcp_syncookies", "0")?;
    sysctl("ipv4/tcp_max_syn_backlog", "8")?;
    let tun = Tun::open()?;
    let listener = Listener::new("[::]:0", 64)?;
    for peer in Peer::several(&tun, 1..=40, listener.at(here)) {
        peer.syn()?;
    }
    let claims = [
        exactly("syn/last_quarter", 33).all_of("ListenDrops"),
        exactly("ListenDrops", 33),
        exactly("TCPReqQFullDrop", 0),
        exactly("ListenOverflows", 0),
    ];
    Ok(Driven::new(claims, (listener, tun)))
}
