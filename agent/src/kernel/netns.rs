//! Network namespaces: which there are, and a look into each.
//!
//! A namespace is never held open between looks, since an open file or socket keeps it alive after
//! its container has gone.

#![allow(unsafe_code, reason = "system calls that no library offers")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, OpenOptions},
    io,
    os::{
        fd::AsRawFd,
        unix::fs::{MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    sync::Once,
    thread,
};

use anyhow::{Context, Result, anyhow};
use log::{debug, warn};
use nix::{
    sched::{CloneFlags, setns},
    sys::{
        socket::{AddressFamily, SockFlag, SockType, socket},
        statfs::{NSFS_MAGIC, statfs},
    },
};

use super::{lives, sample::NetnsId};

/// A network namespace of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Netns {
    /// Its number, unique for the agent's lifetime (see `lives.rs`).
    pub id: NetnsId,
    /// The name it has under `/run/netns`, else `net:[N]`.
    pub name: String,
    /// A file to enter it by.
    entrance: PathBuf,
}

impl Netns {
    /// One to be entered by this file.
    #[cfg(test)]
    pub(crate) fn by(id: NetnsId, entrance: &str) -> Self {
        Self { id, name: id.name(), entrance: entrance.into() }
    }

    /// Whether somebody gave it a name, or it is the agent's own.
    pub fn is_named(&self) -> bool {
        self.entrance == Path::new(OWN)
            || NAMED.iter().any(|under| self.entrance.starts_with(under))
    }

    /// A file to enter it by; none where it is the agent's own.
    pub fn entrance(&self) -> Option<String> {
        let entrance = self.entrance.display().to_string();
        (entrance != OWN).then_some(entrance)
    }
}

/// Where `ip netns` and container runtimes bind named namespaces. `/var/run` is most often a link to
/// `/run`, but not everywhere.
const NAMED: &[&str] = &["/run/netns", "/var/run/netns", "/run/docker/netns"];
const OWN: &str = "/proc/self/ns/net";

/// Every network namespace that a process is in or that has a name, ordered by id. One that the
/// agent may not look at is left out, which is said once.
///
/// # Errors
///
/// When not even the agent's own namespace can be read.
pub fn discover() -> Result<Vec<Netns>> {
    let mut found = BTreeMap::new();
    let own = inode_of(Path::new(OWN)).with_context(|| format!("reading {OWN}"))?;
    insert(&mut found, own, None, OWN.into());
    for directory in NAMED {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            // What is left of a namespace that was unmounted is a plain file.
            if let Some(inode) = inode_if_bound(&entry.path()) {
                insert(&mut found, inode, Some(name), entry.path());
            }
        }
    }
    for pid in pids() {
        let entrance = PathBuf::from(format!("/proc/{pid}/ns/net"));
        match inode_of(&entrance) {
            Ok(inode) => insert(&mut found, inode, None, entrance),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => say_partial(),
            // The process has died meanwhile.
            Err(_) => {}
        }
    }
    identify(found)
}

/// Gives each namespace its identity, for which it takes a look from inside, and its name. One that
/// may not be entered is taken for the last known with its number.
fn identify(found: BTreeMap<u32, Place>) -> Result<Vec<Netns>> {
    let ids = on_a_thread(|| {
        let mut traveller = Traveller::new();
        let identity =
            |(inode, place): (&u32, &Place)| match traveller.enter(*inode, &place.entrance) {
                Some(()) => Some(lives::here(*inode)),
                None => {
                    let found = inode_of(&place.entrance).ok();
                    found.filter(|found| found == inode).map(lives::latest)
                }
            };
        found.iter().map(identity).collect::<Vec<_>>()
    })?;
    let mut names = BTreeSet::new();
    let named = found.into_values().zip(ids).filter_map(|(place, id)| Some((place, id?)));
    let netns = named.map(|(Place { name, entrance }, id)| {
        // Two directories may give one name to two namespaces, which metrics must not mix.
        let name = name.filter(|name| names.insert(name.clone()));
        Netns { id, name: name.unwrap_or_else(|| id.name()), entrance }
    });
    Ok(netns.collect())
}

/// As [`discover`], but only those of `names`, or all where none is named.
///
/// # Errors
///
/// As there.
pub fn discover_among(names: &[String]) -> Result<Vec<Netns>> {
    let mut found = discover()?;
    found.retain(|netns| names.is_empty() || names.contains(&netns.name));
    Ok(found)
}

/// The namespace of a process, which is taken for the last known with its inode number: until it is
/// [discovered](discover), a namespace may be taken for the one that had its number before. `None` if
/// the process has gone or may not be looked at.
pub fn of_process(pid: u32) -> Option<NetnsId> {
    inode_of(Path::new(&format!("/proc/{pid}/ns/net"))).ok().map(lives::latest)
}

/// The namespace of the calling thread.
///
/// # Errors
///
/// When procfs cannot be read.
pub fn of_this_thread() -> io::Result<NetnsId> {
    inode_here().map(lives::here)
}

fn inode_here() -> io::Result<u32> {
    inode_of(Path::new("/proc/thread-self/ns/net"))
}

/// What tells the namespace of the calling thread from one that had its id before: a number that is
/// never given twice. `None` before Linux 5.14.
pub fn cookie_here() -> Option<u64> {
    let any = socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None).ok()?;
    let (mut cookie, mut length) = (0_u64, size_of::<u64>() as libc::socklen_t);
    // SAFETY: the kernel writes a u64 and how long that is, for which there is room.
    let result = unsafe {
        libc::getsockopt(
            any.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    (result == 0).then_some(cookie)
}

/// Ids of all processes of the agent's PID namespace.
pub fn pids() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Looks into each of `namespaces`, one after the other, on a thread of its own. A namespace that
/// has vanished, or that may not be entered, is left out.
///
/// # Errors
///
/// When the thread cannot be started, or `look` panics.
pub fn visit<T: Send>(
    namespaces: &[Netns],
    mut look: impl FnMut(&Netns) -> T + Send,
) -> Result<Vec<T>> {
    on_a_thread(|| {
        let mut traveller = Traveller::new();
        let mut visit = |netns: &Netns| {
            let inode = netns.id.inode();
            traveller.enter(inode, &netns.entrance)?;
            // Its number may have gone to another since it was found.
            (lives::here(inode) == netns.id).then(|| look(netns))
        };
        namespaces.iter().filter_map(&mut visit).collect()
    })
}

/// setns(2) changes only the calling thread, which then ends: nothing has to be put back.
fn on_a_thread<T: Send>(tour: impl FnOnce() -> T + Send) -> Result<T> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("netns".to_owned());
        let handle = thread.spawn_scoped(scope, tour).context("starting a thread")?;
        handle.join().map_err(|_| anyhow!("the thread that visits network namespaces panicked"))
    })
}

/// Where a namespace was found.
struct Place {
    name: Option<String>,
    entrance: PathBuf,
}

fn insert(found: &mut BTreeMap<u32, Place>, inode: u32, name: Option<String>, entrance: PathBuf) {
    let place = found.entry(inode).or_insert_with(|| Place { name: None, entrance });
    if name.is_some() {
        place.name = name;
    }
}

/// Moves a thread from namespace to namespace.
struct Traveller {
    /// The inode number of the one that the thread is in; nobody else gets it meanwhile.
    here: Option<u32>,
}

impl Traveller {
    fn new() -> Self {
        Self { here: inode_here().ok() }
    }

    /// Moves the calling thread into a namespace; `None` if that cannot be done.
    fn enter(&mut self, inode: u32, entrance: &Path) -> Option<()> {
        if self.here == Some(inode) {
            return Some(());
        }
        match try_enter(inode, entrance) {
            Ok(()) => {
                self.here = Some(inode);
                Some(())
            }
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                say_partial();
                None
            }
            Err(error) => {
                debug!("network namespace {inode} no longer exists: {error}");
                None
            }
        }
    }
}

fn try_enter(inode: u32, entrance: &Path) -> io::Result<()> {
    // Whoever may write below /run/netns could have put a FIFO there.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(entrance)?;
    // The process may have died and its id may have gone to another.
    if file.metadata()?.ino() != u64::from(inode) {
        return Err(io::ErrorKind::NotFound.into());
    }
    match setns(file, CloneFlags::CLONE_NEWNET) {
        Ok(()) => Ok(()),
        Err(nix::Error::EPERM) => Err(io::ErrorKind::PermissionDenied.into()),
        Err(error) => Err(error.into()),
    }
}

/// Once is enough: whoever may not look now may not at the next sweep either.
fn say_partial() {
    static SAID: Once = Once::new();
    SAID.call_once(|| {
        warn!(
            "cannot enter some network namespaces, so their listeners are missing; grant \
             CAP_SYS_ADMIN and CAP_SYS_PTRACE in the host's own user namespace"
        );
    });
}

/// The number of a namespace bound to a file; `None` if the file is none.
fn inode_if_bound(path: &Path) -> Option<u32> {
    let on_nsfs = statfs(path).is_ok_and(|filesystem| filesystem.filesystem_type() == NSFS_MAGIC);
    on_nsfs.then(|| inode_of(path).ok())?
}

/// The nsfs inode number, which `stat` gives through the link.
fn inode_of(path: &Path) -> io::Result<u32> {
    let inode = fs::metadata(path)?.ino();
    u32::try_from(inode).map_err(|_| io::ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_and_visits_the_own_namespace() {
        let own = of_process(std::process::id()).unwrap();
        let all = discover().unwrap();
        let here: Vec<Netns> = all.into_iter().filter(|netns| netns.id == own).collect();
        assert_eq!(here.len(), 1);
        let seen = visit(&here, |netns| (netns.id, of_process(std::process::id()))).unwrap();
        assert_eq!(seen, [(own, Some(own))]);
    }

    #[test]
    fn the_own_namespace_stays_itself() {
        assert_eq!(cookie_here(), cookie_here());
    }

    #[test]
    fn a_plain_file_is_no_namespace() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(inode_if_bound(file.path()), None);
        let own = of_process(std::process::id()).map(NetnsId::inode);
        assert_eq!(inode_if_bound(Path::new(OWN)), own);
    }

    #[test]
    fn leaves_out_what_has_vanished() {
        let gone = Netns {
            id: NetnsId(1),
            name: "gone".to_owned(),
            entrance: "/run/netns/there-is-no-such-namespace".into(),
        };
        assert!(visit(&[gone], |netns| netns.id).unwrap().is_empty());
    }
}
