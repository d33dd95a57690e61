//! What the inventory shows to exporters: bounded, busiest first.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    DesertedPath, Destination, Inventory, LeftOut, Listener, Namespace, UnixListener,
    peers::PeerReport,
};
use crate::kernel::NetnsId;

/// The inventory at a moment.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct View {
    /// Listeners, those in trouble first; as many as were asked for.
    pub listeners: Vec<Listener>,
    /// How many listeners are left out, those included that the inventory does not keep.
    pub listeners_left_out: usize,
    /// Listening Unix sockets, those in trouble first; as many as were asked for.
    pub unix_listeners: Vec<UnixListener>,
    /// How many of them are left out, those included that the inventory does not keep.
    pub unix_left_out: usize,
    /// Paths at which Unix connects found nobody, busiest first; as many as were asked for.
    #[serde(default)]
    pub deserted: Vec<DesertedPath>,
    /// How many of them are left out.
    #[serde(default)]
    pub deserted_left_out: usize,
    /// What there is on the host beyond the inventory's limits.
    #[serde(default)]
    pub left_out: LeftOut,
    /// Every observed namespace, also those without listeners.
    pub namespaces: BTreeMap<NetnsId, Namespace>,
    /// Where this host connects to, busiest first.
    pub destinations: Vec<Destination>,
    /// Who connects to whom how often, busiest first.
    pub peers: Vec<PeerReport>,
}

/// How much trouble a listener is in, the worst being the greatest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trouble {
    /// None that shows.
    None,
    /// It dropped something, or a connect was refused, since it listens.
    Dropped,
    /// Its queue is, or was since the last scrape, filled by three quarters.
    Filling,
    /// Its queue is full.
    Full,
}

impl Trouble {
    /// Word for tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Dropped => "dropped",
            Self::Filling => "filling",
            Self::Full => "FULL",
        }
    }

    pub(super) fn of(occupancy: f64, is_full: bool, drops: bool) -> Self {
        match () {
            () if is_full => Self::Full,
            () if occupancy >= 0.75 => Self::Filling,
            () if drops => Self::Dropped,
            () => Self::None,
        }
    }
}

impl Listener {
    /// How much trouble it is in.
    pub fn trouble(&self) -> Trouble {
        let high = self.depth.map_or(0, |depth| depth.high_since_scrape).max(self.queue.len);
        let high = crate::kernel::QueueDepth { len: high, ..self.queue };
        Trouble::of(high.occupancy(), self.queue.is_full(), self.drops > 0)
    }
}

impl UnixListener {
    /// How much trouble it is in.
    pub fn trouble(&self) -> Trouble {
        let refused = self.refused.is_some_and(|refused| refused > 0);
        Trouble::of(self.queue.occupancy(), self.queue.is_full(), refused)
    }
}

impl Inventory {
    /// What there is to show, with at most `most` listeners and paths of each kind.
    pub fn view(&self, most: usize, peers: Vec<PeerReport>) -> View {
        let mut listeners: Vec<&Listener> = self.listeners().collect();
        // By what was accepted where nothing is wrong: the busiest of the quiet ones.
        listeners.sort_by_cached_key(|listener| {
            let accepted = listener.depth.map_or(0, |depth| depth.accepted());
            let worst = (listener.trouble(), listener.drops, (listener.occupancy() * 1e6) as u64);
            (std::cmp::Reverse((worst, accepted)), listener.id)
        });
        let mut unix: Vec<&UnixListener> = self.unix_listeners().collect();
        unix.sort_by_cached_key(|unix| {
            let busy = (unix.trouble(), unix.refused, unix.queue.len);
            (std::cmp::Reverse(busy), unix.netns, unix.path.clone())
        });
        View {
            listeners_left_out: listeners.len().saturating_sub(most) + self.left_out.listeners,
            listeners: listeners.into_iter().take(most).cloned().collect(),
            unix_left_out: unix.len().saturating_sub(most) + self.left_out.unix_listeners,
            unix_listeners: unix.into_iter().take(most).cloned().collect(),
            deserted_left_out: self.deserted.len().saturating_sub(most),
            deserted: self.deserted.iter().take(most).cloned().collect(),
            left_out: self.left_out,
            namespaces: self.namespaces().clone(),
            destinations: self.destinations().to_vec(),
            peers,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::{ListenerId, QueueDepth};

    fn listener(inode: u32, len: u32, drops: u32) -> Listener {
        let id = ListenerId { netns: NetnsId(1), addr: "0.0.0.0:80".parse().unwrap(), inode };
        Listener { drops, ..Listener::unknown(id, QueueDepth { len, limit: 127 }, None) }
    }

    #[test]
    fn trouble_comes_first_and_the_rest_is_counted() {
        let mut inventory = Inventory::default();
        for listener in [
            listener(1, 0, 0),
            listener(2, 0, 9),
            listener(3, 100, 0),
            listener(4, 128, 0),
            listener(5, 1, 0),
        ] {
            inventory.listeners.insert(listener.id, listener);
        }
        let view = inventory.view(4, Vec::new());
        let inodes: Vec<u32> = view.listeners.iter().map(|l| l.id.inode).collect();
        assert_eq!((inodes, view.listeners_left_out), (vec![4, 3, 2, 5], 1));
        let troubles: Vec<&str> = view.listeners.iter().map(|l| l.trouble().name()).collect();
        assert_eq!(troubles, ["FULL", "filling", "dropped", ""]);
    }
}
