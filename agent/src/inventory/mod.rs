//! Who owns what: the listeners of every network namespace with their queues, limits and owners,
//! and which of them an upstream address leads to.
//!
//! Sweep now and then, refresh the queues in between, ask whenever you like:
//!
//! ```no_run
//! use floodmark::{
//!     inventory::{Inventory, Queues},
//!     kernel::netns::discover,
//! };
//!
//! let mut inventory = Inventory::default();
//! let namespaces = discover()?;
//! inventory.sweep(&namespaces, true)?;
//! inventory.enter_queues(Queues::of(&namespaces, &inventory.queues_to_look_at())?);
//! for listener in inventory.candidates("10.0.0.1:8000".parse()?, None) {
//!     println!("{} {:?} {:?}", listener.id.addr, listener.queue, listener.owners);
//! }
//! # anyhow::Ok(())
//! ```

mod attempt;
mod backlog;
mod candidates;
mod connections;
mod cri;
mod depth;
mod elf;
mod facts;
mod forwarder;
mod kubelet;
mod limits;
mod listener;
mod mirror;
mod names;
mod owners;
mod paths;
pub mod peers;
mod refresh;
mod routes;
mod server;
mod sight;
pub(crate) mod socket_unit;
mod sweep;
mod told;
mod unix;
mod view;
mod workload;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

pub use backlog::{Backlog, LimitedBy};
pub use connections::Destination;
pub use depth::{Depth, Kept};
pub use elf::is_go;
pub use facts::{Found, Lookups, OwnerSearch};
use floodmark_common::queue::ListenCall;
pub use limits::{LeftOut, Limits};
pub use listener::{Listener, Owner, Owners, UnixListener};
pub use mirror::{Changes, InventoryChanges, QueueState};
pub use paths::Paths;
pub use routes::Routes;
use serde::{Deserialize, Serialize};
pub use server::Server;
pub use sight::{Counted, Queues, QueuesWanted, Sweep};
pub use socket_unit::SocketUnit;
use socket_unit::SocketUnits;
pub use told::{HostId, Told, ToldListener};
pub use unix::DesertedPath;
pub use view::{Trouble, View};
pub use workload::{Container, Pod, Runtime, Workload};

use crate::kernel::{ListenerId, NetnsId, QueueDepth, settings::NetnsSettings};

/// Calls of `listen(2)` by namespace and inode of the socket.
type ListenCalls = HashMap<(NetnsId, u32), ListenCall>;

/// The listeners of this host as last swept.
#[derive(Debug, Default)]
pub struct Inventory {
    listeners: BTreeMap<ListenerId, Listener>,
    unix_listeners: BTreeMap<(NetnsId, u32), UnixListener>,
    /// Paths at which Unix connects found nobody, busiest first.
    deserted: Vec<DesertedPath>,
    namespaces: BTreeMap<NetnsId, Namespace>,
    /// Local addresses of every namespace that was looked into.
    addresses: BTreeMap<NetnsId, BTreeSet<IpAddr>>,
    /// The host of each namespace that another host told of; empty where all are this host's.
    hosts: BTreeMap<NetnsId, HostId>,
    /// Where this host connects to, busiest first.
    destinations: Vec<Destination>,
    /// What was seen of `listen(2)`.
    listen_calls: ListenCalls,
    socket_units: SocketUnits,
    /// What there is on the host beyond the limits.
    left_out: LeftOut,
    /// Whether it has been said that there is such.
    has_said_left_out: bool,
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
    /// A file to enter it by (`nsenter --net=FILE`); none where it is the agent's own.
    #[serde(default)]
    pub entrance: Option<String>,
}

impl Inventory {
    /// All listeners, by namespace, address and port.
    pub fn listeners(&self) -> impl Iterator<Item = &Listener> {
        self.listeners.values()
    }

    /// The listeners of one namespace.
    pub fn listeners_in(&self, netns: NetnsId) -> impl Iterator<Item = &Listener> {
        let addr = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let from = self.listeners.range(ListenerId { netns, addr, inode: 0 }..);
        from.map(|(_, listener)| listener).take_while(move |listener| listener.id.netns == netns)
    }

    /// Whether the address is one of the namespace's.
    pub fn has_address(&self, netns: NetnsId, ip: IpAddr) -> bool {
        self.addresses.get(&netns).is_some_and(|own| own.contains(&ip.to_canonical()))
    }

    /// TCP listeners in the inventory; Unix listeners are not counted.
    pub fn count_listeners(&self) -> usize {
        self.listeners.len()
    }

    /// The accept queues in which any connection waits.
    pub fn waiting(&self) -> impl Iterator<Item = ((NetnsId, SocketAddr), QueueDepth)> {
        let waiting = self.listeners().filter(|listener| listener.queue.len > 0);
        waiting.map(|listener| ((listener.id.netns, listener.id.addr), listener.queue))
    }

    /// All listening Unix sockets, by namespace and inode.
    pub fn unix_listeners(&self) -> impl Iterator<Item = &UnixListener> {
        self.unix_listeners.values()
    }

    /// All namespaces looked into.
    pub fn namespaces(&self) -> &BTreeMap<NetnsId, Namespace> {
        &self.namespaces
    }

    /// The namespaces in which a full accept queue answers by a reset (`tcp_abort_on_overflow`).
    pub fn aborting(&self) -> BTreeSet<NetnsId> {
        let aborts =
            |settings: &NetnsSettings| settings.abort_on_overflow.is_some_and(|on| on != 0);
        let namespaces = self.namespaces.iter();
        namespaces.filter(|(_, netns)| aborts(&netns.settings)).map(|(id, _)| *id).collect()
    }

    /// What there is on the host beyond the limits.
    pub fn left_out(&self) -> LeftOut {
        self.left_out
    }

    /// A listener by its identity.
    pub fn get(&self, id: &ListenerId) -> Option<&Listener> {
        self.listeners.get(id)
    }

    /// Takes in what was seen of `listen(2)`; the next sweep goes by it.
    pub fn heard_of_listens(&mut self, calls: HashMap<(NetnsId, u32), ListenCall>) {
        self.listen_calls = calls;
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::kernel::netns::{Netns, discover, of_process};

    /// The namespace of this process, and an inventory of it.
    pub(super) fn own() -> (Vec<Netns>, Inventory) {
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
}
