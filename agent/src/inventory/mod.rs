//! Who owns what: the listeners of every network namespace with their queues, limits and owners,
//! and which of them an upstream address leads to.

mod listener;
mod owners;

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fs,
    net::{IpAddr, SocketAddr},
};

use anyhow::Result;
pub use listener::{Listener, Owner};
use log::warn;
use nix::ifaddrs::getifaddrs;

use crate::kernel::{
    ListenerId, NetnsId,
    netns::{Netns, visit},
    sock_diag::{ListenSocket, listeners_here},
};

/// The listeners of this host as last swept.
#[derive(Debug, Default)]
pub struct Inventory {
    listeners: BTreeMap<ListenerId, Listener>,
    addresses: BTreeMap<NetnsId, BTreeSet<IpAddr>>,
}

/// What a look into one namespace yields.
struct Sight {
    sockets: Result<Vec<ListenSocket>>,
    somaxconn: Option<u32>,
    addresses: BTreeSet<IpAddr>,
}

impl Inventory {
    /// Looks into every one of `namespaces`. Owners already known for a socket are kept, and a pass
    /// over `/proc` is made only when there is a socket without: so give `anew` now and then, since
    /// a socket can change hands.
    ///
    /// # Errors
    ///
    /// When the namespaces cannot be visited at all.
    pub fn sweep(&mut self, namespaces: &[Netns], anew: bool) -> Result<()> {
        let mut listeners = BTreeMap::new();
        self.addresses.clear();
        let sights = visit(namespaces, |netns| (netns.clone(), look_around()))?;
        for (netns, sight) in sights {
            self.addresses.insert(netns.id, sight.addresses);
            let sockets = sight.sockets.unwrap_or_else(|error| {
                warn!("listeners of network namespace {} unknown: {error:#}", netns.name);
                Vec::new()
            });
            for socket in sockets {
                let id = ListenerId { netns: netns.id, addr: socket.addr, inode: socket.inode };
                let listener = Listener {
                    id,
                    netns_name: netns.name.clone(),
                    queue: socket.queue,
                    somaxconn: sight.somaxconn,
                    v6_only: socket.v6_only,
                    owners: Vec::new(),
                };
                listeners.insert(id, listener);
            }
        }
        let before = std::mem::replace(&mut self.listeners, listeners);
        self.find_owners(&before, anew);
        Ok(())
    }

    /// All listeners.
    pub fn listeners(&self) -> impl Iterator<Item = &Listener> {
        self.listeners.values()
    }

    /// A listener by its identity.
    pub fn get(&self, id: &ListenerId) -> Option<&Listener> {
        self.listeners.get(id)
    }

    /// The listeners that may take a connection to `addr`: in the namespaces that have the address,
    /// bound to it, or else to a wildcard. A loopback address is everywhere; it means the namespace
    /// of whoever connects, `from`, where that is known.
    pub fn candidates(&self, addr: SocketAddr, from: Option<NetnsId>) -> Vec<&Listener> {
        let ip = addr.ip().to_canonical();
        let home = from.filter(|_| ip.is_loopback());
        let mut found = Vec::new();
        for netns in self.addresses.iter().filter(|(_, own)| ip.is_loopback() || own.contains(&ip))
        {
            let netns = *netns.0;
            if home.is_some_and(|home| home != netns) {
                continue;
            }
            let here = || self.listeners.values().filter(move |l| l.id.netns == netns);
            let port = addr.port();
            let exact: Vec<&Listener> = here()
                .filter(|l| l.id.addr.port() == port && l.id.addr.ip().to_canonical() == ip)
                .collect();
            match exact.is_empty() {
                false => found.extend(exact),
                true => found.extend(here().filter(|l| l.id.addr.port() == port && catches(l, ip))),
            }
        }
        found
    }

    fn find_owners(&mut self, before: &BTreeMap<ListenerId, Listener>, anew: bool) {
        if !anew {
            for (id, listener) in &mut self.listeners {
                if let Some(known) = before.get(id) {
                    listener.owners.clone_from(&known.owners);
                }
            }
        }
        let ownerless = self.listeners.values().filter(|listener| listener.owners.is_empty());
        let inodes: HashSet<u32> =
            ownerless.map(|listener| listener.id.inode).filter(|inode| *inode != 0).collect();
        let mut holders = owners::holders(&inodes);
        for (id, listener) in &mut self.listeners {
            if let Some(owners) = holders.remove(&id.inode) {
                listener.owners = owners;
            }
        }
    }
}

/// Whether a wildcard listener takes connections to `ip`.
fn catches(listener: &Listener, ip: IpAddr) -> bool {
    match listener.id.addr.ip() {
        IpAddr::V4(bound) => bound.is_unspecified() && ip.is_ipv4(),
        IpAddr::V6(bound) => bound.is_unspecified() && (ip.is_ipv6() || !listener.v6_only),
    }
}

/// Looks around in the calling thread's namespace.
fn look_around() -> Sight {
    let addresses = getifaddrs().into_iter().flatten().filter_map(|interface| {
        let storage = interface.address?;
        let v4 = storage.as_sockaddr_in().map(|addr| IpAddr::V4(addr.ip()));
        v4.or_else(|| storage.as_sockaddr_in6().map(|addr| IpAddr::V6(addr.ip())))
    });
    // /proc/sys/net shows the namespace of whoever reads it.
    let somaxconn = fs::read_to_string("/proc/sys/net/core/somaxconn").ok();
    Sight {
        sockets: listeners_here(),
        somaxconn: somaxconn.and_then(|text| text.trim().parse().ok()),
        addresses: addresses.collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::kernel::{
        QueueDepth,
        netns::{discover, of_process},
    };

    fn listener(netns: u32, addr: &str, v6_only: bool) -> Listener {
        let id =
            ListenerId { netns: NetnsId(netns), addr: addr.parse().unwrap(), inode: netns * 100 };
        Listener { v6_only, ..Listener::unknown(id, QueueDepth::default(), None) }
    }

    fn inventory(listeners: &[Listener], addresses: &[(u32, &str)]) -> Inventory {
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

    fn found(inventory: &Inventory, addr: &str, from: Option<u32>) -> Vec<u32> {
        let candidates = inventory.candidates(addr.parse().unwrap(), from.map(NetnsId));
        candidates.iter().map(|listener| listener.id.netns.0).collect()
    }

    #[test]
    fn an_address_leads_to_the_namespace_that_has_it() {
        let listeners = [listener(1, "0.0.0.0:80", false), listener(2, "10.0.0.2:80", false)];
        let inventory = inventory(&listeners, &[(1, "10.0.0.1"), (2, "10.0.0.2")]);
        assert_eq!(found(&inventory, "10.0.0.1:80", None), [1]);
        assert_eq!(found(&inventory, "10.0.0.2:80", None), [2]);
        assert!(found(&inventory, "10.0.0.3:80", None).is_empty());
        assert!(found(&inventory, "10.0.0.1:81", None).is_empty());
    }

    #[test]
    fn a_bound_address_comes_before_a_wildcard() {
        let mut bound = listener(1, "10.0.0.1:80", false);
        bound.id.inode = 7;
        let listeners = [listener(1, "0.0.0.0:80", false), bound];
        let inventory = inventory(&listeners, &[(1, "10.0.0.1"), (1, "10.0.0.9")]);
        let addr = "10.0.0.1:80".parse().unwrap();
        let inodes: Vec<u32> =
            inventory.candidates(addr, None).iter().map(|listener| listener.id.inode).collect();
        assert_eq!(inodes, [7]);
        assert_eq!(found(&inventory, "10.0.0.9:80", None), [1]);
    }

    #[test]
    fn a_dual_stack_wildcard_takes_ipv4_and_an_ipv6_only_one_does_not() {
        let own = [(1, "10.0.0.1"), (2, "10.0.0.2"), (2, "fd00::2")];
        let listeners = [listener(1, "[::]:80", false), listener(2, "[::]:80", true)];
        let inventory = inventory(&listeners, &own);
        assert_eq!(found(&inventory, "10.0.0.1:80", None), [1]);
        assert!(found(&inventory, "10.0.0.2:80", None).is_empty());
        assert_eq!(found(&inventory, "[fd00::2]:80", None), [2]);
    }

    #[test]
    fn loopback_means_the_proxys_own_namespace() {
        let listeners = [listener(1, "127.0.0.1:80", false), listener(2, "0.0.0.0:80", false)];
        let inventory = inventory(&listeners, &[(1, "127.0.0.1"), (2, "127.0.0.1")]);
        assert_eq!(found(&inventory, "127.0.0.1:80", Some(2)), [2]);
        assert_eq!(found(&inventory, "127.0.0.1:80", None), [1, 2]);
    }

    #[test]
    fn a_sweep_finds_this_process_behind_its_listener() {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let own = of_process(std::process::id()).unwrap();
        let here: Vec<Netns> =
            discover().unwrap().into_iter().filter(|netns| netns.id == own).collect();
        let mut inventory = Inventory::default();
        inventory.sweep(&here, true).unwrap();
        let candidates = inventory.candidates(socket.local_addr().unwrap(), Some(own));
        assert_eq!(candidates.len(), 1);
        assert!(candidates[0].owners.iter().any(|owner| owner.pid == std::process::id()));
        assert!(candidates[0].somaxconn.is_some());
    }
}
