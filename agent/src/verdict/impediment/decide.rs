//! From what a stalled listener's holders did to the impediments that explain it.

use super::{Detail, Impediment, ImpedimentReport};
use crate::{
    stall::{
        Activity, CgroupEvidence, Evidence, ProcessEvidence, Target, ThreadEvidence, Wait, ratio,
    },
    verdict::verdict::Confidence,
};

/// Share from which an impediment holds.
const HELD: f64 = 0.4;
/// Share from which it can be sure.
const SURE: f64 = 0.75;
/// Looks below which nothing is sure.
const FEW: u32 = 8;
/// Share of the looks at which a thread does nothing else, if it does one thing only.
const ALWAYS: f64 = 0.9;
/// Share of throttled periods from which the quota is what holds a group up.
const THROTTLED: f64 = 0.3;
/// Share of the time in which some task waited for memory.
const SHORT_OF_MEMORY: f64 = 0.2;
/// Page faults per second that read from disk, of a process that reaches its limit of memory.
const THRASHING: f64 = 5.0;
/// Share of the looks at which no worker of several accepts.
const ALL_BUSY: f64 = 0.75;
/// The least share with which an activity is named if nothing else explains the stall.
const LEAST: f64 = 0.2;

/// What is known of one listener's stall.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stall {
    /// What its holders did while the queue was at half its limit or dropped.
    pub pressed: Evidence,
    /// The same, in the seconds after.
    pub calm: Evidence,
    /// Ticks at which it was stalled.
    pub ticks: u32,
    /// Ticks at which at least half of the other sockets of its group had room.
    pub uneven_ticks: u32,
    /// Sockets of its group, and those of the others that had room at the last such tick.
    pub group: u32,
    /// See `group`.
    pub idle_members: u32,
}

/// The impediments that hold, the most telling first. Empty if nothing is known of the holders.
pub fn decide(stall: &Stall) -> Vec<ImpedimentReport> {
    let crowd = Crowd::of(&stall.pressed);
    let mut found = if crowd.is_known() { crowd.impediments(stall) } else { Vec::new() };
    if found.is_empty() {
        found.extend(burst(&crowd, &Crowd::of(&stall.calm)));
    }
    found.sort_by_key(|report| report.impediment);
    found
}

/// More arrived at once than the queue holds. The queue may have been emptied before the first look.
fn burst(pressed: &Crowd<'_>, calm: &Crowd<'_>) -> Option<ImpedimentReport> {
    let seen = if pressed.is_known() { pressed } else { calm };
    let accepting = seen.share(|activity| *activity == Activity::Accepting);
    (seen.is_known() && accepting >= HELD).then(|| {
        let sure = seen.confidence(accepting);
        // What happened before the first look is concluded, not seen.
        let confidence = if pressed.is_known() { sure } else { sure.min(Confidence::Medium) };
        ImpedimentReport {
            impediment: Impediment::Burst,
            share: accepting,
            confidence,
            pids: seen.pids(),
            detail: None,
        }
    })
}

/// The processes and threads that should accept.
struct Crowd<'a> {
    processes: Vec<&'a ProcessEvidence>,
    threads: Vec<&'a ThreadEvidence>,
    cgroups: &'a [CgroupEvidence],
    looks: u32,
}

fn accepts(thread: &ThreadEvidence) -> bool {
    thread.share(|activity| *activity == Activity::Accepting) > 0.0
}

/// Whether a thread waits for others to give it work, or to end.
fn is_idle(thread: &ThreadEvidence) -> bool {
    let idle = [Activity::Locked, Activity::Polling, Activity::Supervising];
    thread.share(|activity| idle.contains(activity)) >= ALWAYS
}

fn sleeps(thread: &ThreadEvidence) -> bool {
    thread.share(|activity| *activity == Activity::Sleeping) >= ALWAYS
}

impl<'a> Crowd<'a> {
    fn of(evidence: &'a Evidence) -> Self {
        let all = &evidence.processes;
        let accepting = |process: &ProcessEvidence| process.threads.iter().any(accepts);
        let is_parent =
            |process: &ProcessEvidence| all.iter().any(|child| child.parent == Some(process.pid));
        let parent_accepts = |process: &ProcessEvidence| {
            let parent = all.iter().find(|parent| Some(parent.pid) == process.parent);
            parent.is_some_and(accepting)
        };
        // The parent of pre-forked workers leaves accepting to them; children of one that accepts have
        // inherited the socket.
        let is_meant = |process: &&ProcessEvidence| {
            accepting(process) || !(is_parent(process) || parent_accepts(process))
        };
        let processes: Vec<&ProcessEvidence> = all.iter().filter(is_meant).collect();
        let threads = processes.iter().flat_map(|process| accepting_threads(process));
        let threads: Vec<&ThreadEvidence> = threads.filter(|thread| thread.looks > 0).collect();
        Self { threads, processes, cgroups: &evidence.cgroups, looks: evidence.looks }
    }

    fn is_known(&self) -> bool {
        !self.threads.is_empty()
    }

    /// The mean share over threads.
    fn share(&self, is_meant: impl Fn(&Activity) -> bool) -> f64 {
        let sum: f64 = self.threads.iter().map(|thread| thread.share(&is_meant)).sum();
        sum / self.threads.len().max(1) as f64
    }

    /// The share of the time that `of` stands for.
    fn time(&self, of: impl Fn(&ThreadEvidence) -> u64) -> f64 {
        let timed = self.threads.iter().map(|thread| thread.timed_us).sum();
        ratio(self.threads.iter().map(|thread| of(thread)).sum(), timed)
    }

    fn confidence(&self, share: f64) -> Confidence {
        if self.looks < FEW || share < HELD {
            Confidence::Low
        } else if share < SURE {
            Confidence::Medium
        } else {
            Confidence::High
        }
    }

    fn pids(&self) -> Vec<u32> {
        self.processes.iter().map(|process| process.pid).collect()
    }

    fn report(
        &self,
        impediment: Impediment,
        share: f64,
        detail: Option<Detail>,
    ) -> ImpedimentReport {
        let share = share.clamp(0.0, 1.0);
        let confidence = self.confidence(share);
        ImpedimentReport { impediment, share, confidence, pids: self.pids(), detail }
    }

    fn impediments(&self, stall: &Stall) -> Vec<ImpedimentReport> {
        let mut found: Vec<ImpedimentReport> = Vec::new();
        found.extend(self.halted());
        found.extend(self.no_descriptors());
        found.extend(self.uneven(stall));
        let is_halted = found
            .iter()
            .any(|it| [Impediment::Stopped, Impediment::Frozen].contains(&it.impediment));
        if is_halted {
            return found;
        }
        found.extend(self.memory());
        found.extend(self.processor());
        let lacks = [
            Impediment::NoDescriptors,
            Impediment::Throttled,
            Impediment::Memory,
            Impediment::CpuStarved,
        ];
        let lacks_something = found.iter().any(|it| lacks.contains(&it.impediment));
        found.extend(self.occupied(lacks_something));
        let explains = |it: &ImpedimentReport| it.impediment != Impediment::Uneven;
        if !found.iter().any(explains) {
            found.extend(self.most_likely());
        }
        found
    }

    fn halted(&self) -> Option<ImpedimentReport> {
        let of = |activity: &Activity| self.share(|it| it == activity);
        let (stopped, traced) = (of(&Activity::Stopped), of(&Activity::Traced));
        let frozen = of(&Activity::Frozen);
        if frozen >= HELD {
            return Some(self.report(Impediment::Frozen, frozen, None));
        }
        let detail = (traced > stopped).then_some(Detail::Debugger);
        (stopped + traced >= HELD)
            .then(|| self.report(Impediment::Stopped, stopped + traced, detail))
    }

    fn no_descriptors(&self) -> Option<ImpedimentReport> {
        let counted = self.processes.iter().filter_map(|process| process.descriptors);
        let worst = counted
            .map(|it| (ratio(it.exhausted.into(), it.looks.into()), it))
            .max_by(|one, other| one.0.total_cmp(&other.0));
        if let Some((share, files)) = worst.filter(|(share, _)| *share >= HELD) {
            let detail = Detail::Files { open: files.open, limit: files.limit };
            return Some(self.report(Impediment::NoDescriptors, share, Some(detail)));
        }
        let paused = self.share(|activity| *activity == Activity::Polling);
        (paused >= SURE).then(|| {
            let report = self.report(Impediment::NoDescriptors, paused, Some(Detail::NotWatching));
            // Which limit it is at is not seen.
            ImpedimentReport { confidence: report.confidence.min(Confidence::Medium), ..report }
        })
    }

    fn uneven(&self, stall: &Stall) -> Option<ImpedimentReport> {
        let share = ratio(stall.uneven_ticks.into(), stall.ticks.into());
        let accepts = self.share(|activity| *activity == Activity::Accepting) >= HELD;
        (share >= HELD && !accepts).then(|| {
            let detail = Detail::Group { members: stall.group, idle: stall.idle_members };
            self.report(Impediment::Uneven, share, Some(detail))
        })
    }

    fn memory(&self) -> Option<ImpedimentReport> {
        let in_kernel = |activity: &Activity| {
            matches!(activity, Activity::Waiting(Wait { target: Target::Kernel(_), .. }))
        };
        let faults: u64 = self.threads.iter().map(|thread| thread.major_faults).sum();
        let timed: u64 = self.threads.iter().map(|thread| thread.timed_us).sum();
        let thrashes = ratio(faults * 1_000_000, timed) >= THRASHING;
        let share_of = |cgroup: &CgroupEvidence| {
            let stalled = ratio(cgroup.memory_stalled_us, cgroup.timed_us);
            let at_limit = cgroup.memory_hits > 0 && thrashes;
            let held_up =
                self.share(|it| *it == Activity::Running || in_kernel(it)) * f64::from(at_limit);
            if cgroup.memory_limit.is_some() { stalled.max(held_up) } else { 0.0 }
        };
        let worst = self.cgroups.iter().map(|cgroup| (share_of(cgroup), cgroup));
        let worst = worst.max_by(|one, other| one.0.total_cmp(&other.0));
        let reclaims = self.share(waits_for_memory);
        let share = worst.map_or(0.0, |(share, _)| share).max(reclaims);
        (share >= SHORT_OF_MEMORY).then(|| {
            let detail = worst.filter(|(share, _)| *share > 0.0).map(|(_, cgroup)| {
                Detail::Memory { cgroup: cgroup.path.clone(), limit: cgroup.memory_limit }
            });
            self.report(Impediment::Memory, share, detail)
        })
    }

    /// Threads that want a processor: what they get of one.
    fn processor(&self) -> Option<ImpedimentReport> {
        let running = self.share(|activity| *activity == Activity::Running);
        let throttling = |cgroup: &CgroupEvidence| ratio(cgroup.throttled, cgroup.periods);
        let limited = self.cgroups.iter().filter(|cgroup| cgroup.quota_millis.is_some());
        let worst = limited.max_by(|one, other| throttling(one).total_cmp(&throttling(other)));
        if let Some(cgroup) = worst.filter(|it| throttling(it) >= THROTTLED && running >= LEAST) {
            let detail = self.quota(cgroup);
            return Some(self.report(Impediment::Throttled, throttling(cgroup), Some(detail)));
        }
        let (ran, waited) = (self.time(|it| it.ran_us), self.time(|it| it.waited_us));
        if waited >= HELD && waited > ran {
            return Some(self.report(Impediment::CpuStarved, waited, None));
        }
        (ran + waited >= SURE).then(|| self.report(Impediment::CpuBound, ran + waited, None))
    }

    /// What a group used, which is all of its quota, and what it was throttled for; no more than its threads
    /// could have used.
    fn quota(&self, cgroup: &CgroupEvidence) -> Detail {
        let cores = cgroup.quota_millis.unwrap_or(0) as f64 / 1000.0;
        let throttled = ratio(cgroup.throttled_us, cgroup.timed_us);
        let runners = self
            .threads
            .iter()
            .filter(|thread| thread.share(|activity| *activity == Activity::Running) >= LEAST);
        let most = (runners.count().max(1) as f64).max(cores);
        Detail::Quota {
            cgroup: cgroup.path.clone(),
            cores,
            needed: (cores + throttled).min(most),
            periods: cgroup.periods,
            throttled: cgroup.throttled,
        }
    }

    /// What the threads wait for instead of connections.
    fn occupied(&self, lacks_something: bool) -> Vec<ImpedimentReport> {
        let mut found = Vec::new();
        let sleeping = self.share(|activity| *activity == Activity::Sleeping);
        if sleeping >= HELD && !lacks_something {
            found.push(self.report(Impediment::Sleeping, sleeping, None));
        }
        let waiting = self.most_waited_for();
        let locked = self.share(|activity| *activity == Activity::Locked);
        if let Some((wait, share)) = waiting.filter(|(_, share)| *share >= HELD.max(locked)) {
            found.push(self.report(Impediment::Blocked, share, Some(Detail::Wait(wait))));
        } else if locked >= HELD {
            found.push(self.report(Impediment::Blocked, locked, Some(Detail::Lock)));
        }
        let is_off = |activity: &Activity| {
            [Activity::Accepting, Activity::Polling, Activity::Supervising].contains(activity)
        };
        let busy = 1.0 - self.share(is_off);
        let is_bound = self.time(|it| it.ran_us + it.waited_us) >= SURE;
        if self.threads.len() > 1 && busy >= ALL_BUSY && !is_bound && !lacks_something {
            let detail = Detail::Workers { count: self.threads.len() };
            found.push(self.report(Impediment::WorkersBusy, busy, Some(detail)));
        }
        found
    }

    /// What is waited for most, with its share; system calls on the same thing are one.
    fn most_waited_for(&self) -> Option<(Wait, f64)> {
        let waits = self.threads.iter().flat_map(|thread| &thread.activities);
        let waits = waits.filter_map(|(activity, _)| match activity {
            Activity::Waiting(wait) if !waits_for_memory(activity) => Some(wait),
            _ => None,
        });
        // The other end of a new socket is looked up now and then only.
        let is_same = |wait: &Wait, other: &Wait| {
            let is_socket = matches!(wait.target, Target::Remote(_) | Target::OwnClient);
            other.target == wait.target
                || (is_socket && other.target == Target::Socket && other.call == wait.call)
        };
        let share_of = |wait: &Wait| {
            self.share(|it| matches!(it, Activity::Waiting(other) if is_same(wait, other)))
        };
        let rated = waits.map(|wait| (wait.clone(), share_of(wait)));
        rated.max_by(|one, other| one.1.total_cmp(&other.1))
    }

    /// Where nothing holds most of the time: what comes next.
    fn most_likely(&self) -> Option<ImpedimentReport> {
        let accepting = self.share(|activity| *activity == Activity::Accepting);
        let sleeping = self.share(|activity| *activity == Activity::Sleeping);
        let running = self.time(|it| it.ran_us + it.waited_us);
        let locked = self.share(|activity| *activity == Activity::Locked);
        let mut candidates = vec![
            (Impediment::Sleeping, sleeping, None),
            (Impediment::CpuBound, running, None),
            (Impediment::Blocked, locked, Some(Detail::Lock)),
        ];
        if let Some((wait, share)) = self.most_waited_for() {
            candidates.push((Impediment::Blocked, share, Some(Detail::Wait(wait))));
        }
        let best = candidates.into_iter().max_by(|one, other| one.1.total_cmp(&other.1))?;
        let (impediment, share, detail) = best;
        (accepting < HELD && share >= LEAST).then(|| ImpedimentReport {
            confidence: Confidence::Low,
            ..self.report(impediment, share, detail)
        })
    }
}

/// Those of a process that accept, or would.
fn accepting_threads(process: &ProcessEvidence) -> Vec<&ThreadEvidence> {
    let all = &process.threads;
    let seen: Vec<&ThreadEvidence> = all.iter().filter(|thread| accepts(thread)).collect();
    if !seen.is_empty() {
        return seen;
    }
    let main = all.iter().find(|thread| thread.tid == process.pid);
    let others: Vec<&ThreadEvidence> =
        all.iter().filter(|it| it.tid != process.pid && !is_idle(it)).collect();
    match main {
        // A main thread that only waits has left the work to others.
        Some(main) if is_idle(main) && !others.is_empty() => others,
        Some(main) if sleeps(main) && others.len() > 1 => others,
        Some(main) => vec![main],
        None => others,
    }
}

/// Whether a task is in a kernel function that waits for memory (mm/vmscan.c, mm/memcontrol.c,
/// mm/page_alloc.c).
fn waits_for_memory(activity: &Activity) -> bool {
    let Activity::Waiting(Wait { target: Target::Kernel(function), .. }) = activity else {
        return false;
    };
    let parts = ["mem_cgroup", "memcg", "reclaim", "shrink", "swap", "oom"];
    parts.iter().any(|part| function.contains(part))
}

#[cfg(test)]
mod tests;
