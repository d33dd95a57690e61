//! SYN queues that are full, without cookies.

use anyhow::Result;

use crate::{
    claim::{at_least, exactly},
    namespace::{Namespace, sysctl},
    peer::Peer,
    scenario::{Driven, Scenario},
    sockets::Listener,
    tun::{HERE, Tun},
};

pub const ALL: &[Scenario] =
    &[Scenario::new("syn_queue_full", full), Scenario::new("syn_queue_last_quarter", last_quarter)];

/// The SYN queue is as long as the accept queue may be: it holds 4 or, in some versions, 5
/// (`inet_csk_reqsk_queue_is_full`).
fn full(_: &[Namespace]) -> Result<Driven> {
    sysctl("ipv4/tcp_syncookies", "0")?;
    sysctl("ipv4/tcp_max_syn_backlog", "4096")?;
    let tun = Tun::open()?;
    let listener = Listener::new("0.0.0.0:0", 4)?;
    for peer in Peer::several(&tun, 40, listener.at(HERE)) {
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
fn last_quarter(_: &[Namespace]) -> Result<Driven> {
    sysctl("ipv4/tcp_syncookies", "0")?;
    sysctl("ipv4/tcp_max_syn_backlog", "8")?;
    let tun = Tun::open()?;
    let listener = Listener::new("0.0.0.0:0", 64)?;
    for peer in Peer::several(&tun, 40, listener.at(HERE)) {
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
