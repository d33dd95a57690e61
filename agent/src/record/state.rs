//! What is known at a tick beside what has just happened, and how it changes from tick to tick.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    clock::ClockSteps,
    inventory::{Changes, Inventory, InventoryChanges, peers::PeerReport},
    kernel::{MibCounts, NetnsId, NoPortCount, ServiceCount, Standing},
    verdict::Totals,
};

/// A service's namespace, its port, and whether this is its own side.
type ServiceKey = (NetnsId, u16, bool);
type Counts = BTreeMap<String, u64>;

/// What is known at a tick.
#[derive(Debug, Default)]
pub struct State {
    /// Who owns what.
    pub inventory: Inventory,
    /// The kernel's counts since the agent's start.
    totals: Totals,
    services: BTreeMap<ServiceKey, Counts>,
    /// Who connects to whom.
    pub peers: Vec<PeerReport>,
    /// How each signal is had.
    pub standings: Vec<Standing>,
    /// The agent's own troubles since its start, by name; only what is not 0.
    pub troubles: BTreeMap<String, u64>,
    /// The steps of the wall clock since the agent's start.
    pub clock: ClockSteps,
}

/// The state as the agent has it.
pub struct Present<'a> {
    pub inventory: &'a Inventory,
    pub totals: &'a Totals,
    pub peers: Vec<PeerReport>,
    pub standings: &'a [Standing],
    pub troubles: BTreeMap<String, u64>,
    pub clock: &'a ClockSteps,
}

/// What sets one state apart from an earlier one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StateChanges {
    /// Who owns what.
    #[serde(default)]
    pub inventory: InventoryChanges,
    /// Namespaces' names and the growth of their counters.
    #[serde(default, skip_serializing_if = "Changes::is_empty")]
    kernel: Changes<NetnsId, (String, MibCounts)>,
    /// What became of connections, by service.
    #[serde(default, skip_serializing_if = "Changes::is_empty")]
    services: Changes<ServiceKey, Counts>,
    /// The growth of namespaces' counters that those stand for.
    #[serde(default, skip_serializing_if = "Changes::is_empty")]
    services_moved: Changes<NetnsId, MibCounts>,
    /// Connects that found no local port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    no_port: Option<Vec<NoPortCount>>,
    /// Who connects to whom.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peers: Option<Vec<PeerReport>>,
    /// How each signal is had.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    standings: Option<Vec<Standing>>,
    /// The agent's own troubles.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    troubles: Option<BTreeMap<String, u64>>,
    /// The steps of the wall clock, which all other times don't depend on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    clock: Option<ClockSteps>,
}

impl State {
    /// Brings this copy to the present, and tells by what.
    pub(super) fn bring(&mut self, now: Present<'_>) -> StateChanges {
        let services = by_key(&now.totals.services);
        StateChanges {
            inventory: self.inventory.bring(now.inventory),
            kernel: Changes::bring(&mut self.totals.kernel, &now.totals.kernel),
            services: Changes::bring(&mut self.services, &services),
            services_moved: Changes::bring(
                &mut self.totals.services_moved,
                &now.totals.services_moved,
            ),
            no_port: bring(&mut self.totals.no_port, now.totals.no_port.clone()),
            peers: bring(&mut self.peers, now.peers),
            standings: bring(&mut self.standings, now.standings.to_vec()),
            troubles: bring(&mut self.troubles, now.troubles),
            clock: bring(&mut self.clock, now.clock.clone()),
        }
    }

    /// All of it, as changes from nothing.
    pub(super) fn whole(&self) -> StateChanges {
        Self::default().bring(Present {
            inventory: &self.inventory,
            totals: &self.totals(),
            peers: self.peers.clone(),
            standings: &self.standings,
            troubles: self.troubles.clone(),
            clock: &self.clock,
        })
    }

    /// Makes the changes.
    pub fn apply(&mut self, changes: StateChanges) {
        self.inventory.apply(changes.inventory);
        changes.kernel.apply(&mut self.totals.kernel);
        changes.services.apply(&mut self.services);
        changes.services_moved.apply(&mut self.totals.services_moved);
        enter(&mut self.totals.no_port, changes.no_port);
        enter(&mut self.peers, changes.peers);
        enter(&mut self.standings, changes.standings);
        enter(&mut self.troubles, changes.troubles);
        enter(&mut self.clock, changes.clock);
    }

    /// How many things it consists of: what its memory grows with.
    pub(super) fn items(&self) -> usize {
        let Totals { kernel, services_moved, no_port, services: _ } = &self.totals;
        self.inventory.items()
            + kernel.len()
            + services_moved.len()
            + no_port.len()
            + self.services.len()
            + self.peers.len()
            + self.standings.len()
            + self.troubles.len()
            + self.clock.latest.len()
    }

    /// The kernel's counts since the agent's start.
    pub fn totals(&self) -> Totals {
        let services = self.services.iter().map(|(key, counts)| {
            let (netns, port, is_local) = *key;
            ServiceCount { netns, port, is_local, counts: counts.clone() }
        });
        let mut services: Vec<ServiceCount> = services.collect();
        services.sort_by_key(|service| std::cmp::Reverse(service.counts.values().sum::<u64>()));
        Totals { services, ..self.totals.clone() }
    }
}

fn by_key(services: &[ServiceCount]) -> BTreeMap<ServiceKey, Counts> {
    let key = |service: &ServiceCount| (service.netns, service.port, service.is_local);
    services.iter().map(|service| (key(service), service.counts.clone())).collect()
}

fn bring<T: PartialEq + Clone>(copy: &mut T, now: T) -> Option<T> {
    (*copy != now).then(|| {
        copy.clone_from(&now);
        now
    })
}

fn enter<T>(copy: &mut T, now: Option<T>) {
    if let Some(now) = now {
        *copy = now;
    }
}
