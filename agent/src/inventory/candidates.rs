//! Which listeners an upstream address leads to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{Inventory, Listener};
use crate::kernel::{ListenerId, NetnsId};

/// How a listener comes to take a connection; within a namespace the first kind that is there takes
/// it. kernel: net/ipv4/inet_hashtables.c `__inet_lookup_listener` looks for the address before the
/// wildcard, and its `compute_score` prefers an IPv4 socket for IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Claim {
    /// Bound to the address.
    Address,
    /// Bound to the wildcard of the address's own family.
    Wildcard,
    /// An IPv6 wildcard that takes IPv4 too.
    DualStack,
}

impl Inventory {
    /// The listeners that take a connection to `addr` made from the namespace `from`, where that is
    /// known: more than one for a SO_REUSEPORT group, and where several namespaces have the address.
    /// None where `addr` belongs to no namespace of this host, as a virtual address that is
    /// translated on the way does.
    ///
    /// An address that `from` has itself never leaves it (the `local` routing table comes first), as
    /// a loopback address never does. One that another namespace of its host has never leaves that.
    pub fn candidates(&self, addr: SocketAddr, from: Option<NetnsId>) -> Vec<&Listener> {
        let ip = addr.ip().to_canonical();
        let is_local = |netns: &NetnsId| {
            ip.is_loopback() || self.addresses.get(netns).is_some_and(|own| own.contains(&ip))
        };
        let home = from.filter(is_local);
        let reached = |netns: &&NetnsId| home.is_none_or(|home| home == **netns);
        let having = || self.addresses.keys().filter(|netns| is_local(netns)).filter(reached);
        let host = from.and_then(|from| self.hosts.get(&from));
        let neighbour = |netns: &&NetnsId| host.is_some() && self.hosts.get(netns) == host;
        let stays = having().any(|netns| neighbour(&netns));
        let namespaces = having().filter(|netns| !stays || neighbour(netns));
        namespaces.flat_map(|netns| self.takers(*netns, ip, addr.port())).collect()
    }

    /// Who an address leads to that a connection was seen to have: a listener bound to it, or else to
    /// every address. On the lowest rung the kernel shows the connection's own address.
    pub fn bound_for(&self, id: ListenerId) -> ListenerId {
        let port = id.addr.port();
        let v4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
        let v6 = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        let wildcards: &[SocketAddr] = if id.addr.is_ipv4() { &[v4, v6] } else { &[v6] };
        let at = |addr: &SocketAddr| ListenerId { addr: *addr, ..id };
        let listens = |id: &ListenerId| self.at(id.netns, id.addr).next().is_some();
        std::iter::once(id).chain(wildcards.iter().map(at)).find(listens).unwrap_or(id)
    }

    pub(super) fn takers(&self, netns: NetnsId, ip: IpAddr, port: u16) -> Vec<&Listener> {
        let claims: Vec<(Claim, &Listener)> = bound_to(ip)
            .into_iter()
            .flat_map(|bound| self.at(netns, SocketAddr::new(bound, port)))
            .filter_map(|listener| Some((claim(listener, ip)?, listener)))
            .collect();
        let best = claims.iter().map(|(claim, _)| *claim).min();
        claims.into_iter().filter(|(claim, _)| Some(*claim) == best).map(|(_, l)| l).collect()
    }

    /// The listeners bound to an address: more than one in a SO_REUSEPORT group.
    fn at(&self, netns: NetnsId, addr: SocketAddr) -> impl Iterator<Item = &Listener> {
        let of = |inode| ListenerId { netns, addr, inode };
        self.listeners.range(of(0)..=of(u32::MAX)).map(|(_, listener)| listener)
    }
}

/// What a listener may be bound to that takes a connection to `ip`.
fn bound_to(ip: IpAddr) -> Vec<IpAddr> {
    let (any, any_v6) = (Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into());
    let mut addrs = vec![ip, any, any_v6];
    if let IpAddr::V4(ip) = ip {
        addrs.extend([ip, Ipv4Addr::UNSPECIFIED].map(|ip| IpAddr::V6(ip.to_ipv6_mapped())));
    }
    addrs.sort_unstable();
    addrs.dedup();
    addrs
}

fn claim(listener: &Listener, ip: IpAddr) -> Option<Claim> {
    let bound = listener.id.addr.ip().to_canonical();
    if bound == ip {
        return Some(Claim::Address);
    }
    match (bound.is_unspecified(), bound.is_ipv4() == ip.is_ipv4()) {
        (true, true) => Some(Claim::Wildcard),
        (true, false) if ip.is_ipv4() && !listener.v6_only => Some(Claim::DualStack),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::QueueDepth;

    #[test]
    fn a_connections_address_leads_to_the_listener_for_it_or_for_all() {
        let mut inventory = Inventory::default();
        for listener in
            [listener(1, "0.0.0.0:80", 5), listener(1, "10.0.0.1:80", 6), listener(1, "[::]:81", 7)]
        {
            inventory.listeners.insert(listener.id, listener);
        }
        let led = |addr: &str| {
            let id = ListenerId { netns: NetnsId(1), addr: addr.parse().unwrap(), inode: 0 };
            inventory.bound_for(id).addr.to_string()
        };
        assert_eq!(led("10.0.0.1:80"), "10.0.0.1:80");
        assert_eq!(led("10.0.0.2:80"), "0.0.0.0:80");
        assert_eq!(led("10.0.0.2:81"), "[::]:81");
        assert_eq!(led("10.0.0.2:82"), "10.0.0.2:82");
    }

    fn listener(netns: u64, addr: &str, inode: u32) -> Listener {
        let id = ListenerId { netns: NetnsId(netns), addr: addr.parse().unwrap(), inode };
        Listener::unknown(id, QueueDepth::default(), None)
    }

    fn inventory(listeners: &[Listener], addresses: &[(u64, &str)]) -> Inventory {
        let mut inventory = Inventory::default();
        for listener in listeners {
            inventory.listeners.insert(listener.id, listener.clone());
        }
        for (netns, addr) in addresses {
            let own = inventory.addresses.entry(NetnsId(*netns)).or_default();
            own.insert(addr.parse().unwrap());
        }
        inventory
    }

    /// Inodes of the candidates.
    fn found(inventory: &Inventory, addr: &str, from: Option<u64>) -> Vec<u32> {
        let candidates = inventory.candidates(addr.parse().unwrap(), from.map(NetnsId));
        candidates.iter().map(|listener| listener.id.inode).collect()
    }

    #[test]
    fn an_address_leads_to_the_namespace_that_has_it() {
        let listeners = [listener(1, "0.0.0.0:80", 1), listener(2, "10.0.0.2:80", 2)];
        let inventory = inventory(&listeners, &[(1, "10.0.0.1"), (2, "10.0.0.2")]);
        assert_eq!(found(&inventory, "10.0.0.1:80", None), [1]);
        assert_eq!(found(&inventory, "10.0.0.2:80", Some(1)), [2]);
        assert_eq!(found(&inventory, "[::ffff:10.0.0.2]:80", None), [2]);
        assert!(found(&inventory, "10.0.0.3:80", None).is_empty());
        assert!(found(&inventory, "10.0.0.1:81", None).is_empty());
    }

    /// Container networks give the same address out again and again.
    #[test]
    fn an_address_that_the_caller_has_itself_stays_there() {
        let listeners = [listener(1, "0.0.0.0:80", 1), listener(2, "0.0.0.0:80", 2)];
        let inventory = inventory(&listeners, &[(1, "10.0.0.1"), (2, "10.0.0.1"), (3, "10.0.0.3")]);
        assert_eq!(found(&inventory, "10.0.0.1:80", Some(2)), [2]);
        assert_eq!(found(&inventory, "10.0.0.1:80", Some(3)), [1, 2]);
        assert_eq!(found(&inventory, "10.0.0.1:80", None), [1, 2]);
    }

    #[test]
    fn a_bound_address_comes_before_a_wildcard_and_ipv4_before_dual_stack() {
        let own = [(1, "10.0.0.1"), (1, "10.0.0.9"), (1, "fd00::1")];
        let all = [
            listener(1, "[::]:80", 3),
            listener(1, "0.0.0.0:80", 2),
            listener(1, "10.0.0.1:80", 1),
        ];
        assert_eq!(found(&inventory(&all, &own), "10.0.0.1:80", None), [1]);
        assert_eq!(found(&inventory(&all, &own), "10.0.0.9:80", None), [2]);
        assert_eq!(found(&inventory(&all, &own), "[fd00::1]:80", None), [3]);
        assert_eq!(found(&inventory(&all[..1], &own), "10.0.0.9:80", None), [3]);
    }

    #[test]
    fn an_ipv6_only_wildcard_leaves_ipv4_alone() {
        let only = Listener { v6_only: true, ..listener(2, "[::]:80", 2) };
        let inventory = inventory(&[only], &[(2, "10.0.0.2"), (2, "fd00::2")]);
        assert!(found(&inventory, "10.0.0.2:80", None).is_empty());
        assert_eq!(found(&inventory, "[fd00::2]:80", None), [2]);
    }

    #[test]
    fn all_members_of_a_reuseport_group_are_candidates() {
        let group = [listener(1, "10.0.0.1:80", 1), listener(1, "10.0.0.1:80", 2)];
        assert_eq!(found(&inventory(&group, &[(1, "10.0.0.1")]), "10.0.0.1:80", None), [1, 2]);
    }

    #[test]
    fn loopback_means_the_callers_own_namespace() {
        let listeners = [listener(1, "127.0.0.1:80", 1), listener(2, "0.0.0.0:80", 2)];
        let inventory = inventory(&listeners, &[(1, "127.0.0.1"), (2, "127.0.0.1")]);
        assert_eq!(found(&inventory, "127.0.0.1:80", Some(2)), [2]);
        assert_eq!(found(&inventory, "127.0.0.1:80", None), [1, 2]);
        // The caller's namespace is not one that was looked into: nobody else is accused.
        assert!(found(&inventory, "127.0.0.1:80", Some(3)).is_empty());
    }
}
