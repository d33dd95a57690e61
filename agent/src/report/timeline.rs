//! What is drawn over time, in a bounded number of columns.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    inventory::Listener,
    kernel::{ListenerId, QueueDepth},
    proxy::EventKind,
    record::{State, Tick},
    time::{UnixMs, Window},
};

/// Columns at most; when they are full, two become one.
const COLUMNS: usize = 480;
/// Listeners followed at most.
const LANES: usize = 200;
/// Periods without a live peer kept at most.
const OUTAGES: usize = 1000;
/// A full queue, in parts of a thousand.
const FULL: u64 = 1000;
/// "No live upstreams" longer apart than this are two outages.
const OUTAGE_GAP: Duration = Duration::from_millis(1500);

/// What happened, column by column.
#[derive(Debug)]
pub struct Timeline {
    /// All of the time.
    pub window: Window,
    /// Milliseconds to a column.
    pub width_ms: u64,
    /// From the first on.
    pub columns: Vec<Column>,
    /// Listeners whose queues were not always empty.
    pub lanes: BTreeMap<ListenerId, Lane>,
    /// Such listeners for which there was no room.
    pub left_out: u64,
    /// Periods in which a group had no live peer.
    pub outages: Vec<Window>,
}

/// What happened in a column's time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Column {
    /// Handshakes dropped.
    pub drops: u64,
    /// SYN/ACKs sent again.
    pub retransmits: u64,
    /// Attempts that failed, as proxies say.
    pub failed: u64,
    /// Peers marked as down.
    pub markings: u64,
    /// Requests for which no peer was left.
    pub no_live: u64,
}

/// One listener's queue.
#[derive(Clone, Debug)]
pub struct Lane {
    /// As last seen.
    pub listener: Listener,
    /// The deepest queue of each column, with its limit then; none where it was not known yet.
    pub depth: Vec<Option<QueueDepth>>,
    /// Handshakes dropped.
    pub drops: u64,
}

impl Default for Timeline {
    fn default() -> Self {
        Self {
            window: Window::default(),
            width_ms: 1000,
            columns: Vec::new(),
            lanes: BTreeMap::new(),
            left_out: 0,
            outages: Vec::new(),
        }
    }
}

impl Timeline {
    /// Has all its times by a clock that is ahead by `offset_ms`.
    pub fn shift(&mut self, offset_ms: i64) {
        for window in self.outages.iter_mut().chain([&mut self.window]) {
            *window = window.shifted(offset_ms);
        }
    }

    /// Takes in a tick and the state that it led to.
    pub fn add(&mut self, tick: &Tick, state: &State) {
        if self.columns.is_empty() {
            self.window.from = tick.sample.window.from;
        }
        self.window.to = self.window.to.max(tick.now);
        let place = self.place(tick.now);
        for delta in &tick.sample.listeners {
            self.columns[place].drops += delta.tally.drops();
            self.columns[place].retransmits += delta.tally.synack_retransmits();
            let listener = state.inventory.get(&delta.listener).cloned().unwrap_or_else(|| {
                Listener::unknown(delta.listener, delta.queue.unwrap_or_default(), None)
            });
            if let Some(lane) = self.lane(&listener) {
                lane.drops += delta.tally.drops();
                if let Some(queue) = delta.queue {
                    lane.note(place, queue);
                }
            }
        }
        for listener in state.inventory.listeners() {
            let high = listener.depth.map_or(0, |depth| depth.high_at_last_look);
            let queue = QueueDepth { len: listener.queue.len.max(high), ..listener.queue };
            if queue.len > 0 && self.lane(listener).is_none() {
                continue;
            }
            if let Some(lane) = self.lanes.get_mut(&listener.id) {
                lane.note(place, queue);
                lane.listener.clone_from(listener);
            }
        }
        for heard in tick.all_heard() {
            // By when it happened, which may be in an earlier column.
            let place = self.place(heard.event.at.min(tick.now));
            let column = &mut self.columns[place];
            match heard.event.kind {
                EventKind::AttemptFailed { .. } => column.failed += 1,
                EventKind::PeerMarked { .. } => column.markings += 1,
                EventKind::NoLivePeers => {
                    column.no_live += 1;
                    self.without_peers(heard.event.at, u64::from(heard.event.precision_ms));
                }
                EventKind::PeerBack => {}
            }
        }
    }

    /// The column of an instant; there are more of them afterwards where it is late.
    fn place(&mut self, at: UnixMs) -> usize {
        let elapsed = at.0.saturating_sub(self.window.from.0).saturating_sub(1);
        while (elapsed / self.width_ms) as usize >= COLUMNS {
            self.fold();
        }
        let place = (elapsed / self.width_ms) as usize;
        if place >= self.columns.len() {
            self.columns.resize(place + 1, Column::default());
        }
        place
    }

    /// Makes one column of two.
    fn fold(&mut self) {
        self.width_ms *= 2;
        self.columns = self.columns.chunks(2).map(Column::sum).collect();
        for lane in self.lanes.values_mut() {
            let deepest =
                |two: &[Option<QueueDepth>]| two.iter().flatten().copied().max_by_key(|d| d.len);
            lane.depth = lane.depth.chunks(2).map(deepest).collect();
        }
    }

    fn lane(&mut self, listener: &Listener) -> Option<&mut Lane> {
        if self.lanes.len() >= LANES && !self.lanes.contains_key(&listener.id) {
            self.left_out += 1;
            return None;
        }
        Some(self.lanes.entry(listener.id).or_insert_with(|| Lane {
            listener: listener.clone(),
            depth: Vec::new(),
            drops: 0,
        }))
    }

    fn without_peers(&mut self, at: UnixMs, precision_ms: u64) {
        let to = at.later(Duration::from_millis(precision_ms));
        let last = self.outages.last_mut();
        if let Some(last) = last.filter(|last| at <= last.to.later(OUTAGE_GAP)) {
            last.to = last.to.max(to);
        } else if self.outages.len() < OUTAGES {
            self.outages.push(Window { from: at, to });
        }
    }

    /// The lanes worth looking at, worst first, `most` of them: where a queue was full, only those
    /// that were.
    pub fn worst(&self, most: usize) -> Vec<&Lane> {
        let mut lanes: Vec<&Lane> = self.lanes.values().collect();
        lanes.sort_by_key(|lane| std::cmp::Reverse((lane.fullness(), lane.drops)));
        let full = lanes.iter().filter(|lane| lane.fullness() == FULL).count();
        lanes.truncate(if full > 0 { full.min(most) } else { most.min(2) });
        lanes
    }
}

impl Column {
    fn sum(columns: &[Self]) -> Self {
        columns.iter().fold(Self::default(), |sum, column| Self {
            drops: sum.drops + column.drops,
            retransmits: sum.retransmits + column.retransmits,
            failed: sum.failed + column.failed,
            markings: sum.markings + column.markings,
            no_live: sum.no_live + column.no_live,
        })
    }
}

impl Lane {
    fn note(&mut self, place: usize, queue: QueueDepth) {
        if place >= self.depth.len() {
            self.depth.resize(place + 1, None);
        }
        let before = self.depth[place].map_or(0, |depth| depth.len);
        self.depth[place] = Some(QueueDepth { len: queue.len.max(before), ..queue });
    }

    /// The deepest queue, of what it holds, in parts of a thousand.
    fn fullness(&self) -> u64 {
        let parts = self.depth.iter().flatten().map(|depth| (depth.occupancy() * 1000.0) as u64);
        parts.max().unwrap_or(0).min(FULL)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        kernel::{Attribution, Class, KernelSample, ListenerDelta, NetnsId, Tally},
        proxy::{Carrier, ProxyEvent, ProxyKind, Upstream},
        verdict::Heard,
    };

    fn tick(second: u64, drops: u64) -> Tick {
        let id = ListenerId { netns: NetnsId(1), addr: "10.0.0.1:80".parse().unwrap(), inode: 1 };
        let delta = ListenerDelta {
            listener: id,
            tally: Tally::of(&[(Class::SynAcceptQueueFull, drops)]),
            attribution: Attribution::Exact,
            queue: Some(QueueDepth { len: 4, limit: 3 }),
        };
        let (from, to) = (UnixMs(1000 * second), UnixMs(1000 * second + 1000));
        let sample =
            KernelSample { window: Window { from, to }, listeners: vec![delta], events_lost: 0 };
        Tick { now: to, sample, ..Tick::default() }
    }

    fn no_live(at: u64) -> Heard {
        let carrier = Carrier::plain("log", UnixMs(at));
        let upstream = Upstream::Group("app".to_owned());
        let kind = EventKind::NoLivePeers;
        let event = ProxyEvent::new(ProxyKind::Nginx, &carrier, (UnixMs(at), 0), kind, upstream);
        Heard { event, netns: None, at: UnixMs(at), line: None }
    }

    #[test]
    fn however_long_it_takes_nothing_is_lost_and_the_columns_are_bounded() {
        let mut timeline = Timeline::default();
        for second in 0..5000 {
            timeline.add(&tick(second, 2), &State::default());
        }
        assert!(timeline.columns.len() <= COLUMNS);
        assert_eq!(timeline.columns.iter().map(|column| column.drops).sum::<u64>(), 10_000);
        assert_eq!(timeline.width_ms, 16_000);
        let lane = timeline.worst(3)[0];
        assert_eq!((lane.drops, lane.depth.len()), (10_000, timeline.columns.len()));
        assert!(lane.depth.iter().all(|depth| depth.unwrap().len == 4));
    }

    #[test]
    fn words_close_together_are_one_outage() {
        let mut timeline = Timeline::default();
        let heard = [5000, 5400, 6500, 9000].map(no_live).into();
        timeline.add(&Tick { heard, ..tick(9, 0) }, &State::default());
        let outages: Vec<_> = timeline.outages.iter().map(|it| (it.from.0, it.to.0)).collect();
        assert_eq!(outages, [(5000, 6500), (9000, 9000)]);
        assert_eq!(timeline.columns.iter().map(|column| column.no_live).sum::<u64>(), 4);
    }
}
