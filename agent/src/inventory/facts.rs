//! What it takes a process's memory or files to know: which server program it is, and where a
//! forwarder leads. Any of these reads may be slow or never end, so each process has a deadline and
//! a budget of bytes, on a thread that can be given up.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    net::SocketAddr,
    ops::AddAssign,
    path::Path,
    time::{Duration, Instant},
};

use log::warn;

use super::{
    Server,
    attempt::{Attempts, Failed},
    forwarder,
    listener::{Owner, Owners},
    names::Names,
    owners::{Directory, Holders, Process},
};
use crate::untrusted_file::read_procfs;

/// How long one process may take.
const DEADLINE: Duration = Duration::from_secs(1);
/// How long all processes of one search may take; what is left is looked at by the next one.
const OF_ALL: Duration = Duration::from_secs(3);
/// How long a process is left alone that did not answer in time.
const LEFT_ALONE: Duration = Duration::from_secs(600);
/// Bytes of command line and memory map that are read of one process.
const BYTES: u64 = 1 << 20;

/// Reads another process's files within a budget of bytes.
#[derive(Debug)]
pub(super) struct Reads {
    left: u64,
    /// Whether something was longer than the budget.
    pub is_cut: bool,
}

impl Reads {
    pub(super) fn new(bytes: u64) -> Self {
        Self { left: bytes, is_cut: false }
    }

    /// The contents of a file of procfs, as far as the budget goes. `None` if it cannot be opened.
    pub(super) fn text(&mut self, path: &Path) -> Option<String> {
        let bytes = read_procfs(path, self.left).ok()?;
        self.left -= bytes.len() as u64;
        self.is_cut |= self.left == 0;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }
}

/// What became of look-ups since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lookups {
    /// Processes that did not let themselves be looked at in time.
    pub timed_out: u64,
    /// Processes that were not looked at: they timed out lately, too many others are stuck, or time
    /// ran out.
    pub skipped: u64,
    /// Processes of which only a part was read: descriptors, command line or memory map are longer
    /// than the limit.
    pub cut: u64,
    /// Threads that are stuck now.
    pub stuck: usize,
}

impl AddAssign for Lookups {
    fn add_assign(&mut self, other: Self) {
        self.timed_out += other.timed_out;
        self.skipped += other.skipped;
        self.cut += other.cut;
        self.stuck = other.stuck;
    }
}

/// The facts of one process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Facts {
    server: Option<Server>,
    forwards_to: Option<SocketAddr>,
    is_cut: bool,
}

impl Facts {
    fn read(process: &Path, command: &str) -> Self {
        let mut reads = Reads::new(BYTES);
        let line = reads.text(&process.join("cmdline")).unwrap_or_default();
        let arguments: Vec<&str> = line.split('\0').filter(|word| !word.is_empty()).collect();
        Self {
            server: Server::of_process(process, command, &arguments, &mut reads),
            forwards_to: forwarder::onward(command, &arguments),
            is_cut: reads.is_cut,
        }
    }
}

/// What is remembered of a process.
#[derive(Debug)]
enum Known {
    /// Its command then, its facts, and when it was looked at.
    Facts(String, Facts, Instant),
    /// It did not answer in time at this time.
    TimedOut(Instant),
}

/// A process as distinct from a later one with its id: pid and start.
type Identity = (u32, u64);

/// The holders of sockets, by the inode of the socket.
pub type Found = HashMap<u32, Owners>;

/// Looks for the holders of sockets. It may take long, so it is no work for a tick.
#[derive(Debug, Default)]
pub struct OwnerSearch {
    attempts: Attempts,
    known: HashMap<Identity, Known>,
    names: Names,
    has_said: bool,
}

impl OwnerSearch {
    /// Finds the holders of all `inodes` in one pass over `/proc`, and tells `publish` of them at once,
    /// with what is known of them, and again when their facts were looked up: those that are not
    /// known yet, or all, `anew`.
    pub fn search(
        &mut self,
        inodes: &HashSet<u32>,
        anew: bool,
        mut publish: impl FnMut(Found),
    ) -> Lookups {
        let mut holders = Holders::of(inodes);
        let mut lookups = Lookups { cut: holders.cut, ..Lookups::default() };
        let mut unknown = Vec::new();
        for (place, process) in holders.processes.iter_mut().enumerate() {
            let is_known = self.recall(process);
            if anew || !is_known {
                unknown.push(place);
            }
        }
        publish(holders.lists());
        self.order(&mut unknown, &holders.processes);
        let is_anything_new = self.look_up(&unknown, &mut holders.processes, &mut lookups);
        if is_anything_new {
            publish(holders.lists());
        }
        if anew {
            self.forget_others_than(&holders.processes);
        }
        lookups.stuck = self.attempts.stuck();
        lookups
    }

    /// Adds what is known of a process; false if that is not all there is to know.
    fn recall(&self, process: &mut Process) -> bool {
        let owner = &mut process.owner;
        let has_names = self.names.fill(&mut owner.workload);
        match self.known.get(&(owner.pid, process.started)) {
            // A process that runs another program than before has another command.
            Some(Known::Facts(command, facts, _)) if *command == owner.command => {
                facts.enter(owner);
                has_names
            }
            _ => false,
        }
    }

    /// Those first that were never looked at, and then those that were looked at longest ago.
    fn order(&self, places: &mut [usize], processes: &[Process]) {
        places.sort_by_cached_key(|place| {
            let process = &processes[*place];
            match self.known.get(&(process.owner.pid, process.started)) {
                Some(Known::Facts(.., at) | Known::TimedOut(at)) => Some(*at),
                None => None,
            }
        });
    }

    /// Looks up the facts of the processes at `places`, those of the user first for whom the least
    /// time was spent; true if there are any new ones.
    fn look_up(
        &mut self,
        places: &[usize],
        processes: &mut [Process],
        lookups: &mut Lookups,
    ) -> bool {
        let begun = Instant::now();
        let mut by_user: BTreeMap<u32, (Duration, VecDeque<usize>)> = BTreeMap::new();
        for place in places {
            by_user.entry(processes[*place].user).or_default().1.push_back(*place);
        }
        let mut is_anything_new = false;
        while begun.elapsed() < OF_ALL {
            let waiting = by_user.values_mut().filter(|(_, waiting)| !waiting.is_empty());
            let Some((spent, waiting)) = waiting.min_by_key(|(spent, _)| *spent) else { break };
            let Some(place) = waiting.pop_front() else { break };
            let started = Instant::now();
            is_anything_new |= self.look_at(&mut processes[place], lookups);
            *spent += started.elapsed();
        }
        let left = by_user.values().map(|(_, waiting)| waiting.len() as u64);
        lookups.skipped += left.sum::<u64>();
        is_anything_new
    }

    fn look_at(&mut self, process: &mut Process, lookups: &mut Lookups) -> bool {
        let named = self.names.look_for(&mut process.owner.workload, &mut self.attempts);
        let identity = (process.owner.pid, process.started);
        let is_left_alone =
            |known: &Known| matches!(known, Known::TimedOut(at) if at.elapsed() < LEFT_ALONE);
        if self.known.get(&identity).is_some_and(is_left_alone) {
            lookups.skipped += 1;
            return named;
        }
        let (pid, started) = identity;
        let command = process.owner.command.clone();
        let read = self.attempts.run(process.user, DEADLINE, move || {
            let directory = Directory::open(pid).ok()?;
            let is_same = directory.started() == Some(started);
            is_same.then(|| Facts::read(&directory.path(), &command))
        });
        match read {
            Ok(Some(facts)) => {
                lookups.cut += u64::from(facts.is_cut);
                facts.enter(&mut process.owner);
                let command = process.owner.command.clone();
                self.known.insert(identity, Known::Facts(command, facts, Instant::now()));
                return true;
            }
            // It has gone.
            Ok(None) => {}
            Err(Failed::NotTried) => lookups.skipped += 1,
            Err(Failed::GivenUp) => {
                lookups.timed_out += 1;
                self.known.insert(identity, Known::TimedOut(Instant::now()));
                self.say(&process.owner);
            }
        }
        named
    }

    /// Once is enough, for a metric counts them.
    fn say(&mut self, owner: &Owner) {
        if !std::mem::replace(&mut self.has_said, true) {
            warn!(
                "cannot inspect process {} ({:?}) within {} s: its executable or memory may be on \
                 a file server that does not respond. Its server program is unknown. \
                 floodmark_owner_lookups_failed_total counts further cases",
                owner.pid,
                owner.command,
                DEADLINE.as_secs()
            );
        }
    }

    fn forget_others_than(&mut self, processes: &[Process]) {
        let identities: HashSet<Identity> =
            processes.iter().map(|process| (process.owner.pid, process.started)).collect();
        self.known.retain(|identity, _| identities.contains(identity));
    }
}

impl Facts {
    fn enter(self, owner: &mut Owner) {
        owner.server = self.server;
        owner.forwards_to = self.forwards_to;
    }
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, os::unix::fs::MetadataExt};

    use super::*;

    fn search(search: &mut OwnerSearch, anew: bool) -> (Vec<Found>, Lookups, u32) {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let link = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&socket));
        let inode = u32::try_from(std::fs::metadata(link).unwrap().ino()).unwrap();
        let mut told = Vec::new();
        let lookups = search.search(&[inode].into(), anew, |found| told.push(found));
        (told, lookups, inode)
    }

    #[test]
    fn who_holds_a_socket_is_told_before_what_program_it_is() {
        let mut owners = OwnerSearch::default();
        let (told, lookups, inode) = search(&mut owners, false);
        assert_eq!((told.len(), lookups), (2, Lookups::default()));
        assert!(told.iter().all(|found| found[&inode][0].pid == std::process::id()));
        let (told, _, _) = search(&mut owners, false);
        assert_eq!(told.len(), 1, "it is known by now");
        let (told, _, _) = search(&mut owners, true);
        assert_eq!(told.len(), 2, "anew it is looked at again");
    }

    #[test]
    fn who_did_not_answer_is_left_alone() {
        let mut owners = OwnerSearch::default();
        let own = Directory::open(std::process::id()).unwrap().started().unwrap();
        owners.known.insert((std::process::id(), own), Known::TimedOut(Instant::now()));
        let (told, lookups, inode) = search(&mut owners, true);
        assert_eq!((told.len(), lookups.skipped), (1, 1));
        assert_eq!(told[0][&inode][0].pid, std::process::id());
    }

    #[test]
    fn no_more_is_read_than_the_budget() {
        let mut reads = Reads::new(1000);
        assert!(reads.text(Path::new("/proc/self/comm")).is_some() && !reads.is_cut);
        let text = reads.text(Path::new("/proc/self/maps")).unwrap();
        assert!(text.len() < 1000 && reads.is_cut);
        assert_eq!(reads.text(Path::new("/proc/self/maps")).as_deref(), Some(""));
    }
}
