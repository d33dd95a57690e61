//! The way from a proxy to a peer that did not let it connect: through the proxy's own namespace,
//! and through those of this host that route on for it, as a container's host does.

use std::{
    collections::HashMap,
    net::IpAddr,
    time::{Duration, Instant},
};

use log::debug;

use super::Inventory;
use crate::kernel::{
    NetnsId,
    netns::{Netns, visit},
    path::{Path, PeerPath, path_here},
};

/// An answer counts as current this long.
const PERIOD: Duration = Duration::from_millis(500);
/// Questions to the kernel in one period: each takes some tens of microseconds.
const MOST_QUESTIONS: u32 = 32;
/// Addresses remembered.
const MOST: usize = 1000;
/// Namespaces of this host that one way leads through: a container's, its host's, one more.
const MOST_ROUTERS: usize = 3;

/// The ways asked for lately.
#[derive(Debug, Default)]
pub struct Paths {
    known: HashMap<(NetnsId, IpAddr), (Instant, Option<PeerPath>)>,
    asked: Option<(Instant, u32)>,
}

impl Paths {
    /// The way from the namespace `from` to `to`; none where it cannot be told. `host` is the host's
    /// own namespace.
    pub fn of(
        &mut self,
        to: IpAddr,
        from: NetnsId,
        inventory: &Inventory,
        namespaces: &[Netns],
        host: Option<NetnsId>,
    ) -> Option<PeerPath> {
        let now = Instant::now();
        if let Some((at, path)) = self.known.get(&(from, to))
            && now.duration_since(*at) < PERIOD
        {
            return *path;
        }
        let path = self.follow(to, from, inventory, namespaces, host, now);
        if self.known.len() >= MOST {
            self.known.clear();
        }
        self.known.insert((from, to), (now, path));
        path
    }

    fn follow(
        &mut self,
        to: IpAddr,
        from: NetnsId,
        inventory: &Inventory,
        namespaces: &[Netns],
        host: Option<NetnsId>,
        now: Instant,
    ) -> Option<PeerPath> {
        let first = self.ask(to, from, namespaces, now)?;
        let (mut visited, mut path) = (vec![from], first);
        loop {
            let seen = PeerPath { path, is_router: visited.len() > 1 };
            let Path::Neighbour { addr, is_gateway: true, .. } = path else {
                // Only a way that is closed further on says more than the first.
                return Some(if seen.is_closed() {
                    seen
                } else {
                    PeerPath { path: first, is_router: false }
                });
            };
            let next = router(addr, inventory, host).filter(|next| !visited.contains(next));
            let next = next.filter(|_| !seen.is_closed() && visited.len() < MOST_ROUTERS);
            match next.and_then(|next| Some((next, self.ask(to, next, namespaces, now)?))) {
                Some((next, onward)) => {
                    visited.push(next);
                    path = onward;
                }
                None if seen.is_closed() => return Some(seen),
                None => return Some(PeerPath { path: first, is_router: false }),
            }
        }
    }

    fn ask(
        &mut self,
        to: IpAddr,
        netns: NetnsId,
        namespaces: &[Netns],
        now: Instant,
    ) -> Option<Path> {
        let (since, asked) =
            self.asked.filter(|(at, _)| now.duration_since(*at) < PERIOD).unwrap_or((now, 0));
        if asked >= MOST_QUESTIONS {
            return None;
        }
        self.asked = Some((since, asked + 1));
        let netns = namespaces.iter().find(|known| known.id == netns)?.clone();
        let answer = visit(&[netns], |_| path_here(to)).ok()?.pop()?;
        answer.inspect_err(|error| debug!("the path to {to} is unknown: {error:#}")).ok()
    }
}

/// The namespace of this host that has a gateway's address. A link-local one that none has is answered
/// for by the host (`proxy_arp`, as Calico sets it); any other belongs to a router of the network.
fn router(gateway: IpAddr, inventory: &Inventory, host: Option<NetnsId>) -> Option<NetnsId> {
    let mut having = inventory.addresses.iter().filter(|(_, own)| own.contains(&gateway));
    match (having.next(), having.next()) {
        (Some((netns, _)), None) => Some(*netns),
        _ => host.filter(|_| is_link_local(gateway)),
    }
}

fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_gateway_of_this_host_is_a_namespace_of_it() {
        let (bridge, other) = (IpAddr::from([172, 17, 0, 1]), IpAddr::from([10, 0, 0, 1]));
        let addresses = [(NetnsId(1), BTreeSet::from([bridge]))].into();
        let inventory = Inventory { addresses, ..Inventory::default() };
        assert_eq!(router(bridge, &inventory, None), Some(NetnsId(1)));
        assert_eq!(router(other, &inventory, None), None);
        assert_eq!(router(other, &inventory, Some(NetnsId(9))), None);
        let of_calico = IpAddr::from([169, 254, 1, 1]);
        assert_eq!(router(of_calico, &inventory, Some(NetnsId(9))), Some(NetnsId(9)));
    }

    #[test]
    fn questions_are_bounded() {
        let (mut paths, inventory) = (Paths::default(), Inventory::default());
        for n in 0..=255 {
            paths.of([10, 0, 0, n].into(), NetnsId(1), &inventory, &[], None);
        }
        assert!(paths.asked.is_some_and(|(_, asked)| asked <= MOST_QUESTIONS));
    }
}
