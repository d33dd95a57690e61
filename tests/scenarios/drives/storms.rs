//! Many clients at once, against listeners at work, listeners that close and namespaces that end.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use anyhow::{Context, Result, anyhow};

use crate::{
    claim::at_least,
    counters::{Counters, until_counted},
    namespace::Namespace,
    scenario::{Driven, Scenario},
    sockets::{Listener, knock, knocks},
};

pub const ALL: &[Scenario] = &[
    Scenario::new("storm_against_accept", against_accept),
    Scenario::new("storm_listener_closes", listener_closes),
    Scenario::new("storm_namespace_ends", namespace_ends),
    Scenario { namespaces: 100, ..Scenario::new("a_hundred_namespaces", a_hundred) },
];

const THREADS: usize = 4;
const CLIENTS_PER_THREAD: usize = 600;
/// So many of a thread's clients are there at a time; the oldest makes room for the next.
const AT_A_TIME: usize = 32;

/// Several threads connect while `meanwhile` does something to their target.
pub(super) fn storm<T>(
    target: SocketAddr,
    meanwhile: impl FnOnce(&AtomicBool) -> Result<T>,
) -> Result<T> {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(|| clients(target))).collect();
        let herd = scope.spawn(|| {
            let joined: Result<()> = threads
                .into_iter()
                .try_for_each(|one| one.join().map_err(|_| anyhow!("a client panicked"))?);
            over.store(true, Ordering::Release);
            joined
        });
        let result = meanwhile(&over);
        herd.join().map_err(|_| anyhow!("the clients panicked"))??;
        result
    })
}

fn clients(target: SocketAddr) -> Result<()> {
    let mut present = VecDeque::with_capacity(AT_A_TIME);
    for _ in 0..CLIENTS_PER_THREAD {
        // A closed port refuses at once, which is no matter here.
        present.extend(knock(target).ok());
        if present.len() >= AT_A_TIME {
            present.pop_front();
        }
    }
    Ok(())
}

fn against_accept(_: &[Namespace]) -> Result<Driven> {
    let listener = Listener::new("127.0.0.1:0", 4)?;
    listener.socket.set_nonblocking(true)?;
    storm(listener.addr, |over| {
        while !over.load(Ordering::Acquire) {
            let _ = listener.socket.accept();
            thread::yield_now();
        }
        Ok(())
    })?;
    let claims = [at_least("ListenOverflows", 1), at_least("ListenDrops", 1).at(listener.addr)];
    Ok(Driven::new(claims, listener))
}

/// The listener closes with its queue full, and another takes its port.
fn listener_closes(_: &[Namespace]) -> Result<Driven> {
    let first = Listener::new("127.0.0.1:0", 4)?;
    let addr = first.addr;
    let second = storm(addr, |_| {
        until_counted("ListenOverflows", 100)?;
        drop(first);
        Listener::new(&addr.to_string(), 4)
    })?;
    let claims = [at_least("ListenOverflows", 100)];
    Ok(Driven::new(claims, second).and_listeners_went())
}

/// The namespace loses its name in the middle and ends with the last socket, before the counts are
/// compared.
fn namespace_ends(namespaces: &[Namespace]) -> Result<Driven> {
    let namespace = namespaces.first().context("a namespace")?;
    let listener = Listener::new("127.0.0.1:0", 4)?;
    storm(listener.addr, |_| {
        until_counted("ListenOverflows", 100)?;
        namespace.abandon();
        Ok(())
    })?;
    let mut driven = Driven::new([at_least("ListenOverflows", 100)], ()).and_listeners_went();
    driven.last_counters = Some(Counters::when_still()?);
    Ok(driven)
}

/// Three of five SYNs are dropped in each.
fn a_hundred(namespaces: &[Namespace]) -> Result<Driven> {
    let mut kept = Vec::new();
    for namespace in namespaces {
        namespace.enter()?;
        let listener = Listener::new("127.0.0.1:0", 1)?;
        let waiting = listener.fill(listener.addr, 2)?;
        drop(knocks(listener.addr, 3)?);
        kept.push((listener, waiting));
    }
    let claims = [
        at_least("syn/accept_queue_full", 300).all_of("ListenOverflows"),
        at_least("ListenDrops", 300),
    ];
    Ok(Driven::new(claims, kept))
}
