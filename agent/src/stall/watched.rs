//! A stalled listener under observation: its processes, whose threads are looked at in turn.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use super::{
    activity::Activity,
    cgroup::{Cgroups, is_frozen},
    evidence::{Descriptors, Evidence, ProcessEvidence, ThreadEvidence},
    process::{Look, Process},
    remote::Connections,
};
use crate::kernel::ListenerId;

/// Processes of one listener that are looked at.
const MOST_PROCESSES: usize = 32;
/// Threads of one process that are looked at.
const MOST_THREADS: usize = 64;
/// Threads looked at in one go; the others follow in turn.
const AT_ONCE: usize = 16;
/// How often control groups are read, and threads listed anew.
const ROUND: Duration = Duration::from_millis(500);

/// A listener whose queue is not emptied.
#[derive(Clone, Debug)]
pub struct Stalled {
    /// Which, with the inode of its socket.
    pub listener: ListenerId,
    /// The processes that hold it.
    pub holders: Vec<Holder>,
}

/// A process that holds a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Its id.
    pub pid: u32,
    /// Its parent, where known.
    pub parent: Option<u32>,
}

/// What is kept of a stalled listener between two looks.
#[derive(Debug)]
pub(super) struct Watched {
    processes: Vec<Process>,
    /// Whether the control group of each process was frozen.
    frozen: Vec<bool>,
    /// Threads, by the places of their processes.
    threads: Vec<(usize, u32)>,
    /// The thread whose turn it is.
    turn: usize,
    before: HashMap<u32, (Instant, Look)>,
    cgroups: Cgroups,
    connections: Connections,
    round: Option<Instant>,
}

impl Watched {
    pub(super) fn open(stalled: &Stalled) -> Self {
        let inode = stalled.listener.inode;
        let open = |holder: &Holder| Process::open(holder.pid, holder.parent, inode);
        let processes: Vec<Process> =
            stalled.holders.iter().filter_map(open).take(MOST_PROCESSES).collect();
        Self {
            frozen: vec![false; processes.len()],
            processes,
            threads: Vec::new(),
            turn: 0,
            before: HashMap::new(),
            cgroups: Cgroups::default(),
            connections: Connections::default(),
            round: None,
        }
    }

    /// Looks once.
    pub(super) fn look(&mut self) -> Evidence {
        let mut evidence = Evidence { looks: 1, ..Evidence::default() };
        let now = Instant::now();
        if self.round.is_none_or(|round| now - round >= ROUND) {
            self.round = Some(now);
            evidence.cgroups = self.begin_round();
        }
        for process in &self.processes {
            evidence.processes.push(ProcessEvidence {
                pid: process.pid,
                parent: process.parent,
                threads: Vec::new(),
                descriptors: descriptors(process),
            });
        }
        for _ in 0..self.threads.len().min(AT_ONCE) {
            self.turn = (self.turn + 1) % self.threads.len();
            let (place, tid) = self.threads[self.turn];
            if let Some(thread) = self.look_at(place, tid) {
                evidence.processes[place].threads.push(thread);
            }
        }
        evidence
    }

    /// Lists the threads anew and reads the control groups.
    fn begin_round(&mut self) -> Vec<super::CgroupEvidence> {
        let mut all = Vec::new();
        self.threads.clear();
        for (place, process) in self.processes.iter().enumerate() {
            let threads = process.threads(MOST_THREADS);
            self.threads.extend(threads.into_iter().map(|tid| (place, tid)));
            let cgroups = process.cgroups().unwrap_or_default();
            self.frozen[place] = is_frozen(&cgroups);
            if !all.contains(&cgroups) {
                all.push(cgroups);
            }
        }
        let threads = &self.threads;
        self.before.retain(|tid, _| threads.iter().any(|(_, known)| known == tid));
        self.cgroups.look(&all)
    }

    fn look_at(&mut self, place: usize, tid: u32) -> Option<ThreadEvidence> {
        let look = self.processes[place].look(tid, &mut self.connections)?;
        let activity = if self.frozen[place] { Activity::Frozen } else { look.activity.clone() };
        let mut thread = ThreadEvidence { tid, ..ThreadEvidence::default() };
        thread.saw(activity, 1);
        let now = Instant::now();
        if let Some((at, before)) = self.before.get(&tid) {
            let us = |now: u64, before: u64| now.saturating_sub(before) / 1000;
            thread.timed_us = (now - *at).as_micros() as u64;
            thread.ran_us = us(look.ran_ns, before.ran_ns);
            thread.waited_us = us(look.waited_ns, before.waited_ns);
            thread.major_faults = look.major_faults.saturating_sub(before.major_faults);
        }
        self.before.insert(tid, (now, look));
        Some(thread)
    }
}

fn descriptors(process: &Process) -> Option<Descriptors> {
    let (open, limit) = process.descriptors()?;
    // One may be free at this moment because it was closed at this moment.
    let is_exhausted = open + 1 >= limit;
    Some(Descriptors { looks: 1, exhausted: u32::from(is_exhausted), open, limit })
}
