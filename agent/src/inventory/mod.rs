//! Who owns what: the listeners of every network namespace with their queues, limits and owners,
//! and which of them an upstream address leads to.
//!
//! Sweep now and then, refresh the queues in between, ask whenever you like:
//!
//! ```no_run
//! use floodmark::{inventory::Inventory, kernel::netns::discover};
//!
//! let mut inventory = Inventory::default();
//! let namespaces = discover()?;
//! inventory.sweep(&namespaces, true)?;
//! inventory.refresh_queues(&namespaces)?;
//! for listener in inventory.candidates("10.0.0.1:8000".parse()?, None) {
//!     println!("{} {:?} {:?}", listener.id.addr, listener.queue, listener.owners);
//! }
//! # anyhow::Ok(())
//! ```

mod candidates;
mod listener;
mod owners;
mod settings;

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fs, mem,
    net::IpAddr,
};

use anyhow::Result;
pub use listener::{Listener, Owner};
use log::warn;
use nix::ifaddrs::getifaddrs;
pub use settings::aborting;

use crate::kernel::{
    ListenerId, NetnsId,
    netns::{Netns, visit},
    sock_diag::{ListenSocket, listeners_here},
};

/// The listeners of this host as last swept.
#[derive(Debug, Default)]
pub struct Inventory {
    listeners: BTreeMap<ListenerId, Listener>,
    /// Local addresses of every namespace that was looked into.
    addresses: BTreeMap<NetnsId, BTreeSet<IpAddr>>,
    /// Namespaces that would not list their listeners, which has been said.
    unlisted: BTreeSet<NetnsId>,
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
    /// A namespace or process that goes away meanwhile is left out. Where the kernel will not list
    /// listeners, that is logged once for each namespace.
    ///
    /// # Errors
    ///
    /// When the namespaces cannot be visited at all; what was known before stays.
    pub fn sweep(&mut self, namespaces: &[Netns], anew: bool) -> Result<()> {
        let sights = visit(namespaces, |netns| (netns.clone(), look_around()))?;
        let before = mem::take(&mut self.listeners);
        self.addresses.clear();
        let silent = mem::take(&mut self.unlisted);
        for (netns, sight) in sights {
            match sight.sockets {
                Ok(sockets) => self.enter(&netns, &sockets, sight.somaxconn),
                Err(error) => {
                    if !silent.contains(&netns.id) {
                        warn!("listeners of network namespace {} unknown: {error:#}", netns.name);
                    }
                    self.unlisted.insert(netns.id);
                }
            }
            self.addresses.insert(netns.id, sight.addresses);
        }
        self.find_owners(&before, anew);
        Ok(())
    }

    /// Looks again only at the queues and drop counters of the listeners already known: cheap enough
    /// for every tick. One that has closed keeps its last state until the next sweep.
    ///
    /// # Errors
    ///
    /// When the namespaces cannot be visited at all.
    pub fn refresh_queues(&mut self, namespaces: &[Netns]) -> Result<()> {
        // That a namespace does not list its listeners has been said by the sweep.
        let looks = visit(namespaces, |netns| (netns.id, listeners_here().unwrap_or_default()))?;
        for (netns, sockets) in looks {
            for socket in sockets {
                if let Some(listener) = self.listeners.get_mut(&socket.id(netns)) {
                    listener.queue = socket.queue;
                    listener.drops = socket.drops;
                }
            }
        }
        Ok(())
    }

    /// All listeners, by namespace, address and port.
    pub fn listeners(&self) -> impl Iterator<Item = &Listener> {
        self.listeners.values()
    }

    /// A listener by its identity.
    pub fn get(&self, id: &ListenerId) -> Option<&Listener> {
        self.listeners.get(id)
    }

    fn enter(&mut self, netns: &Netns, sockets: &[ListenSocket], somaxconn: Option<u32>) {
        for socket in sockets {
            let id = socket.id(netns.id);
            let listener = Listener {
                id,
                netns_name: netns.name.clone(),
                queue: socket.queue,
                drops: socket.drops,
                somaxconn,
                v6_only: socket.v6_only,
                owners: Vec::new(),
            };
            self.listeners.insert(id, listener);
        }
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
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use crate::kernel::netns::{discover, of_process};

    /// The namespace of this process, and an inventory of it.
    fn own() -> (Vec<Netns>, Inventory) {
        let own = of_process(std::process::id()).unwrap();
        let here: Vec<Netns> =
            discover().unwrap().into_iter().filter(|netns| netns.id == own).collect();
        let mut inventory = Inventory::default();
        inventory.sweep(&here, true).unwrap();
        (here, inventory)
    }

    #[test]
    fn a_sweep_finds_this_process_behind_its_listener() {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let (here, inventory) = own();
        let candidates = inventory.candidates(socket.local_addr().unwrap(), Some(here[0].id));
        assert_eq!(candidates.len(), 1);
        assert!(candidates[0].owners.iter().any(|owner| owner.pid == std::process::id()));
        assert!(candidates[0].somaxconn.is_some());
    }

    #[test]
    fn a_refresh_sees_the_queue_and_keeps_the_rest() {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let (here, mut inventory) = own();
        let addr = socket.local_addr().unwrap();
        let before = inventory.candidates(addr, None)[0].clone();
        let _waiting = TcpStream::connect(addr).unwrap();
        inventory.refresh_queues(&here).unwrap();
        let after = inventory.get(&before.id).unwrap();
        assert_eq!((before.queue.len, after.queue.len), (0, 1));
        assert_eq!(after.owners, before.owners);
        assert!(inventory.get(&ListenerId { inode: 1, ..before.id }).is_none());
    }
}
