//! What was seen of a stalled listener's holders, in counts that can be added up.

use serde::{Deserialize, Serialize};

use super::activity::Activity;
use crate::kernel::ListenerId;

/// Activities of one thread that are told apart; further ones are counted as looks only.
const MOST_ACTIVITIES: usize = 12;
/// Threads of which evidence is kept, over all processes.
const MOST_THREADS: usize = 512;
/// Control groups of which evidence is kept.
const MOST_CGROUPS: usize = 64;

/// What was seen of a listener's holders.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// How often its holders were looked at.
    pub looks: u32,
    /// The holders.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub processes: Vec<ProcessEvidence>,
    /// Their control groups and those above, as far as these limit something.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cgroups: Vec<CgroupEvidence>,
}

/// What a tick learned of a stalled listener.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StallSample {
    /// Which.
    pub listener: ListenerId,
    /// Whether its queue was at half its limit or more, or dropped, since the last tick; if not, it was a
    /// moment ago.
    pub is_pressed: bool,
    /// Sockets that share its address by SO_REUSEPORT, itself included, and how many of the others had
    /// room: a queue below half its limit.
    pub group: u32,
    /// See `group`.
    pub idle_members: u32,
    /// What its holders did since the last tick.
    pub evidence: Evidence,
}

/// What was seen of one holder.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ProcessEvidence {
    /// Its id.
    pub pid: u32,
    /// Its parent's id, where known.
    pub parent: Option<u32>,
    /// Its threads, as far as they were looked at.
    pub threads: Vec<ThreadEvidence>,
    /// Its open files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub descriptors: Option<Descriptors>,
}

/// Open files against their limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Descriptors {
    /// How often they were counted.
    pub looks: u32,
    /// How often no further one could be opened.
    pub exhausted: u32,
    /// The most that were open.
    pub open: u64,
    /// The limit when last read (RLIMIT_NOFILE, soft).
    pub limit: u64,
}

/// What was seen of one thread.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ThreadEvidence {
    /// Its id.
    pub tid: u32,
    /// How often it was looked at.
    pub looks: u32,
    /// How often it did what.
    pub activities: Vec<(Activity, u32)>,
    /// Time between looks over which the following were taken, in microseconds.
    pub timed_us: u64,
    /// Time on a processor, in microseconds.
    pub ran_us: u64,
    /// Time ready to run without a processor, in microseconds.
    pub waited_us: u64,
    /// Page faults that took reading from disk or swap.
    pub major_faults: u64,
}

/// What was seen of a control group.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CgroupEvidence {
    /// Its path.
    pub path: String,
    /// Time over which counters were taken, in microseconds.
    pub timed_us: u64,
    /// Periods of its processor quota in which something ran.
    #[serde(default)]
    pub periods: u64,
    /// Of them those in which it was throttled.
    #[serde(default)]
    pub throttled: u64,
    /// Time for which it was throttled, in microseconds, added up over processors.
    #[serde(default)]
    pub throttled_us: u64,
    /// The quota when last read, in thousandths of a processor.
    #[serde(default)]
    pub quota_millis: Option<u64>,
    /// Time in which some task waited for memory, in microseconds (pressure stall information).
    #[serde(default)]
    pub memory_stalled_us: u64,
    /// How often it reached its limit of memory.
    #[serde(default)]
    pub memory_hits: u64,
    /// The limit of memory in bytes when last read.
    #[serde(default)]
    pub memory_limit: Option<u64>,
}

impl Evidence {
    /// Adds what was seen at another time.
    pub fn add(&mut self, other: &Self) {
        self.looks = self.looks.saturating_add(other.looks);
        let mut room = MOST_THREADS.saturating_sub(self.threads().count());
        for process in &other.processes {
            let known = place(
                &mut self.processes,
                |known| known.pid == process.pid,
                || ProcessEvidence { pid: process.pid, ..ProcessEvidence::default() },
            );
            known.add(process, &mut room);
        }
        for cgroup in &other.cgroups {
            let is_known = |known: &CgroupEvidence| known.path == cgroup.path;
            if self.cgroups.len() < MOST_CGROUPS || self.cgroups.iter().any(is_known) {
                let new = || CgroupEvidence { path: cgroup.path.clone(), ..Default::default() };
                place(&mut self.cgroups, is_known, new).add(cgroup);
            }
        }
    }

    /// All threads.
    pub fn threads(&self) -> impl Iterator<Item = &ThreadEvidence> {
        self.processes.iter().flat_map(|process| &process.threads)
    }
}

/// The item that is meant, added if it is not there yet.
fn place<T>(all: &mut Vec<T>, is_it: impl Fn(&T) -> bool, new: impl FnOnce() -> T) -> &mut T {
    let at = all.iter().position(is_it).unwrap_or_else(|| {
        all.push(new());
        all.len() - 1
    });
    &mut all[at]
}

impl ProcessEvidence {
    /// `room` is how many further threads are kept.
    fn add(&mut self, other: &Self, room: &mut usize) {
        self.parent = other.parent.or(self.parent);
        for thread in &other.threads {
            let is_known = |known: &ThreadEvidence| known.tid == thread.tid;
            if !self.threads.iter().any(is_known) {
                if *room == 0 {
                    continue;
                }
                *room -= 1;
            }
            let new = || ThreadEvidence { tid: thread.tid, ..ThreadEvidence::default() };
            place(&mut self.threads, is_known, new).add(thread);
        }
        if let Some(other) = other.descriptors {
            let own = self.descriptors.get_or_insert_default();
            own.looks = own.looks.saturating_add(other.looks);
            own.exhausted = own.exhausted.saturating_add(other.exhausted);
            own.open = own.open.max(other.open);
            own.limit = other.limit;
        }
    }
}

impl ThreadEvidence {
    /// Adds a look.
    pub fn saw(&mut self, activity: Activity, looks: u32) {
        self.looks = self.looks.saturating_add(looks);
        if let Some((_, count)) = self.activities.iter_mut().find(|(known, _)| *known == activity) {
            *count = count.saturating_add(looks);
        } else if self.activities.len() < MOST_ACTIVITIES {
            self.activities.push((activity, looks));
        }
    }

    fn add(&mut self, other: &Self) {
        let before = self.looks;
        for (activity, looks) in &other.activities {
            self.saw(activity.clone(), *looks);
        }
        self.looks = before.saturating_add(other.looks);
        self.timed_us = self.timed_us.saturating_add(other.timed_us);
        self.ran_us = self.ran_us.saturating_add(other.ran_us);
        self.waited_us = self.waited_us.saturating_add(other.waited_us);
        self.major_faults = self.major_faults.saturating_add(other.major_faults);
    }

    /// Share of the looks at which it did what `is_meant` says.
    pub fn share(&self, is_meant: impl Fn(&Activity) -> bool) -> f64 {
        let meant = self.activities.iter().filter(|(activity, _)| is_meant(activity));
        let looks: u32 = meant.map(|(_, looks)| *looks).sum();
        ratio(u64::from(looks), u64::from(self.looks))
    }
}

impl CgroupEvidence {
    fn add(&mut self, other: &Self) {
        let counters = [
            (&mut self.timed_us, other.timed_us),
            (&mut self.periods, other.periods),
            (&mut self.throttled, other.throttled),
            (&mut self.throttled_us, other.throttled_us),
            (&mut self.memory_stalled_us, other.memory_stalled_us),
            (&mut self.memory_hits, other.memory_hits),
        ];
        for (own, other) in counters {
            *own = own.saturating_add(other);
        }
        self.quota_millis = other.quota_millis;
        self.memory_limit = other.memory_limit;
    }
}

/// One count as a share of another, 0 if that is 0.
pub fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn thread(tid: u32, looks: u32) -> ThreadEvidence {
        let mut thread = ThreadEvidence { tid, timed_us: 100, ..ThreadEvidence::default() };
        thread.saw(Activity::Sleeping, looks);
        thread
    }

    fn evidence(pid: u32, threads: Vec<ThreadEvidence>) -> Evidence {
        let process = ProcessEvidence { pid, threads, ..ProcessEvidence::default() };
        Evidence { looks: 1, processes: vec![process], cgroups: Vec::new() }
    }

    #[test]
    fn what_was_seen_at_two_times_adds_up() {
        let mut sum = evidence(7, vec![thread(7, 3)]);
        sum.add(&evidence(7, vec![thread(7, 2), thread(8, 1)]));
        sum.add(&evidence(9, vec![thread(9, 4)]));
        let told: Vec<(u32, u32)> = sum.threads().map(|t| (t.tid, t.looks)).collect();
        assert_eq!((told, sum.looks), (vec![(7, 5), (8, 1), (9, 4)], 3));
        assert_eq!(sum.processes[0].threads[0].timed_us, 200);
    }

    #[test]
    fn evidence_is_bounded_and_shares_stay_true() {
        let mut sum = Evidence::default();
        for pid in 0..1000 {
            sum.add(&evidence(pid, (0..4).map(|tid| thread(pid * 4 + tid, 1)).collect()));
        }
        assert_eq!(sum.threads().count(), MOST_THREADS);
        let mut many = ThreadEvidence::default();
        for port in 0..100 {
            let target = super::super::Target::Remote(([10, 0, 0, 1], port).into());
            let wait = super::super::Wait { call: "recvfrom".to_owned(), target };
            many.saw(Activity::Waiting(wait), 1);
        }
        let mut sum = ThreadEvidence::default();
        sum.add(&many);
        assert_eq!((sum.activities.len(), sum.looks), (MOST_ACTIVITIES, 100));
    }
}
