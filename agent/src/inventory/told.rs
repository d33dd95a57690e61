//! Namespaces as one host tells another of them: what it takes to find the listener behind an
//! address there.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

use serde::{Deserialize, Serialize};

use super::{Inventory, Listener, Namespace};
use crate::kernel::{ListenerId, NetnsId, QueueDepth};

/// Listeners told of in one namespace, the lowest ports first; of more, the number is told.
const MOST: usize = 4000;

/// A host, among those that tell each other; the default is the one that this process is on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostId(pub u32);

/// A namespace that is told of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// The namespace's number on its host.
    pub netns: NetnsId,
    /// The name under `/run/netns`, or `net:[N]`.
    pub name: String,
    /// Local addresses, by which readers find the host of an upstream.
    pub addresses: BTreeSet<IpAddr>,
    /// TCP listeners, the lowest ports first; their number is limited.
    pub listeners: Vec<ToldListener>,
    /// Listeners left out.
    #[serde(default)]
    pub left_out: usize,
}

/// A TCP listener as other hosts need it: without owner and queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToldListener {
    /// Local address and port as bound.
    pub addr: SocketAddr,
    /// Inode of the socket.
    pub inode: u32,
    /// Whether an IPv6 wildcard socket leaves IPv4 alone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub v6_only: bool,
    /// Command of the first process that holds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
}

impl Inventory {
    /// What to tell of every namespace.
    pub fn tell(&self) -> Vec<Told> {
        let told = |(netns, namespace): (&NetnsId, &Namespace)| {
            let mut listeners: Vec<&Listener> = self.listeners_in(*netns).collect();
            listeners.sort_by_key(|listener| listener.id.addr.port());
            Told {
                netns: *netns,
                name: namespace.name.clone(),
                addresses: self.addresses.get(netns).cloned().unwrap_or_default(),
                left_out: listeners.len().saturating_sub(MOST),
                listeners: listeners.into_iter().take(MOST).map(ToldListener::of).collect(),
            }
        };
        self.namespaces.iter().map(told).collect()
    }

    /// Takes in a namespace of `host`, in place of what was known of it.
    pub fn hear(&mut self, host: HostId, told: &Told) {
        self.forget(told.netns);
        for listener in &told.listeners {
            let id = ListenerId { netns: told.netns, addr: listener.addr, inode: listener.inode };
            let unknown = Listener::unknown(id, QueueDepth::default(), Some(told.name.clone()));
            self.listeners.insert(id, Listener { v6_only: listener.v6_only, ..unknown });
        }
        self.addresses.insert(told.netns, told.addresses.clone());
        let namespace = Namespace { name: told.name.clone(), ..Namespace::default() };
        self.namespaces.insert(told.netns, namespace);
        self.hosts.insert(told.netns, host);
    }

    /// Forgets a namespace.
    pub fn forget(&mut self, netns: NetnsId) {
        let ids: Vec<ListenerId> = self.listeners_in(netns).map(|one| one.id).collect();
        ids.iter().for_each(|id| drop(self.listeners.remove(id)));
        self.addresses.remove(&netns);
        self.namespaces.remove(&netns);
        self.hosts.remove(&netns);
    }

    /// Whose namespace it is.
    pub fn host(&self, netns: NetnsId) -> HostId {
        self.hosts.get(&netns).copied().unwrap_or_default()
    }

    /// Takes in that `netns` is a namespace of `host`, of which no more is known.
    pub fn hear_of(&mut self, host: HostId, netns: NetnsId) {
        self.hosts.insert(netns, host);
    }
}

impl ToldListener {
    fn of(listener: &Listener) -> Self {
        Self {
            addr: listener.id.addr,
            inode: listener.id.inode,
            v6_only: listener.v6_only,
            command: listener.owners.first().map(|owner| owner.command.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(netns: u64, addresses: &[&str], listener: &str) -> Told {
        Told {
            netns: NetnsId(netns),
            name: NetnsId(netns).name(),
            addresses: addresses.iter().map(|addr| addr.parse().unwrap()).collect(),
            listeners: vec![ToldListener {
                addr: listener.parse().unwrap(),
                inode: u32::try_from(netns).unwrap(),
                v6_only: false,
                command: None,
            }],
            left_out: 0,
        }
    }

    fn found(inventory: &Inventory, addr: &str, from: u64) -> Vec<u64> {
        let candidates = inventory.candidates(addr.parse().unwrap(), Some(NetnsId(from)));
        candidates.iter().map(|listener| listener.id.netns.0).collect()
    }

    #[test]
    fn what_is_told_is_heard_whole() {
        let mut inventory = Inventory::default();
        inventory.hear(HostId(0), &told(1, &["127.0.0.1", "10.0.0.1"], "0.0.0.0:80"));
        assert_eq!(inventory.tell(), [told(1, &["127.0.0.1", "10.0.0.1"], "0.0.0.0:80")]);
        inventory.hear(HostId(0), &told(1, &["10.0.0.2"], "0.0.0.0:81"));
        assert_eq!(inventory.tell(), [told(1, &["10.0.0.2"], "0.0.0.0:81")]);
        inventory.forget(NetnsId(1));
        assert!(inventory.tell().is_empty());
    }

    /// Every host has a 127.0.0.1, and every container host a 172.17.0.2.
    #[test]
    fn an_address_of_the_callers_host_leads_to_no_other_host() {
        let mut inventory = Inventory::default();
        inventory.hear(HostId(0), &told(1, &["127.0.0.1", "10.0.0.1"], "0.0.0.0:80"));
        inventory.hear(HostId(0), &told(2, &["127.0.0.1", "172.17.0.2"], "0.0.0.0:80"));
        inventory.hear(HostId(1), &told(3, &["127.0.0.1", "10.0.0.3"], "0.0.0.0:80"));
        inventory.hear(HostId(1), &told(4, &["127.0.0.1", "172.17.0.2"], "0.0.0.0:80"));
        assert_eq!(found(&inventory, "172.17.0.2:80", 1), [2]);
        assert_eq!(found(&inventory, "172.17.0.2:80", 3), [4]);
        assert_eq!(found(&inventory, "10.0.0.3:80", 1), [3]);
        assert_eq!(found(&inventory, "127.0.0.1:80", 1), [1]);
        inventory.hear_of(HostId(0), NetnsId(9));
        assert!(found(&inventory, "127.0.0.1:80", 9).is_empty());
        assert_eq!(found(&inventory, "172.17.0.2:80", 9), [2]);
    }
}
