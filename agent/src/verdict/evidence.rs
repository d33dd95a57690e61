//! What the kernel lost, kept for as long as a proxy's event may still reach back to it.

use std::{
    collections::{HashMap, VecDeque},
    net::SocketAddr,
    time::Duration,
};

use crate::{
    kernel::{Attribution, KernelSample, NetnsId, Tally},
    time::{UnixMs, Window},
};

/// Losses of the recent past, by the address listened on. A restarted application has another
/// socket at the same address, and what the old one lost still explains what the proxy saw.
pub struct Evidence {
    horizon: Duration,
    slices: HashMap<Place, VecDeque<Slice>>,
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
}

impl Evidence {
    /// Keeps evidence for `horizon`, at most one slice per listener and sample.
    pub fn new(horizon: Duration) -> Self {
        Self { horizon, slices: HashMap::new() }
    }

    /// Takes in a sample and forgets what is older than the horizon.
    pub fn add(&mut self, sample: &KernelSample) {
        for delta in &sample.listeners {
            let place = (delta.listener.netns, delta.listener.addr);
            self.slices.entry(place).or_default().push_back(Slice {
                window: sample.window,
                tally: delta.tally,
                attribution: delta.attribution,
            });
        }
        self.forget(sample.window.to.earlier(self.horizon));
    }

    /// What was lost at `place` inside `window`; `None` where nothing was.
    pub fn within(&self, place: &Place, window: &Window) -> Option<Losses> {
        let slices = self.slices.get(place)?.iter().filter(|slice| slice.window.overlaps(window));
        slices.fold(None, |sum: Option<Losses>, slice| {
            let mut losses =
                sum.unwrap_or(Losses { tally: Tally::default(), attribution: slice.attribution });
            losses.tally += slice.tally;
            losses.attribution = losses.attribution.min(slice.attribution);
            Some(losses)
        })
    }

    /// Places at exactly `addr`, in whichever namespace, that lost something within the horizon.
    pub fn places_at(&self, addr: SocketAddr) -> impl Iterator<Item = Place> {
        self.slices.keys().copied().filter(move |place| place.1 == addr)
    }

    fn forget(&mut self, before: UnixMs) {
        self.slices.retain(|_, slices| {
            while slices.front().is_some_and(|slice| slice.window.to < before) {
                slices.pop_front();
            }
            !slices.is_empty()
        });
    }
}
