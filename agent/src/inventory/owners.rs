//! Which processes hold a socket: `/proc/PID/fd/N` is a link to `socket:[INODE]`.
//!
//! A pass over `/proc` reads what the kernel itself keeps of a process: descriptors, `comm`, `cgroup`,
//! `stat`. What it takes the process's memory or files to know is [`facts`](super::facts).

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs::{self, File},
    io,
    os::{fd::AsRawFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
    sync::Once,
};

use log::warn;
use nix::fcntl::readlinkat;

use super::{
    facts::Reads,
    listener::{Owner, Owners},
};
use crate::kernel::{netns::pids, sock_diag::inode_of_link};

/// Descriptors of one process that are looked at. They come in ascending order, and servers open
/// their listening sockets before their connections.
const MOST_DESCRIPTORS: usize = 1 << 16;
/// Bytes of `comm`, `cgroup` and `stat`: a control group's path has at most 4 KiB, and cgroup v1 has
/// a dozen hierarchies.
const MOST_BYTES: u64 = 64 << 10;
/// Holders of one socket that are named, those with the lowest pids.
const MOST_HOLDERS: usize = 64;
/// Holders named in all lists that differ; beyond, the lists are made shorter.
const MOST_NAMED: usize = 20_000;

/// A process's directory in procfs. Kept open, it stays that of this very process: once it has died
/// nothing can be read there any more, even if its id has gone to another.
pub(super) struct Directory {
    file: File,
}

impl Directory {
    pub(super) fn open(pid: u32) -> io::Result<Self> {
        Ok(Self { file: File::open(format!("/proc/{pid}"))? })
    }

    /// A path of it that is valid while it is open.
    pub(super) fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.file.as_raw_fd()))
    }

    /// What `stat` says of it.
    fn stat(&self) -> Option<Stat> {
        Stat::of(&Reads::new(MOST_BYTES).text(&self.path().join("stat"))?)
    }

    /// When the process started, which with the pid tells it from a later one.
    pub(super) fn started(&self) -> Option<u64> {
        Some(self.stat()?.started)
    }

    /// The user it belongs to; 0 for one that may not be dumped.
    fn user(&self) -> Option<u32> {
        Some(self.file.metadata().ok()?.uid())
    }
}

/// What `/proc/PID/stat` says of a process (proc_pid_stat(5)).
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    /// Its parent: field 4.
    parent: u32,
    /// When it started, in ticks since boot: field 22.
    started: u64,
}

impl Stat {
    /// The second field is the command in parentheses, which may hold anything.
    fn of(stat: &str) -> Option<Self> {
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
        Some(Self { parent: fields.get(1)?.parse().ok()?, started: fields.get(19)?.parse().ok()? })
    }
}

/// A process that holds a socket.
#[derive(Clone, Debug)]
pub(super) struct Process {
    /// When it started.
    pub started: u64,
    pub user: u32,
    /// What is known of it.
    pub owner: Owner,
}

/// Who holds what, of the sockets that were asked for.
#[derive(Debug, Default)]
pub(super) struct Holders {
    /// Processes by ascending pid.
    pub processes: Vec<Process>,
    /// By the inode of a socket, places in `processes`.
    held: HashMap<u32, Vec<u32>>,
    /// Processes of which not every descriptor was looked at.
    pub cut: u64,
}

impl Holders {
    /// Finds the holders of all `inodes` in one pass over `/proc`. Processes that die meanwhile are
    /// left out; so are those that the agent may not look at, which is said once.
    pub(super) fn of(inodes: &HashSet<u32>) -> Self {
        let mut found = Self::default();
        if inodes.is_empty() {
            return found;
        }
        // With hidepid=2 other people's processes are not even listed (proc(5)).
        if !Path::new("/proc/1").exists() {
            say_partial();
        }
        let mut all: Vec<u32> = pids().collect();
        all.sort_unstable();
        for pid in all {
            let Ok(directory) = Directory::open(pid) else { continue };
            let (held, is_cut) = sockets_of(&directory.path(), inodes);
            found.cut += u64::from(is_cut);
            let Some(process) = (!held.is_empty()).then(|| describe(pid, &directory)).flatten()
            else {
                continue;
            };
            let place = u32::try_from(found.processes.len()).unwrap_or(u32::MAX);
            found.processes.push(process);
            for inode in held {
                let holders = found.held.entry(inode).or_default();
                if holders.len() < MOST_HOLDERS {
                    holders.push(place);
                }
            }
        }
        found
    }

    /// The holders of each socket. Sockets with the same holders share one list.
    pub(super) fn lists(&self) -> HashMap<u32, Owners> {
        let mut different: HashMap<&[u32], Owners> = HashMap::new();
        for places in self.held.values() {
            different.entry(places).or_default();
        }
        let most = share(different.keys().map(|places| places.len()), MOST_NAMED).max(1);
        for (places, owners) in &mut different {
            let named = places.iter().take(most);
            let owner = |place: &u32| Some(self.processes.get(*place as usize)?.owner.clone());
            *owners = named.filter_map(owner).collect::<Vec<_>>().into();
        }
        let list = |places: &Vec<u32>| different.get(places.as_slice()).cloned();
        self.held.iter().map(|(inode, places)| (*inode, list(places).unwrap_or_default())).collect()
    }
}

/// The largest share that each may have so that all together have no more than `most`.
pub(super) fn share(wanted: impl Iterator<Item = usize>, most: usize) -> usize {
    let mut counts: BTreeMap<usize, usize> = BTreeMap::new();
    let mut left = 0;
    for count in wanted {
        *counts.entry(count).or_default() += 1;
        left += 1;
    }
    let mut room = most;
    for (count, takers) in counts {
        // Whoever wants less than an equal part leaves the rest to the others.
        if count > room / left {
            return room / left;
        }
        room -= count * takers;
        left -= takers;
    }
    usize::MAX
}

/// Those of `inodes` that the process holds, and whether some descriptors were left out.
fn sockets_of(process: &Path, inodes: &HashSet<u32>) -> (HashSet<u32>, bool) {
    let descriptors = process.join("fd");
    let opened = fs::read_dir(&descriptors).and_then(|all| Ok((File::open(&descriptors)?, all)));
    let (directory, entries) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            if error.kind() == io::ErrorKind::PermissionDenied {
                say_partial();
            }
            return (HashSet::new(), false);
        }
    };
    let mut entries = entries.flatten();
    // From the directory on: the way there, by two links of procfs, costs more than the link's text.
    let held = entries
        .by_ref()
        .take(MOST_DESCRIPTORS)
        .filter_map(|entry| {
            inode_of_link(&readlinkat(&directory, entry.file_name().as_os_str()).ok()?)
        })
        .filter(|inode| inodes.contains(inode))
        .collect();
    (held, entries.next().is_some())
}

/// Once is enough: whoever may not look now may not at the next sweep either.
fn say_partial() {
    static SAID: Once = Once::new();
    SAID.call_once(|| {
        warn!(
            "cannot see the owners of some sockets; grant CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH, \
             and if /proc is mounted with hidepid, add the agent to its group"
        );
    });
}

fn describe(pid: u32, directory: &Directory) -> Option<Process> {
    let mut reads = Reads::new(MOST_BYTES);
    let mut text = |name: &str| reads.text(&directory.path().join(name));
    // A process may give itself a name that is no UTF-8.
    let command = text("comm")?.trim_end().to_owned();
    let cgroup = text("cgroup").and_then(|text| cgroup_path(&text));
    // The kernel function in which the main thread sleeps (kernel/exit.c).
    let awaits_children = text("wchan").is_some_and(|name| name == "do_wait");
    let Stat { parent, started } = directory.stat()?;
    let owner = Owner::new(pid, command, cgroup);
    Some(Process {
        started,
        user: directory.user()?,
        owner: Owner { parent: Some(parent), awaits_children, ..owner },
    })
}

/// The unified hierarchy's path (`0::/path`), else systemd's on cgroup v1, else that of whichever
/// controller has one: without systemd, a container's are the only ones.
fn cgroup_path(text: &str) -> Option<String> {
    let lines = || text.lines().filter_map(|line| line.split_once(':')?.1.split_once(':'));
    let path = |wanted: &str| lines().find(|(of, path)| *of == wanted && *path != "/");
    let any = || lines().find(|(_, path)| *path != "/");
    let (_, path) = path("").or_else(|| path("name=systemd")).or_else(any)?;
    Some(path.to_owned())
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    /// A child that has exited and whose id is free: its directory, still open, yields nothing.
    #[test]
    fn a_dead_process_owns_nothing() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let directory = Directory::open(child.id()).unwrap();
        assert!(describe(child.id(), &directory).is_some());
        assert!(directory.started() > Directory::open(1).unwrap().started());
        drop(child.stdin.take());
        child.wait().unwrap();
        assert!(describe(child.id(), &directory).is_none());
    }

    #[test]
    fn parent_and_start_are_found_behind_any_command() {
        let rest = " S 7 42 42 0 -1 4194304 1 0 0 0 1 2 0 0 20 0 1 0 4711 0";
        for command in ["(sh)", "(a) S 9 (\u{fffd})"] {
            let stat = Stat::of(&format!("42 {command}{rest}"));
            assert_eq!(stat, Some(Stat { parent: 7, started: 4711 }), "{command}");
        }
        assert_eq!(Stat::of("42 (sh)"), None);
    }

    #[test]
    fn takes_the_unified_path_or_systemds() {
        let v2 = "0::/system.slice/app.service\n";
        assert_eq!(cgroup_path(v2).as_deref(), Some("/system.slice/app.service"));
        let v1 = "5:memory:/x\n1:name=systemd:/docker/abc\n0::/\n";
        assert_eq!(cgroup_path(v1).as_deref(), Some("/docker/abc"));
        let without_systemd = "9:name=systemd:/\n8:pids:/docker/abc\n0::/\n";
        assert_eq!(cgroup_path(without_systemd).as_deref(), Some("/docker/abc"));
        assert_eq!(cgroup_path("0::/\n"), None);
    }

    fn holders(processes: u32, held: Vec<(u32, Vec<u32>)>) -> Holders {
        let process = |pid| Process { started: 1, user: 0, owner: Owner::new(pid, "server", None) };
        let processes = (0..processes).map(process).collect();
        Holders { processes, held: held.into_iter().collect(), cut: 0 }
    }

    fn named(lists: &HashMap<u32, Owners>) -> usize {
        lists.values().map(|owners| owners.len()).sum()
    }

    #[test]
    fn sockets_with_the_same_holders_share_one_list() {
        let found = holders(3, vec![(7, vec![0, 2]), (8, vec![0, 2]), (9, vec![1])]);
        let lists = found.lists();
        assert!(lists[&7].is_shared_with(&lists[&8]));
        assert_eq!(lists[&7].iter().map(|owner| owner.pid).collect::<Vec<_>>(), [0, 2]);
        assert_eq!(lists[&9].len(), 1);
    }

    #[test]
    fn lists_that_all_differ_are_made_shorter() {
        let count = u32::try_from(MOST_NAMED).unwrap();
        let own = |inode: u32| (inode, vec![inode % 40, 40 + inode % 41, 100 + inode]);
        let lists = holders(count + 100, (0..count).map(own).collect()).lists();
        assert_eq!((lists.len(), named(&lists)), (MOST_NAMED, MOST_NAMED));
    }

    #[test]
    fn whoever_wants_less_leaves_the_rest_to_the_others() {
        assert_eq!(share([3, 4].into_iter(), 10), usize::MAX);
        assert_eq!(share([40_000, 5, 5].into_iter(), 100), 90);
        assert_eq!(share([40_000, 40_000, 5].into_iter(), 100), 47);
        assert_eq!(share([9; 4].into_iter(), 2), 0);
        assert_eq!(share(std::iter::empty(), 0), usize::MAX);
    }
}
