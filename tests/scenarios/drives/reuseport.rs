//! Groups of listeners on one port (SO_REUSEPORT), and members that leave.

use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use socket2::Protocol;

use super::storms::storm;
use crate::{
    claim::{at_least, exactly},
    counters::{Counters, until_counted},
    namespace::{Namespace, has_sysctl, sysctl},
    peer::Peer,
    scenario::{Driven, Scenario, Skip},
    sockets::{Listener, knocks},
    tun::{HERE, Tun},
};

pub const ALL: &[Scenario] = &[
    Scenario::new("reuseport_overflow", overflow),
    Scenario::new("reuseport_member_leaves", member_leaves),
    Scenario::new("reuseport_requests_stay", |_| half_open_member_leaves(Migration::Off)),
    Scenario::new("reuseport_requests_migrate", |_| half_open_member_leaves(Migration::On)),
    Scenario::new("reuseport_migrated_ack_overflow", migrated_ack_overflow),
];

const MIGRATE: &str = "ipv4/tcp_migrate_req";
const MIGRATED: &str = "TCPMigrateReqSuccess";
const MEMBERS: usize = 4;
/// The kernel spreads peers by their addresses; that none of so many falls to one of four members
/// is next to impossible.
const PEERS: u16 = 80;

#[derive(PartialEq)]
enum Migration {
    Off,
    On,
}

fn group(backlog: i32) -> Result<Vec<Listener>> {
    let member = |_| {
        Listener::with(Protocol::TCP, "0.0.0.0:8080", backlog, |socket| {
            Ok(socket.set_reuse_port(true)?)
        })
    };
    (0..MEMBERS).map(member).collect()
}

/// Each member's queue holds 2.
fn overflow(_: &[Namespace]) -> Result<Driven> {
    const LEAST: u64 = PEERS as u64 - 2 * MEMBERS as u64;
    let members = group(1)?;
    let clients = knocks(members[0].at(Ipv4Addr::LOCALHOST), PEERS.into())?;
    until_counted("ListenOverflows", LEAST)?;
    drop(clients);
    let claims = [
        at_least("ListenOverflows", LEAST),
        at_least("ListenOverflows", LEAST).at(members[0].addr),
    ];
    Ok(Driven::new(claims, members))
}

/// A member leaves in the middle of a storm: what it lost stays lost, and its share of the clients
/// goes to the others.
fn member_leaves(_: &[Namespace]) -> Result<Driven> {
    let mut members = group(1)?;
    let target = members[0].at(Ipv4Addr::LOCALHOST);
    storm(target, |_| {
        until_counted("ListenOverflows", 100)?;
        drop(members.pop());
        Ok(())
    })?;
    let claims = [at_least("ListenOverflows", 100)];
    Ok(Driven::new(claims, members).and_listeners_went())
}

/// Requests of a member that closes before their final ACKs come: without migration they are lost
/// with it, and the ACKs are answered by a reset.
fn half_open_member_leaves(migration: Migration) -> Result<Driven> {
    let on = migration == Migration::On;
    choose_migration(on)?;
    let tun = Tun::open()?;
    let mut members = group(256)?;
    let peers = Peer::half_open(&tun, 1..=PEERS, members[0].at(HERE))?;
    members.pop().context("a member")?;
    for peer in &peers {
        peer.ack()?;
    }
    drop(peers);
    let success = if on { at_least } else { exactly };
    let mut claims = vec![success(MIGRATED, u64::from(on)), exactly("ListenDrops", 0)];
    if !on {
        claims.push(at_least("OutRsts", 1));
    }
    Ok(Driven::new(claims, (members, tun)).and_listeners_went())
}

/// The members that remain have room for one connection each, so most ACKs are dropped, migrated or
/// not.
fn migrated_ack_overflow(_: &[Namespace]) -> Result<Driven> {
    choose_migration(true)?;
    let tun = Tun::open()?;
    let mut members = group(256)?;
    let peers = Peer::half_open(&tun, 1..=PEERS, members[0].at(HERE))?;
    for member in &members {
        member.set_backlog(0)?;
    }
    members.pop().context("a member")?;
    for peer in &peers {
        peer.ack()?;
    }
    drop(peers);
    let lost = u64::from(PEERS) - (MEMBERS as u64 - 1);
    let claims = [
        exactly("ack/accept_queue_full", lost).all_of("ListenOverflows"),
        exactly("ListenDrops", lost),
        at_least("TCPMigrateReqFailure", 1),
    ];
    Ok(Driven::new(claims, (members, tun)).and_listeners_went())
}

/// Some kernels have the switch and nothing behind it, nor its counters.
fn choose_migration(on: bool) -> Result<()> {
    let can_migrate = has_sysctl(MIGRATE) && Counters::here()?.get(MIGRATED).is_some();
    match (on, can_migrate) {
        (_, true) => sysctl(MIGRATE, if on { "1" } else { "0" }),
        (true, false) => Err(Skip("this kernel does not migrate requests".to_owned()).into()),
        (false, false) => Ok(()),
    }
}
