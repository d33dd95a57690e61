//! Which processes hold a socket: `/proc/PID/fd/N` is a link to `socket:[INODE]`.

use std::{
    collections::{HashMap, HashSet},
    ffi::OsStr,
    fs::{self, File},
    io,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    sync::Once,
};

use log::warn;
use nix::fcntl::readlinkat;

use super::{Server, listener::Owner};
use crate::kernel::netns::pids;

/// Finds the holders of all `inodes` in one pass over `/proc`. Processes that die meanwhile are left
/// out; so are those that the agent may not look at, which is said once.
pub(super) fn holders(inodes: &HashSet<u32>) -> HashMap<u32, Vec<Owner>> {
    let mut found: HashMap<u32, Vec<Owner>> = HashMap::new();
    if inodes.is_empty() {
        return found;
    }
    // With hidepid=2 other people's processes are not even listed (proc(5)).
    if !Path::new("/proc/1").exists() {
        say_partial();
    }
    for pid in pids() {
        // Kept open, the directory stays that of this very process: once it has died nothing can be
        // read there any more, even if its id has gone to another.
        let Ok(process) = File::open(format!("/proc/{pid}")) else { continue };
        let files = PathBuf::from(format!("/proc/self/fd/{}", process.as_raw_fd()));
        let held = sockets_of(&files, inodes);
        if held.is_empty() {
            continue;
        }
        let Some(owner) = describe(pid, &files) else { continue };
        for inode in held {
            found.entry(inode).or_default().push(owner.clone());
        }
    }
    found.values_mut().for_each(|owners| owners.sort_by_key(|owner| owner.pid));
    found
}

fn sockets_of(process: &Path, inodes: &HashSet<u32>) -> HashSet<u32> {
    let descriptors = process.join("fd");
    let opened = fs::read_dir(&descriptors).and_then(|all| Ok((File::open(&descriptors)?, all)));
    let (directory, entries) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            if error.kind() == io::ErrorKind::PermissionDenied {
                say_partial();
            }
            return HashSet::new();
        }
    };
    // From the directory on: the way there, by two links of procfs, costs more than the link's text.
    entries
        .flatten()
        .filter_map(|entry| inode_of(&readlinkat(&directory, entry.file_name().as_os_str()).ok()?))
        .filter(|inode| inodes.contains(inode))
        .collect()
}

/// Once is enough: whoever may not look now may not at the next sweep either.
fn say_partial() {
    static SAID: Once = Once::new();
    SAID.call_once(|| {
        warn!(
            "the owners of some sockets are out of sight: this takes CAP_SYS_PTRACE and \
             CAP_DAC_READ_SEARCH, and where /proc is mounted with hidepid its group as well"
        );
    });
}

fn inode_of(link: &OsStr) -> Option<u32> {
    link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

fn describe(pid: u32, process: &Path) -> Option<Owner> {
    // A process may give itself a name that is no UTF-8.
    let command = fs::read(process.join("comm")).ok()?;
    let command = String::from_utf8_lossy(&command).trim_end().to_owned();
    let cgroup = fs::read_to_string(process.join("cgroup")).ok();
    let server = Server::of_process(process, &command);
    let cgroup = cgroup.and_then(|text| cgroup_path(&text));
    let parent = fs::read(process.join("stat")).ok().and_then(|stat| parent_in(&stat));
    // The kernel function in which the main thread sleeps (kernel/exit.c).
    let awaits_children = fs::read(process.join("wchan")).is_ok_and(|name| name == b"do_wait");
    Some(Owner { server, parent, awaits_children, ..Owner::new(pid, command, cgroup) })
}

/// The fourth field of `/proc/PID/stat`. The second is the command in parentheses, which may hold
/// anything.
fn parent_in(stat: &[u8]) -> Option<u32> {
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    let rest = str::from_utf8(&stat[end + 1..]).ok()?;
    rest.split_ascii_whitespace().nth(1)?.parse().ok()
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

    #[test]
    fn reads_a_socket_link() {
        assert_eq!(inode_of(OsStr::new("socket:[4711]")), Some(4711));
        assert_eq!(inode_of(OsStr::new("pipe:[4711]")), None);
        assert_eq!(inode_of(OsStr::new("socket:[x]")), None);
    }

    /// A child that has exited and whose id is free: its directory, still open, yields nothing.
    #[test]
    fn a_dead_process_owns_nothing() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let process = File::open(format!("/proc/{}", child.id())).unwrap();
        let files = PathBuf::from(format!("/proc/self/fd/{}", process.as_raw_fd()));
        assert!(describe(child.id(), &files).is_some());
        drop(child.stdin.take());
        child.wait().unwrap();
        assert_eq!(describe(child.id(), &files), None);
    }

    #[test]
    fn a_parent_is_found_behind_any_command() {
        assert_eq!(parent_in(b"42 (sh) S 7 42 42 0 -1"), Some(7));
        assert_eq!(parent_in(b"42 (a) S 9 (\xff) S 7 42 42 0"), Some(7));
        assert_eq!(parent_in(b"42 (sh)"), None);
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
}
