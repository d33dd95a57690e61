//! Bringing a copy of an inventory up to date by what has changed: what a recording keeps.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use serde::{Deserialize, Serialize};

use super::{Depth, Destination, Inventory, LeftOut, Listener, Namespace, UnixListener};
use crate::kernel::{ListenerId, NetnsId, QueueDepth};

/// What sets one map apart from an earlier state of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Changes<K: Ord, V> {
    /// What is new or has changed.
    #[serde(default = "BTreeMap::new", skip_serializing_if = "BTreeMap::is_empty")]
    pub set: BTreeMap<K, V>,
    /// Keys that no longer exist.
    #[serde(default = "Vec::new", skip_serializing_if = "Vec::is_empty")]
    pub gone: Vec<K>,
}

impl<K: Ord, V> Default for Changes<K, V> {
    fn default() -> Self {
        Self { set: BTreeMap::new(), gone: Vec::new() }
    }
}

impl<K: Ord + Clone, V: Clone + PartialEq> Changes<K, V> {
    /// Brings `copy` to the state of `now`, and tells by what.
    pub fn bring(copy: &mut BTreeMap<K, V>, now: &BTreeMap<K, V>) -> Self {
        let gone: Vec<K> = copy.keys().filter(|key| !now.contains_key(key)).cloned().collect();
        let is_new = |(key, value): &(&K, &V)| copy.get(key) != Some(value);
        let set = now.iter().filter(is_new).map(|(key, value)| (key.clone(), value.clone()));
        let changes = Self { set: set.collect(), gone };
        changes.clone().apply(copy);
        changes
    }

    /// Makes the changes.
    pub fn apply(self, map: &mut BTreeMap<K, V>) {
        self.gone.iter().for_each(|key| drop(map.remove(key)));
        map.extend(self.set);
    }

    /// Whether nothing has changed.
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.gone.is_empty()
    }
}

/// What sets one inventory apart from an earlier state of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct InventoryChanges {
    /// Listeners of which more has changed than their queues.
    #[serde(default, skip_serializing_if = "Changes::is_empty")]
    pub listeners: Changes<ListenerId, Listener>,
    /// The others' queues, which change all the time.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub queues: BTreeMap<ListenerId, QueueState>,
    /// Unix listeners by namespace and inode, queues included.
    #[serde(default, skip_serializing_if = "Changes::is_empty")]
    pub unix_listeners: Changes<(NetnsId, u32), UnixListener>,
    /// Names and settings of namespaces.
    #[serde(default, skip_serializing_if = "Changes::is_empty")]
    pub namespaces: Changes<NetnsId, Namespace>,
    /// Their local addresses.
    #[serde(default, skip_serializing_if = "Changes::is_empty")]
    pub addresses: Changes<NetnsId, BTreeSet<IpAddr>>,
    /// Where this host connects to, where that has changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destinations: Option<Vec<Destination>>,
    /// What there is beyond the limits, where that has changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_out: Option<LeftOut>,
}

/// What moves in a [`Listener`] while it goes on listening.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct QueueState {
    /// [`Listener::queue`].
    pub queue: QueueDepth,
    /// [`Listener::drops`].
    pub drops: u32,
    /// [`Listener::syn_queue`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub syn_queue: Option<u32>,
    /// [`Listener::depth`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub depth: Option<Depth>,
    /// [`Depth::high_at_last_look`].
    #[serde(default)]
    pub high_at_last_look: u32,
}

impl QueueState {
    fn of(listener: &Listener) -> Self {
        let Listener { queue, drops, syn_queue, depth, .. } = *listener;
        let high_at_last_look = depth.map_or(0, |depth| depth.high_at_last_look);
        Self { queue, drops, syn_queue, depth, high_at_last_look }
    }

    fn enter(self, listener: &mut Listener) {
        let high_at_last_look = self.high_at_last_look;
        listener.queue = self.queue;
        listener.drops = self.drops;
        listener.syn_queue = self.syn_queue;
        listener.depth = self.depth.map(|depth| Depth { high_at_last_look, ..depth });
    }
}

impl Inventory {
    /// Brings this copy to the state of `now`, and tells by what.
    pub fn bring(&mut self, now: &Self) -> InventoryChanges {
        // First the queues of listeners known to both, so that what remains is rare.
        let mut queues = BTreeMap::new();
        for (id, listener) in &now.listeners {
            let Some(copy) = self.listeners.get_mut(id) else { continue };
            let state = QueueState::of(listener);
            if state != QueueState::of(copy) {
                queues.insert(*id, state);
                state.enter(copy);
            }
        }
        let destinations =
            (self.destinations != now.destinations).then(|| now.destinations.clone());
        if let Some(destinations) = &destinations {
            self.destinations.clone_from(destinations);
        }
        let left_out = (self.left_out != now.left_out).then_some(now.left_out);
        self.left_out = now.left_out;
        let listeners = Changes::bring(&mut self.listeners, &now.listeners);
        // A listener told of as a whole, or anew, still has the one field that JSON leaves out.
        for id in listeners.set.keys() {
            queues.insert(*id, QueueState::of(&now.listeners[id]));
        }
        InventoryChanges {
            listeners,
            queues,
            unix_listeners: Changes::bring(&mut self.unix_listeners, &now.unix_listeners),
            namespaces: Changes::bring(&mut self.namespaces, &now.namespaces),
            addresses: Changes::bring(&mut self.addresses, &now.addresses),
            destinations,
            left_out,
        }
    }

    /// How many things it consists of: what its memory grows with.
    pub fn items(&self) -> usize {
        self.listeners.len()
            + self.unix_listeners.len()
            + self.namespaces.len()
            + self.addresses.values().map(|addresses| 1 + addresses.len()).sum::<usize>()
            + self.destinations.len()
    }

    /// Makes the changes that [`bring`](Self::bring) told.
    pub fn apply(&mut self, changes: InventoryChanges) {
        changes.listeners.apply(&mut self.listeners);
        for (id, state) in changes.queues {
            if let Some(listener) = self.listeners.get_mut(&id) {
                state.enter(listener);
            }
        }
        changes.unix_listeners.apply(&mut self.unix_listeners);
        changes.namespaces.apply(&mut self.namespaces);
        changes.addresses.apply(&mut self.addresses);
        if let Some(destinations) = changes.destinations {
            self.destinations = destinations;
        }
        self.left_out = changes.left_out.unwrap_or(self.left_out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listener(inode: u32, len: u32) -> Listener {
        let id = ListenerId { netns: NetnsId(1), addr: "10.0.0.1:80".parse().unwrap(), inode };
        let depth = Depth { high_at_last_look: len + 3, high: len + 9, ..Depth::default() };
        let listener = Listener::unknown(id, QueueDepth { len, limit: 9 }, None);
        Listener { depth: Some(depth), ..listener }
    }

    fn inventory(listeners: &[Listener]) -> Inventory {
        let listeners = listeners.iter().map(|listener| (listener.id, listener.clone())).collect();
        let addresses = [(NetnsId(1), BTreeSet::from(["10.0.0.1".parse().unwrap()]))].into();
        Inventory { listeners, addresses, ..Inventory::default() }
    }

    fn states(inventory: &Inventory) -> Vec<(Listener, u32)> {
        let high = |l: &Listener| l.depth.map_or(0, |depth| depth.high_at_last_look);
        inventory.listeners().map(|listener| (listener.clone(), high(listener))).collect()
    }

    #[test]
    fn changes_written_and_read_lead_to_the_same_inventory() {
        let mut renamed = listener(2, 5);
        renamed.v6_only = true;
        let steps = [
            inventory(&[listener(1, 0), listener(2, 0)]),
            inventory(&[listener(1, 7), listener(2, 0)]),
            inventory(&[listener(1, 7), renamed]),
            inventory(&[listener(3, 1)]),
            Inventory::default(),
        ];
        let (mut mirror, mut copy) = (Inventory::default(), Inventory::default());
        for now in &steps {
            let changes = mirror.bring(now);
            let bytes = rmp_serde::to_vec_named(&changes).unwrap();
            copy.apply(rmp_serde::from_slice(&bytes).unwrap());
            assert_eq!(states(&copy), states(now));
            assert_eq!(copy.addresses, now.addresses);
        }
    }

    #[test]
    fn a_queue_that_moves_tells_no_more_than_itself() {
        let mut mirror = inventory(&[listener(1, 0), listener(2, 0)]);
        let changes = mirror.bring(&inventory(&[listener(1, 4), listener(2, 0)]));
        assert!(changes.listeners.is_empty() && changes.addresses.is_empty());
        assert_eq!(changes.queues.keys().map(|id| id.inode).collect::<Vec<_>>(), [1]);
        assert_eq!(mirror.bring(&inventory(&[listener(1, 4), listener(2, 0)])).queues.len(), 0);
    }
}
