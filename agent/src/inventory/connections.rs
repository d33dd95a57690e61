//! What connections take up: pending handshakes of a listener, ephemeral ports towards a
//! destination.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use serde::{Deserialize, Serialize};

use super::{Counted, Inventory};
use crate::kernel::{
    ListenerId, NetnsId,
    connections::{Connections, Path},
};

/// Destinations kept, busiest first.
const DESTINATIONS: usize = 100;

/// A destination of this host, with the ephemeral ports in use towards it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Destination {
    /// From which namespace.
    pub netns: NetnsId,
    /// From which of its addresses.
    pub from: IpAddr,
    /// Where to.
    pub to: SocketAddr,
    /// Local ports of `ip_local_port_range` in use, TIME_WAIT included.
    pub ports_in_use: u32,
    /// Ports that range has, reserved ones taken off.
    pub ports: Option<u32>,
}

impl Inventory {
    /// Takes in what connections were counted.
    pub fn enter_connections(&mut self, counted: Counted) {
        self.destinations.clear();
        for (netns, Connections { syn_queues, ports }) in counted.counts {
            self.enter_syn_queues(netns, &syn_queues);
            self.enter_ports(netns, ports);
        }
        self.destinations.sort_by_key(|destination| std::cmp::Reverse(destination.ports_in_use));
        self.destinations.truncate(DESTINATIONS);
    }

    /// Where this host connects to, busiest first, when last counted.
    pub fn destinations(&self) -> &[Destination] {
        &self.destinations
    }

    fn enter_syn_queues(&mut self, netns: NetnsId, pending: &BTreeMap<SocketAddr, u32>) {
        for (_, listener) in self.listeners.range_mut(ListenerId::all_of(netns)) {
            listener.syn_queue = Some(0);
        }
        for (addr, count) in pending {
            let takers = self.takers(netns, addr.ip(), addr.port());
            let takers: Vec<_> = takers.iter().map(|listener| listener.id).collect();
            for id in takers {
                if let Some(listener) = self.listeners.get_mut(&id) {
                    listener.syn_queue = Some(listener.syn_queue.unwrap_or(0) + count);
                }
            }
        }
    }

    fn enter_ports(&mut self, netns: NetnsId, in_use: BTreeMap<Path, u32>) {
        let settings = self.namespaces.get(&netns).map(|namespace| &namespace.settings);
        let ports = settings.and_then(|settings| settings.ephemeral_ports());
        self.destinations.extend(in_use.into_iter().map(|(Path { from, to }, ports_in_use)| {
            Destination { netns, from, to, ports_in_use, ports }
        }));
    }
}
