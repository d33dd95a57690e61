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
mod connections;
mod cri;
mod depth;
mod kubelet;
mod listener;
mod names;
mod owners;
pub mod peers;
mod sight;
mod view;
mod workload;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    mem,
    net::IpAddr,
};

use anyhow::Result;
pub use connections::Destination;
use floodmark_common::queue::ListenCall;
pub use listener::{Backlog, Depth, Kept, LimitedBy, Listener, Owner, UnixListener};
use log::{info, warn};
use names::Names;
use serde::{Deserialize, Serialize};
use sight::Sight;
pub use view::{Trouble, View};
pub use workload::{Container, Pod, Runtime, Workload};

use crate::kernel::{
    ListenerId, NetnsId,
    netns::{Netns, visit},
    settings::NetnsSettings,
    sock_diag::{ListenSocket, listeners_here},
    unix_diag::{UnixListenSocket, unix_listeners_here},
};

/// Calls of `listen(2)` by namespace and inode of the socket.
type ListenCalls = HashMap<(NetnsId, u32), ListenCall>;

/// The listeners of this host as last swept.
#[derive(Debug, Default)]
pub struct Inventory {
    listeners: BTreeMap<ListenerId, Listener>,
    unix_listeners: BTreeMap<(NetnsId, u32), UnixListener>,
    namespaces: BTreeMap<NetnsId, Namespace>,
    /// Local addresses of every namespace that was looked into.
    addresses: BTreeMap<NetnsId, BTreeSet<IpAddr>>,
    /// Where this host connects to, busiest first.
    destinations: Vec<Destination>,
    /// What was seen of `listen(2)`.
    listen_calls: ListenCalls,
    names: Names,
    /// Inodes of sockets that the last sweep found, and the one before did not.
    fresh: HashSet<u32>,
    /// Namespaces that would not list their listeners, which has been said.
    unlisted: BTreeSet<(NetnsId, &'static str)>,
}

/// A network namespace as last swept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespace {
    /// Its name under `/run/netns`, or `net:[N]`.
    pub name: String,
    /// What limits its queues and ports.
    pub settings: NetnsSettings,
    /// Its sockets in TIME_WAIT.
    pub time_wait: Option<u32>,
}

impl Inventory {
    /// Looks into every one of `namespaces`. Owners are looked up for new sockets only, for which it
    /// takes a pass over `/proc`: so give `anew` now and then, since a socket can change hands.
    ///
    /// A namespace or process that goes away meanwhile is left out. Where the kernel will not list
    /// listeners, that is logged once for each namespace.
    ///
    /// # Errors
    ///
    /// When the namespaces cannot be visited at all; what was known before stays.
    pub fn sweep(&mut self, namespaces: &[Netns], anew: bool) -> Result<()> {
        let sights = visit(namespaces, |netns| (netns.clone(), Sight::here()))?;
        let before = mem::take(&mut self.listeners);
        let unix_before = mem::take(&mut self.unix_listeners);
        let silent = mem::take(&mut self.unlisted);
        self.addresses.clear();
        self.namespaces.clear();
        for (netns, sight) in sights {
            let Sight { sockets, unix_sockets, settings, time_wait, addresses } = sight;
            match sockets {
                Ok(sockets) => self.enter(&netns, &sockets, settings.somaxconn, &before),
                Err(error) => self.say_unlisted(&netns, "TCP", &silent, &error),
            }
            match unix_sockets {
                Ok(sockets) => self.enter_unix(&netns, sockets, &unix_before),
                Err(error) => self.say_unlisted(&netns, "Unix", &silent, &error),
            }
            self.addresses.insert(netns.id, addresses);
            self.namespaces.insert(netns.id, Namespace { name: netns.name, settings, time_wait });
        }
        self.count_groups();
        self.find_owners(anew);
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
        let looks = visit(namespaces, |netns| {
            let unix = unix_listeners_here().unwrap_or_default();
            (netns.id, listeners_here().unwrap_or_default(), unix)
        })?;
        for (netns, sockets, unix_sockets) in looks {
            for socket in sockets {
                if let Some(listener) = self.listeners.get_mut(&socket.id(netns)) {
                    listener.limit_changes += u32::from(listener.queue.limit != socket.queue.limit);
                    listener.queue = socket.queue;
                    listener.drops = socket.drops;
                }
            }
            for socket in unix_sockets {
                if let Some(listener) = self.unix_listeners.get_mut(&(netns, socket.inode)) {
                    listener.queue = socket.queue;
                }
            }
        }
        Ok(())
    }

    /// All listeners, by namespace, address and port.
    pub fn listeners(&self) -> impl Iterator<Item = &Listener> {
        self.listeners.values()
    }

    /// All listening Unix sockets, by namespace and inode.
    pub fn unix_listeners(&self) -> impl Iterator<Item = &UnixListener> {
        self.unix_listeners.values()
    }

    /// All namespaces looked into.
    pub fn namespaces(&self) -> &BTreeMap<NetnsId, Namespace> {
        &self.namespaces
    }

    /// A listener by its identity.
    pub fn get(&self, id: &ListenerId) -> Option<&Listener> {
        self.listeners.get(id)
    }

    /// Takes in what was seen of `listen(2)`; the next sweep goes by it.
    pub fn heard_of_listens(&mut self, calls: HashMap<(NetnsId, u32), ListenCall>) {
        self.listen_calls = calls;
    }

    fn enter(
        &mut self,
        netns: &Netns,
        sockets: &[ListenSocket],
        somaxconn: Option<u32>,
        before: &BTreeMap<ListenerId, Listener>,
    ) {
        for socket in sockets {
            let id = socket.id(netns.id);
            let call = self.listen_calls.get(&(netns.id, socket.inode));
            let mut listener = Listener {
                cookie: socket.cookie,
                drops: socket.drops,
                somaxconn,
                backlog: Backlog::of(socket.queue.limit, call, somaxconn),
                v6_only: socket.v6_only,
                ..Listener::unknown(id, socket.queue, Some(netns.name.clone()))
            };
            // The inode of a socket that has closed may come again; its cookie never does.
            if let Some(known) = before.get(&id).filter(|known| known.cookie == socket.cookie) {
                listener.carry_on(known);
            } else {
                self.fresh.insert(socket.inode);
            }
            self.listeners.insert(id, listener);
        }
    }

    fn enter_unix(
        &mut self,
        netns: &Netns,
        sockets: Vec<UnixListenSocket>,
        before: &BTreeMap<(NetnsId, u32), UnixListener>,
    ) {
        for UnixListenSocket { path, inode, queue } in sockets {
            let key = (netns.id, inode);
            let known = before.get(&key).filter(|known| known.path == path);
            if known.is_none() {
                self.fresh.insert(inode);
            }
            let listener = UnixListener {
                netns: netns.id,
                netns_name: netns.name.clone(),
                path,
                inode,
                queue,
                refused: known.and_then(|known| known.refused),
                owners: known.map(|known| known.owners.clone()).unwrap_or_default(),
            };
            self.unix_listeners.insert(key, listener);
        }
    }

    fn say_unlisted(
        &mut self,
        netns: &Netns,
        what: &'static str,
        silent: &BTreeSet<(NetnsId, &'static str)>,
        error: &anyhow::Error,
    ) {
        if !silent.contains(&(netns.id, what)) {
            warn!("{what} listeners of network namespace {} unknown: {error:#}", netns.name);
        }
        self.unlisted.insert((netns.id, what));
    }

    fn count_groups(&mut self) {
        let mut groups: HashMap<_, u32> = HashMap::new();
        for id in self.listeners.keys() {
            *groups.entry((id.netns, id.addr)).or_default() += 1;
        }
        for (id, listener) in &mut self.listeners {
            listener.group = groups[&(id.netns, id.addr)];
        }
    }

    fn find_owners(&mut self, anew: bool) {
        let mut inodes = mem::take(&mut self.fresh);
        if anew {
            inodes.extend(self.listeners.keys().map(|id| id.inode));
            inodes.extend(self.unix_listeners.keys().map(|(_, inode)| *inode));
        }
        inodes.remove(&0);
        let mut holders = owners::holders(&inodes);
        for owner in holders.values_mut().flatten() {
            self.names.fill(&mut owner.workload);
        }
        let tcp = self.listeners.values_mut().map(|l| (l.id.inode, &mut l.owners));
        let unix = self.unix_listeners.values_mut().map(|l| (l.inode, &mut l.owners));
        for (inode, owners) in tcp.chain(unix).filter(|(inode, _)| inodes.contains(inode)) {
            // A socket that nobody holds any more has no owner, rather than its last one.
            *owners = holders.remove(&inode).unwrap_or_default();
        }
    }
}

impl Listener {
    /// Keeps what a sweep does not see.
    fn carry_on(&mut self, known: &Self) {
        self.owners.clone_from(&known.owners);
        self.depth = known.depth;
        self.syn_queue = known.syn_queue;
        self.limit_changes = known.limit_changes;
        if known.queue.limit != self.queue.limit {
            self.limit_changes += 1;
            let (addr, netns) = (self.id.addr, &self.netns_name);
            let (old, new) = (known.queue.limit, self.queue.limit);
            info!("{addr} in {netns} listens anew: its queue takes {new} now, and took {old}");
        }
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
