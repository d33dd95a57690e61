//! What each listener lost, in an account of its own, in bounded memory.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use crate::{
    inventory::{Inventory, Listener},
    kernel::{
        Attribution, KernelEvent, KernelSample, ListenerId, MibCounts, NetnsId, QueueDepth, Tally,
        flow::Slot,
    },
    time::{UnixMs, Window},
    verdict::{
        flow::{Flow, Flows},
        peers::Peers,
        report::ListenerReport,
    },
};

/// Listeners with an account of their own; what more lose is booked on their namespace.
const ACCOUNTS: usize = 8192;
/// How long the account of a listener is kept after it has closed and lost nothing more.
const RETENTION: Duration = Duration::from_secs(600);
/// Client addresses shown of them.
const PEERS_SHOWN: usize = 5;
/// Listeners reported with what came to them, worst first.
const FLOWS_REPORTED: usize = 10;

/// The accounts of all listeners.
#[derive(Default)]
pub struct Accounts {
    listeners: BTreeMap<ListenerId, Account>,
    /// What listeners without an account lost: those forgotten, and those beyond [`ACCOUNTS`].
    others: BTreeMap<NetnsId, Tally>,
    flows: Flows,
}

/// One listener's account.
struct Account {
    tally: Tally,
    attribution: Attribution,
    queue: QueueDepth,
    peers: Peers,
    /// When it was last known to exist or to lose something.
    alive: UnixMs,
    /// As last seen in the inventory: an owner that has died is still named.
    listener: Option<Listener>,
    /// From the first interval with a drop to the last.
    dropped: Option<Window>,
    worst_per_second: f64,
}

impl Account {
    fn new(alive: UnixMs) -> Self {
        Self {
            tally: Tally::default(),
            attribution: Attribution::Exact,
            queue: QueueDepth::default(),
            peers: Peers::default(),
            alive,
            listener: None,
            dropped: None,
            worst_per_second: 0.0,
        }
    }

    /// When it dropped, and how much at worst.
    fn time_drops(&mut self, drops: u64, window: Window) {
        if drops == 0 {
            return;
        }
        let from = self.dropped.map_or(window.from, |dropped| dropped.from);
        self.dropped = Some(Window { from, to: window.to });
        let seconds = window.length().as_secs_f64().max(1.0);
        self.worst_per_second = self.worst_per_second.max(drops as f64 / seconds);
    }
}

impl Accounts {
    /// Books what the listeners lost.
    pub fn book_sample(&mut self, sample: &KernelSample, inventory: &Inventory) {
        let now = sample.window.to;
        for delta in &sample.listeners {
            let known = self.listeners.contains_key(&delta.listener);
            if !known && self.listeners.len() >= ACCOUNTS {
                *self.others.entry(delta.listener.netns).or_default() += delta.tally;
                continue;
            }
            let account = self.listeners.entry(delta.listener).or_insert_with(|| Account::new(now));
            account.alive = now;
            account.tally += delta.tally;
            account.time_drops(delta.tally.drops(), sample.window);
            account.attribution = account.attribution.min(delta.attribution);
            if let Some(queue) = delta.queue {
                account.queue.len = account.queue.len.max(queue.len);
                account.queue.limit = queue.limit;
            }
        }
        self.book_flows(sample, inventory);
        for (id, account) in &mut self.listeners {
            if let Some(listener) = inventory.get(id) {
                account.alive = now;
                account.listener = Some(listener.clone());
            }
        }
    }

    /// Books when connections came to the queues; to be told before the sample of the same time.
    pub fn book_arrivals(&mut self, arrivals: &[(ListenerId, Vec<Slot>)], inventory: &Inventory) {
        for (id, slots) in arrivals {
            self.flows.arrived(inventory.bound_for(*id), slots);
        }
    }

    /// What a full queue lost belongs beside what came to it.
    fn book_flows(&mut self, sample: &KernelSample, inventory: &Inventory) {
        let mut drops = BTreeMap::new();
        for delta in &sample.listeners {
            let key = inventory.get(&delta.listener).and_then(|known| self.flows.key(known));
            if let Some(key) = key {
                drops.insert(key, (delta.tally.overflows(), delta.tally.connections));
            }
        }
        self.flows.dropped(sample.window, &drops);
        for listener in inventory.listeners() {
            self.flows.looked(listener, sample.window.to);
        }
    }

    /// Closes the accounts of listeners that are gone for longer than is of interest, and tells
    /// which those are. What they lost stays booked on their namespace, as long as that is `known`.
    pub fn forget_closed(
        &mut self,
        now: UnixMs,
        known: impl Fn(NetnsId) -> bool,
    ) -> BTreeSet<ListenerId> {
        let over = |account: &Account| account.alive.later(RETENTION) < now;
        let gone = self.listeners.extract_if(.., |_, account| over(account));
        let mut closed = BTreeSet::new();
        for (id, account) in gone {
            *self.others.entry(id.netns).or_default() += account.tally;
            closed.insert(id);
        }
        self.others.retain(|netns, _| known(*netns));
        self.flows.retain(|id| known(id.netns) && !closed.contains(id));
        closed
    }

    /// Books a detail event: only the address of a client that lost something, the counts come with
    /// the samples.
    pub fn book_event(&mut self, event: &KernelEvent) {
        let Some(account) = self.listeners.get_mut(&event.listener) else { return };
        if event.class.is_loss() {
            account.peers.count(event.peer.ip());
        }
    }

    /// What was attributed to the listeners of each namespace: overflows and drops.
    pub fn attributed(&self) -> BTreeMap<NetnsId, Tally> {
        let mut sums = self.others.clone();
        for (id, account) in &self.listeners {
            *sums.entry(id.netns).or_default() += account.tally;
        }
        sums
    }

    fn flow_of(&self, listener: &Listener) -> Option<Arc<Flow>> {
        self.flows.of(listener).cloned().map(Arc::new)
    }

    /// What is told of each, worst first.
    pub fn reports(&self, kernel: &BTreeMap<NetnsId, (String, MibCounts)>) -> Vec<ListenerReport> {
        let mut reports: Vec<ListenerReport> = self
            .listeners
            .iter()
            .map(|(id, account)| {
                let peers = account.peers.top(PEERS_SHOWN);
                let shown: u64 = peers.iter().map(|(_, count)| count).sum();
                let netns_name = kernel.get(&id.netns).map(|(name, _)| name.clone());
                ListenerReport {
                    listener: account
                        .listener
                        .clone()
                        .unwrap_or_else(|| Listener::unknown(*id, account.queue, netns_name)),
                    tally: account.tally,
                    attribution: account.attribution,
                    queue_high: account.queue.len,
                    peers,
                    peers_other: account.tally.losses().saturating_sub(shown),
                    dropped: account.dropped,
                    flow: account.listener.as_ref().and_then(|listener| self.flow_of(listener)),
                    worst_per_second: account.worst_per_second,
                    last_seen: account.alive,
                }
            })
            .collect();
        reports.sort_by_key(|report| std::cmp::Reverse(report.tally.drops()));
        reports.iter_mut().skip(FLOWS_REPORTED).for_each(|report| report.flow = None);
        reports
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::{Class, ListenerDelta};

    fn sample(second: u64, ports: impl Iterator<Item = u32>) -> KernelSample {
        let delta = |port: u32| ListenerDelta {
            listener: ListenerId {
                netns: NetnsId(1),
                addr: ([10, 0, 0, 1], 80).into(),
                inode: port,
            },
            tally: Tally::of(&[(Class::SynAcceptQueueFull, 1)]),
            attribution: Attribution::Exact,
            queue: None,
        };
        let (from, to) = (UnixMs(1000 * second), UnixMs(1000 * (second + 1)));
        let listeners = ports.map(delta).collect();
        KernelSample { window: Window { from, to }, listeners, events_lost: 0 }
    }

    fn attributed(accounts: &Accounts) -> u64 {
        accounts.attributed().get(&NetnsId(1)).map_or(0, Tally::overflows)
    }

    #[test]
    fn what_a_forgotten_listener_lost_stays_with_its_namespace() {
        let mut accounts = Accounts::default();
        let inventory = Inventory::default();
        accounts.book_sample(&sample(0, 1..=3), &inventory);
        accounts.book_sample(&sample(600, 3..=3), &inventory);
        assert!(accounts.forget_closed(UnixMs(601_000), |_| true).is_empty());
        let closed = accounts.forget_closed(UnixMs(602_000), |_| true);
        assert_eq!(closed.iter().map(|id| id.inode).collect::<Vec<_>>(), [1, 2]);
        assert_eq!((attributed(&accounts), accounts.listeners.len()), (4, 1));
        accounts.forget_closed(UnixMs(3_000_000), |_| false);
        assert_eq!((attributed(&accounts), accounts.listeners.len()), (0, 0));
    }

    #[test]
    fn accounts_are_bounded_and_counts_are_not() {
        let mut accounts = Accounts::default();
        let many = ACCOUNTS as u32 + 100;
        accounts.book_sample(&sample(0, 1..=many), &Inventory::default());
        assert_eq!(accounts.listeners.len(), ACCOUNTS);
        assert_eq!(attributed(&accounts), u64::from(many));
    }
}
