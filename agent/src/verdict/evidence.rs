//! What the kernel did, kept for as long as a proxy's event may still reach back to it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    net::SocketAddr,
    time::Duration,
};

use crate::{
    inventory::HostId,
    kernel::{Attribution, KernelEvent, KernelSample, NetnsId, QueueDepth, Tally},
    time::{UnixMs, Window},
};

/// Detail events kept; the oldest go first.
const MOST_EVENTS: usize = 50_000;

/// Evidence of the recent past, by the address listened on. A restarted application has another
/// socket at the same address, and what the old one lost still explains what the proxy saw.
pub struct Evidence {
    horizon: Duration,
    /// When the agent of each host began to watch.
    since: BTreeMap<HostId, UnixMs>,
    /// Stretches in which it did not.
    gaps: BTreeMap<HostId, VecDeque<Window>>,
    losses: HashMap<Place, VecDeque<Slice>>,
    /// Detail events by the client's port, which is that of the proxy's own end of a connection.
    events: HashMap<u16, VecDeque<KernelEvent>>,
    order: VecDeque<(UnixMs, u16)>,
    events_lost: VecDeque<(Window, HostId, u64)>,
    queues: HashMap<Place, VecDeque<(UnixMs, QueueDepth)>>,
    /// Instants at which the queues were looked at, whatever was in them.
    looks: VecDeque<(UnixMs, HostId)>,
    repeated: VecDeque<(UnixMs, NetnsId, u16)>,
    syn_queue_full: VecDeque<(UnixMs, NetnsId)>,
    /// Namespaces in which `tcp_abort_on_overflow` is set, by host.
    pub aborting: BTreeMap<HostId, BTreeSet<NetnsId>>,
}

/// An address listened on, in its namespace.
pub type Place = (NetnsId, SocketAddr);

/// Losses of one interval.
#[derive(Clone, Copy)]
struct Slice {
    window: Window,
    tally: Tally,
    attribution: Attribution,
}

/// Losses found for a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Losses {
    /// Their sum.
    pub tally: Tally,
    /// The least sure attribution among them.
    pub attribution: Attribution,
    /// Begin and end of the intervals in which handshakes were dropped.
    pub dropped: Option<Window>,
}

/// How full an accept queue was at the looks of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueSeen {
    /// Whether every look, and there were two at least, found connections waiting.
    pub is_never_empty: bool,
    /// The most that waited.
    pub high: QueueDepth,
}

impl Evidence {
    /// Keeps evidence for `horizon`, at most one slice per listener and sample.
    pub fn new(horizon: Duration) -> Self {
        Self {
            horizon,
            since: BTreeMap::new(),
            gaps: BTreeMap::new(),
            losses: HashMap::new(),
            events: HashMap::new(),
            order: VecDeque::new(),
            events_lost: VecDeque::new(),
            queues: HashMap::new(),
            looks: VecDeque::new(),
            repeated: VecDeque::new(),
            syn_queue_full: VecDeque::new(),
            aborting: BTreeMap::new(),
        }
    }

    /// Takes in a host's sample and forgets what is older than the horizon.
    pub fn add(&mut self, host: HostId, sample: &KernelSample) {
        self.since.entry(host).or_insert(sample.window.from);
        for delta in &sample.listeners {
            let place = (delta.listener.netns, delta.listener.addr);
            self.losses.entry(place).or_default().push_back(Slice {
                window: sample.window,
                tally: delta.tally,
                attribution: delta.attribution,
            });
        }
        if sample.events_lost > 0 {
            self.events_lost.push_back((sample.window, host, sample.events_lost));
        }
        self.forget(sample.window.to.earlier(self.horizon));
    }

    /// Takes in a dropped segment in detail.
    pub fn add_event(&mut self, event: &KernelEvent) {
        self.events.entry(event.peer.port()).or_default().push_back(*event);
        self.order.push_back((event.at, event.peer.port()));
        if self.order.len() > MOST_EVENTS {
            self.forget_event();
        }
    }

    /// Takes in a host's accept queues as they were at `now`, of listeners that had any connection
    /// waiting.
    pub fn add_queues(
        &mut self,
        host: HostId,
        now: UnixMs,
        waiting: impl Iterator<Item = (Place, QueueDepth)>,
    ) {
        self.looks.push_back((now, host));
        for (place, depth) in waiting {
            self.queues.entry(place).or_default().push_back((now, depth));
        }
    }

    /// Takes in that SYNs were sent again, from these namespaces to these ports.
    pub fn add_syns_repeated(&mut self, now: UnixMs, grown: Vec<(NetnsId, u16)>) {
        self.repeated.extend(grown.into_iter().map(|(netns, port)| (now, netns, port)));
    }

    /// Takes in that a SYN queue was full in these namespaces.
    pub fn add_syn_queues_full(&mut self, now: UnixMs, grown: Vec<NetnsId>) {
        self.syn_queue_full.extend(grown.into_iter().map(|netns| (now, netns)));
    }

    /// Takes in that nobody watched a host inside `window`.
    pub fn add_gap(&mut self, host: HostId, window: Window) {
        let gaps = self.gaps.entry(host).or_default();
        match gaps.back_mut() {
            Some(last) if last.overlaps(&window) => {
                last.from = last.from.min(window.from);
                last.to = last.to.max(window.to);
            }
            _ => gaps.push_back(window),
        }
    }

    /// Forgets what is kept of a host for as long as it is there.
    pub fn forget_host(&mut self, host: HostId) {
        self.since.remove(&host);
        self.gaps.remove(&host);
        self.aborting.remove(&host);
    }

    /// Whether a SYN queue in `netns` was full inside `window`.
    pub fn syn_queue_full(&self, netns: NetnsId, window: &Window) -> bool {
        let mut full = self.syn_queue_full.iter();
        full.any(|(at, other)| *other == netns && window.from <= *at && *at <= window.to)
    }

    /// What was lost at `place` inside `window`; `None` where nothing was.
    pub fn within(&self, place: &Place, window: &Window) -> Option<Losses> {
        let slices = self.losses.get(place)?.iter().filter(|slice| slice.window.overlaps(window));
        slices.fold(None, |sum: Option<Losses>, slice| {
            let mut losses = sum.unwrap_or(Losses {
                tally: Tally::default(),
                attribution: slice.attribution,
                dropped: None,
            });
            losses.tally += slice.tally;
            losses.attribution = losses.attribution.min(slice.attribution);
            if slice.tally.drops() > 0 {
                let from = losses.dropped.map_or(slice.window.from, |window| window.from);
                losses.dropped = Some(Window { from, to: slice.window.to });
            }
            Some(losses)
        })
    }

    /// What became of the very connection from `local` to port `port` inside `window`. The listener
    /// may have another address than the one the proxy calls, so only its port and whether it `may_be`
    /// in that namespace are compared; and an address of `local` that is not known is any.
    pub fn of_connection(
        &self,
        local: SocketAddr,
        port: u16,
        window: &Window,
        may_be: impl Fn(NetnsId) -> bool,
    ) -> Option<Tally> {
        let events = self.events.get(&local.port())?.iter();
        let own = events.filter(|event| {
            let from = event.peer.ip().to_canonical();
            (local.ip().is_unspecified() || local.ip().to_canonical() == from)
                && event.listener.addr.port() == port
                && may_be(event.listener.netns)
                && window.from <= event.at
                && event.at <= window.to
        });
        let mut tally = Tally::default();
        own.for_each(|event| tally[event.class] += 1);
        (!tally.is_empty()).then_some(tally)
    }

    /// How full the accept queue at `place` on `host` was inside `window`; `None` where it was always
    /// empty.
    pub fn queue(&self, host: HostId, place: &Place, window: &Window) -> Option<QueueSeen> {
        let inside = |at: &UnixMs| window.from <= *at && *at <= window.to;
        let looks = self.looks.iter().filter(|(at, by)| inside(at) && *by == host).count();
        let full = self.queues.get(place)?.iter().filter(|(at, _)| inside(at));
        let depths: Vec<QueueDepth> = full.map(|(_, depth)| *depth).collect();
        let high = depths.iter().copied().max_by_key(|depth| depth.len)?;
        // Members of a SO_REUSEPORT group have a place in common.
        Some(QueueSeen { is_never_empty: looks >= 2 && depths.len() >= looks, high })
    }

    /// Whether `tcp_abort_on_overflow` is set in a namespace of `host`.
    pub fn aborts(&self, host: HostId, netns: NetnsId) -> bool {
        self.aborting.get(&host).is_some_and(|aborting| aborting.contains(&netns))
    }

    /// Whether a client in `netns`, or in any namespace, sent a SYN to `port` again.
    pub fn syn_repeated(&self, netns: Option<NetnsId>, port: u16, window: &Window) -> bool {
        self.repeated.iter().any(|(at, from, to)| {
            netns.is_none_or(|netns| netns == *from)
                && *to == port
                && window.from <= *at
                && *at <= window.to
        })
    }

    /// A host's detail events lost inside `window`.
    pub fn events_lost(&self, host: HostId, window: &Window) -> u64 {
        let lost = self.events_lost.iter();
        let inside = lost.filter(|(lost, by, _)| lost.overlaps(window) && *by == host);
        inside.map(|(.., count)| count).sum()
    }

    /// Part of `window` in which nobody watched `host`: before its agent began to, or while that was
    /// not heard of.
    pub fn unseen(&self, host: HostId, window: &Window) -> Duration {
        let since = self.since.get(&host).copied().unwrap_or(window.to).min(window.to);
        let before = since.0.saturating_sub(window.from.0);
        let overlap =
            |gap: &Window| gap.to.min(window.to).0.saturating_sub(gap.from.max(window.from).0);
        let gaps = self.gaps.get(&host).into_iter().flatten();
        Duration::from_millis(before + gaps.map(overlap).sum::<u64>())
    }

    /// Places at exactly `addr`, in whichever namespace, that lost something within the horizon.
    pub fn places_at(&self, addr: SocketAddr) -> impl Iterator<Item = Place> {
        self.losses.keys().copied().filter(move |place| place.1 == addr)
    }

    fn forget(&mut self, before: UnixMs) {
        drop_old(&mut self.losses, |slice| slice.window.to < before);
        drop_old(&mut self.queues, |(at, _)| *at < before);
        while self.order.front().is_some_and(|(at, _)| *at < before) {
            self.forget_event();
        }
        pop_while(&mut self.events_lost, |(window, ..)| window.to < before);
        pop_while(&mut self.looks, |(at, _)| *at < before);
        pop_while(&mut self.repeated, |(at, ..)| *at < before);
        pop_while(&mut self.syn_queue_full, |(at, _)| *at < before);
        self.gaps.retain(|_, gaps| {
            pop_while(gaps, |window| window.to < before);
            !gaps.is_empty()
        });
    }

    fn forget_event(&mut self) {
        let Some((_, peer)) = self.order.pop_front() else { return };
        if let Some(events) = self.events.get_mut(&peer) {
            events.pop_front();
            if events.is_empty() {
                self.events.remove(&peer);
            }
        }
    }
}

fn drop_old<T>(all: &mut HashMap<Place, VecDeque<T>>, is_old: impl Fn(&T) -> bool) {
    all.retain(|_, queue| {
        pop_while(queue, &is_old);
        !queue.is_empty()
    });
}

fn pop_while<T>(queue: &mut VecDeque<T>, is_old: impl Fn(&T) -> bool) {
    while queue.front().is_some_and(&is_old) {
        queue.pop_front();
    }
}
