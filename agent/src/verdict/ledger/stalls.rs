//! Stalled listeners, with what their holders did: of the present or the last stall of each.

use std::{collections::BTreeMap, mem, time::Duration};

use crate::{
    inventory::{Inventory, Listener},
    kernel::{ListenerId, QueueDepth},
    stall::StallSample,
    time::UnixMs,
    verdict::impediment::{Stall, StallReport, decide},
};

/// Listeners of which stalls are kept.
const MOST: usize = 64;
/// A listener that was not stalled for this long begins a new stall.
const GAP: Duration = Duration::from_secs(60);
/// Ticks after which what was seen becomes the earlier half: a report covers one to two minutes of a stall.
const HALF: u32 = 60;

/// What is kept of all stalls.
#[derive(Debug, Default)]
pub struct Stalls(BTreeMap<ListenerId, Kept>);

#[derive(Debug)]
struct Kept {
    before: Stall,
    recent: Stall,
    /// What both come to. Its listener is as last seen in the inventory: an owner that has ended is still
    /// named.
    report: StallReport,
}

impl Stalls {
    /// Takes in what a tick learned of stalled listeners.
    pub fn book(&mut self, now: UnixMs, samples: &[StallSample], inventory: &Inventory) {
        for sample in samples {
            if !self.0.contains_key(&sample.listener) {
                self.make_room();
            }
            let new = || Kept::new(sample.listener, now);
            let kept = self.0.entry(sample.listener).or_insert_with(new);
            if let Some(listener) = inventory.get(&sample.listener) {
                kept.report.listener = listener.clone();
            }
            kept.book(now, sample);
        }
    }

    /// Forgets the one that is over for longest, if there are too many.
    fn make_room(&mut self) {
        if self.0.len() >= MOST
            && let Some(oldest) =
                self.0.iter().min_by_key(|(_, kept)| kept.report.last).map(|(id, _)| *id)
        {
            self.0.remove(&oldest);
        }
    }

    /// What is told of each, the latest first.
    pub fn reports(&self) -> Vec<StallReport> {
        let mut reports: Vec<StallReport> =
            self.0.values().map(|kept| kept.report.clone()).collect();
        reports.sort_by_key(|report| std::cmp::Reverse(report.last));
        reports
    }
}

impl Kept {
    fn new(id: ListenerId, now: UnixMs) -> Self {
        Self {
            before: Stall::default(),
            recent: Stall::default(),
            report: StallReport {
                listener: Listener::unknown(id, QueueDepth::default(), None),
                looks: 0,
                last: now,
                impediments: Vec::new(),
            },
        }
    }

    fn book(&mut self, now: UnixMs, sample: &StallSample) {
        if sample.is_pressed {
            if self.report.last.later(GAP) < now {
                (self.before, self.recent) = Default::default();
            }
            self.report.last = now;
            if self.recent.ticks >= HALF {
                self.before = mem::take(&mut self.recent);
            }
        }
        self.recent.book(sample);
        let mut stall = self.before.clone();
        stall.add(&self.recent);
        self.report.looks = stall.pressed.looks + stall.calm.looks;
        self.report.impediments = decide(&stall);
    }
}

impl Stall {
    fn book(&mut self, sample: &StallSample) {
        if !sample.is_pressed {
            self.calm.add(&sample.evidence);
            return;
        }
        self.pressed.add(&sample.evidence);
        self.ticks += 1;
        self.group = sample.group;
        if sample.group > 1 && sample.idle_members * 2 >= sample.group - 1 {
            self.uneven_ticks += 1;
            self.idle_members = sample.idle_members;
        }
    }

    fn add(&mut self, later: &Self) {
        self.pressed.add(&later.pressed);
        self.calm.add(&later.calm);
        self.ticks += later.ticks;
        self.uneven_ticks += later.uneven_ticks;
        self.group = later.group.max(self.group);
        if later.uneven_ticks > 0 {
            self.idle_members = later.idle_members;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        kernel::NetnsId,
        stall::{Activity, Evidence, ProcessEvidence, ThreadEvidence},
        verdict::impediment::Impediment,
    };

    fn id(inode: u32) -> ListenerId {
        ListenerId { netns: NetnsId(1), addr: ([10, 0, 0, 1], 80).into(), inode }
    }

    fn sample(inode: u32, activity: Activity, is_pressed: bool) -> StallSample {
        let mut thread = ThreadEvidence { tid: 7, ..ThreadEvidence::default() };
        thread.saw(activity, 10);
        let process =
            ProcessEvidence { pid: 7, threads: vec![thread], ..ProcessEvidence::default() };
        let evidence = Evidence { looks: 10, processes: vec![process], cgroups: Vec::new() };
        StallSample { listener: id(inode), is_pressed, group: 1, idle_members: 0, evidence }
    }

    fn first(stalls: &Stalls) -> Impediment {
        stalls.reports()[0].impediments[0].impediment
    }

    #[test]
    fn the_seconds_after_a_stall_do_not_dilute_it() {
        let (mut stalls, inventory) = (Stalls::default(), Inventory::default());
        stalls.book(UnixMs(1000), &[sample(1, Activity::Sleeping, true)], &inventory);
        for second in 2..6 {
            let calm = [sample(1, Activity::Accepting, false)];
            stalls.book(UnixMs(second * 1000), &calm, &inventory);
        }
        let report = &stalls.reports()[0].impediments[0];
        assert_eq!((report.impediment, report.share), (Impediment::Sleeping, 1.0));
    }

    #[test]
    fn a_stall_that_is_long_over_tells_nothing_of_the_next() {
        let (mut stalls, inventory) = (Stalls::default(), Inventory::default());
        stalls.book(UnixMs(1000), &[sample(1, Activity::Sleeping, true)], &inventory);
        stalls.book(UnixMs(90_000), &[sample(1, Activity::Stopped, true)], &inventory);
        assert_eq!(first(&stalls), Impediment::Stopped);
    }

    #[test]
    fn what_lasts_is_told_of_the_last_minutes() {
        let (mut stalls, inventory) = (Stalls::default(), Inventory::default());
        for second in 1..200 {
            let activity = if second < 60 { Activity::Sleeping } else { Activity::Stopped };
            stalls.book(UnixMs(second * 1000), &[sample(1, activity, true)], &inventory);
        }
        let report = &stalls.reports()[0];
        assert_eq!(report.impediments.len(), 1);
        assert_eq!((first(&stalls), report.looks), (Impediment::Stopped, 790));
    }

    #[test]
    fn stalls_are_bounded() {
        let (mut stalls, inventory) = (Stalls::default(), Inventory::default());
        for inode in 1..200 {
            let now = UnixMs(u64::from(inode) * 1000);
            stalls.book(now, &[sample(inode, Activity::Sleeping, true)], &inventory);
        }
        assert_eq!(stalls.0.len(), MOST);
        assert_eq!(stalls.reports()[0].id(), id(199));
    }
}
