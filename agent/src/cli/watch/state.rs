//! What is shown, and what keys do to it.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use crate::{
    agent::Snapshot,
    inventory::Listener,
    kernel::{Counter, ListenerId},
    verdict::{ImpedimentReport, ListenerReport, Verdict, VerdictKind},
};

/// Seconds that sparklines reach back.
const REACH: usize = 120;
/// How long the reason of a stall is shown after it.
const STALL_SHOWN: Duration = Duration::from_secs(10);

/// What a key asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    Up,
    Down,
    Open,
    Back,
    Pause,
    Quit,
    Other,
}

/// A count of which each second's growth is kept.
#[derive(Debug, Default)]
pub struct Growth {
    last: Option<u64>,
    /// By second, the newest last.
    pub seconds: VecDeque<u64>,
}

impl Growth {
    fn heard(&mut self, total: u64) {
        // What was there at the first look did not come just now.
        let grown = self.last.map_or(0, |last| total.saturating_sub(last));
        self.last = Some(total);
        self.seconds.push_back(grown);
        if self.seconds.len() > REACH {
            self.seconds.pop_front();
        }
    }

    /// The growth within the last second.
    pub fn now(&self) -> u64 {
        self.seconds.back().copied().unwrap_or(0)
    }

    /// The last `count` seconds, the newest last.
    pub fn latest(&self, count: usize) -> Vec<u64> {
        self.seconds.iter().skip(self.seconds.len().saturating_sub(count)).copied().collect()
    }
}

/// Everything that is on the screen.
#[derive(Default)]
pub struct State {
    pub snapshot: Option<Arc<Snapshot>>,
    /// Handshakes dropped, of all listeners.
    pub drops: Growth,
    /// SYNs and SYN/ACKs that the kernels sent again.
    pub retransmits: Growth,
    /// Drops by listener; of those alone that dropped something.
    pub by_listener: BTreeMap<ListenerId, Growth>,
    selected: Option<ListenerId>,
    pub is_open: bool,
    pub is_paused: bool,
}

impl State {
    /// A second has gone by.
    pub fn heard(&mut self, snapshot: Arc<Snapshot>) {
        let report = &snapshot.report;
        self.drops.heard(report.listeners.iter().map(|lost| lost.tally.drops()).sum());
        let repeated = report.namespaces.iter().map(|netns| netns.kernel[Counter::SynRetrans]);
        self.retransmits.heard(repeated.sum());
        for lost in &report.listeners {
            let growth = self.by_listener.entry(lost.listener.id).or_default();
            // Unlike what was there at the start, a listener new in the report lost all of it now.
            growth.last.get_or_insert(0);
            growth.heard(lost.tally.drops());
        }
        let is_known = |id: &ListenerId| report.listeners.iter().any(|l| l.listener.id == *id);
        self.by_listener.retain(|id, _| is_known(id));
        if !self.is_paused || self.snapshot.is_none() {
            self.snapshot = Some(snapshot);
        }
    }

    /// False where it asks to end.
    pub fn pressed(&mut self, key: Key) -> bool {
        match key {
            Key::Quit => return false,
            Key::Up => self.step(-1),
            Key::Down => self.step(1),
            Key::Open => self.is_open = self.selected().is_some(),
            Key::Back => self.is_open = false,
            Key::Pause => self.is_paused = !self.is_paused,
            Key::Other => {}
        }
        true
    }

    fn step(&mut self, by: isize) {
        let listeners = self.listeners();
        let Some(last) = listeners.len().checked_sub(1) else { return };
        let to = self.row().saturating_add_signed(by).min(last);
        self.selected = Some(listeners[to].id);
    }

    /// Every listener, those in trouble first.
    pub fn listeners(&self) -> &[Listener] {
        self.snapshot.as_ref().map_or(&[], |snapshot| &snapshot.view.listeners)
    }

    /// The row selected. It stays with its listener when others come before it.
    pub fn row(&self) -> usize {
        let is_it = |listener: &Listener| Some(listener.id) == self.selected;
        self.listeners().iter().position(is_it).unwrap_or(0)
    }

    pub fn selected(&self) -> Option<&Listener> {
        self.listeners().get(self.row())
    }

    pub fn lost(&self, id: ListenerId) -> Option<&ListenerReport> {
        let snapshot = self.snapshot.as_ref()?;
        snapshot.report.listeners.iter().find(|lost| lost.listener.id == id)
    }

    /// Why a listener is stalled, if it is or was a moment ago.
    pub fn impediment(&self, id: ListenerId) -> Option<&ImpedimentReport> {
        let report = &self.snapshot.as_ref()?.report;
        let stall = report.stalls.iter().find(|stall| stall.id() == id)?;
        let is_recent = stall.last.later(STALL_SHOWN) >= report.window.to;
        stall.impediments.first().filter(|_| is_recent)
    }

    /// The newest verdict of each kind, the newest first, and how many of it there were; of one
    /// listener where one is named. An outage has thousands that say the same.
    pub fn verdicts(&self, of: Option<ListenerId>) -> Vec<(&Verdict, u64)> {
        let Some(snapshot) = &self.snapshot else { return Vec::new() };
        let mut known = BTreeSet::new();
        let newest_first = snapshot.report.proxy.verdicts.iter().rev().map(Arc::as_ref);
        let asked = newest_first.filter(|verdict| of.is_none() || verdict.listener == of);
        let kinds = asked.map(|verdict| (verdict, VerdictKind::of(verdict)));
        kinds
            .filter(|(_, kind)| known.insert(kind.clone()))
            .map(|(verdict, kind)| (verdict, snapshot.verdicts.get(&kind).copied().unwrap_or(1)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::fixture;

    fn state(ports: &[u16]) -> State {
        let mut snapshot = fixture::snapshot();
        let listeners: Vec<_> =
            ports.iter().map(|port| fixture::listener(*port, "app").listener).collect();
        snapshot.view = fixture::view(&listeners);
        let mut state = State::default();
        state.heard(Arc::new(snapshot));
        state
    }

    #[test]
    fn growth_is_by_second_and_begins_with_nothing() {
        let mut growth = Growth::default();
        for total in [100, 107, 107, 110] {
            growth.heard(total);
        }
        assert_eq!((growth.latest(3), growth.now()), (vec![7, 0, 3], 3));
        (0..500).for_each(|total| growth.heard(total));
        assert_eq!(growth.seconds.len(), REACH);
    }

    #[test]
    fn the_selection_stays_with_its_listener() {
        let mut state = state(&[1, 2, 3]);
        state.pressed(Key::Down);
        assert_eq!(state.selected().unwrap().id.addr.port(), 2);
        let again = self::state(&[9, 1, 2, 3]).snapshot.unwrap();
        state.heard(again);
        assert_eq!((state.row(), state.selected().unwrap().id.addr.port()), (2, 2));
        (0..9).for_each(|_| assert!(state.pressed(Key::Down)));
        assert_eq!(state.row(), 3);
        (0..9).for_each(|_| assert!(state.pressed(Key::Up)));
        assert_eq!(state.row(), 0);
        assert!(!state.pressed(Key::Quit));
    }

    #[test]
    fn what_is_paused_stays_as_it_is() {
        let mut state = state(&[1]);
        state.pressed(Key::Pause);
        let later = self::state(&[2]).snapshot.unwrap();
        state.heard(Arc::clone(&later));
        assert_eq!(state.selected().unwrap().id.addr.port(), 1);
        state.pressed(Key::Pause);
        state.heard(later);
        assert_eq!(state.selected().unwrap().id.addr.port(), 2);
    }
}
