//! Which processes write a source's lines, so far as they can be seen from here.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use jiff::tz::TimeZone;

use crate::proxy::{ProxyKind, event::Trust, process, zone};

/// A process that has ended is known for so long: its last lines may be read late.
const MEMORY: Duration = Duration::from_secs(600);
/// How often processes are looked for, and how often at most for a line of an unknown one.
const PERIOD: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_secs(1);
/// The bits of `flags` in proc_pid_fdinfo(5) that say how a file is opened; 0 is for reading only.
const O_ACCMODE: u32 = 0o3;

/// Whose lines a source may bring.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Scope {
    /// Another host's, or nobody knows whose.
    #[default]
    Unknown,
    /// Lines to standard input, of whoever is at its other end.
    Input,
    /// Any process's of this host.
    Host,
    /// Those of the processes that have the file open for writing.
    File(PathBuf),
    /// Those of the processes in a container or pod: whose control group has one of these in its path.
    Group(Vec<String>),
}

impl Scope {
    /// That of a log file.
    pub fn of_file(path: &Path) -> Self {
        // Kubernetes' links name the container, the files they lead to do not; with Docker's it is
        // the file's own directory.
        let target = fs::canonicalize(path).ok();
        let paths = [Some(path), target.as_deref()].into_iter().flatten();
        let id = paths.filter_map(Path::to_str).find_map(process::container_in);
        match (id, target.as_deref().unwrap_or(path).to_str().and_then(pod_in)) {
            (Some(id), _) => Self::Group(vec![id.to_owned()]),
            // systemd's driver writes no hyphens into a slice's name.
            (None, Some(uid)) => Self::Group(vec![uid.to_owned(), uid.replace('-', "_")]),
            (None, None) => Self::File(path.to_owned()),
        }
    }
}

/// The pod's UID in `/var/log/pods/NAMESPACE_NAME_UID/CONTAINER/N.log`.
fn pod_in(path: &str) -> Option<&str> {
    let uid = path.strip_prefix("/var/log/pods/")?.split('/').next()?.rsplit('_').next()?;
    (uid.len() >= 32).then_some(uid)
}

/// The processes that write a source's lines.
#[derive(Debug, Default)]
pub struct Writers {
    scope: Scope,
    by_proxy: BTreeMap<ProxyKind, Known>,
}

/// The processes of one proxy.
#[derive(Debug, Default)]
struct Known {
    /// By the number by which each knows itself: its number here, and when it was last seen.
    processes: BTreeMap<u32, (u32, Instant)>,
    looked: Option<Instant>,
    /// The zone of one of them.
    zone: Option<TimeZone>,
}

impl Writers {
    /// Of a source.
    pub fn of(scope: Scope) -> Self {
        Self { scope, by_proxy: BTreeMap::new() }
    }

    /// Whose lines the source may bring.
    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    /// How sure it is that the proxy wrote a line in which its process and thread have these numbers;
    /// none where another did. nginx's lines need them: a client may have written one. The others'
    /// are escaped, and only who else may send them is open.
    pub fn trust(&mut self, proxy: ProxyKind, numbers: Option<(u32, u32)>) -> Option<Trust> {
        let can_be_forged = proxy == ProxyKind::Nginx;
        match (&self.scope, numbers) {
            (Scope::File(_) | Scope::Group(_) | Scope::Input, _) if !can_be_forged => {
                Some(Trust::Verified)
            }
            (Scope::Unknown | Scope::Input, _) | (_, None) => Some(Trust::Unverified),
            (scope, Some((pid, thread))) => {
                let known = self.by_proxy.entry(proxy).or_default();
                if known.is_due(PERIOD) {
                    known.look(scope, proxy);
                }
                if !known.has(pid, thread) && known.is_due(PAUSE) {
                    known.look(scope, proxy);
                }
                if known.has(pid, thread) {
                    Some(Trust::Verified)
                } else if known.processes.is_empty() || *scope == Scope::Host {
                    // None is seen: it may run where the agent does not see it.
                    Some(Trust::Unverified)
                } else {
                    None
                }
            }
        }
    }

    /// The zone in which the proxy writes local time: that of its processes that write here.
    pub fn zone(&mut self, proxy: ProxyKind) -> Option<&TimeZone> {
        if !matches!(self.scope, Scope::File(_) | Scope::Group(_) | Scope::Host) {
            return None;
        }
        let known = self.by_proxy.entry(proxy).or_default();
        if known.is_due(PERIOD) {
            known.look(&self.scope, proxy);
        }
        known.zone.as_ref()
    }

    /// Looks for processes now and then, to know them when they have ended.
    pub fn refresh(&mut self, proxy: ProxyKind) {
        if matches!(self.scope, Scope::File(_) | Scope::Group(_) | Scope::Host) {
            let known = self.by_proxy.entry(proxy).or_default();
            if known.is_due(PERIOD) {
                known.look(&self.scope, proxy);
            }
        }
    }
}

impl Known {
    fn is_due(&self, after: Duration) -> bool {
        self.looked.is_none_or(|looked| looked.elapsed() >= after)
    }

    fn has(&mut self, pid: u32, thread: u32) -> bool {
        let Some((here, seen)) = self.processes.get_mut(&pid) else { return false };
        // 0 where nginx was built without threads.
        let is_its = thread == 0 || thread == pid || has_thread(*here, thread);
        if is_its {
            *seen = Instant::now();
        }
        is_its
    }

    fn look(&mut self, scope: &Scope, proxy: ProxyKind) {
        let now = Instant::now();
        self.looked = Some(now);
        let file = match scope {
            Scope::File(path) => Some(fs::metadata(path).ok().map(|it| (it.dev(), it.ino()))),
            _ => None,
        };
        for pid in process::all(proxy) {
            let writes = match (scope, file) {
                (Scope::Group(names), _) => {
                    let groups = process::groups(pid);
                    names.iter().any(|name| groups.contains(name.as_str()))
                }
                (_, Some(file)) => file.is_some_and(|file| writes_to(pid, file)),
                _ => true,
            };
            let own = writes.then(|| process::own_number(Path::new(&format!("/proc/{pid}"))));
            if let Some(own) = own.flatten() {
                let is_new = self.processes.insert(own, (pid, now)).is_none();
                if is_new || self.zone.is_none() {
                    self.zone = zone::of_process(pid);
                }
            }
        }
        self.processes.retain(|_, (_, seen)| seen.elapsed() < MEMORY);
    }
}

fn has_thread(pid: u32, thread: u32) -> bool {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    tasks.into_iter().any(|task| process::own_number(&task.path()) == Some(thread))
}

/// Whether the process has the file open for writing. Whoever may read a log can have it open, too.
fn writes_to(pid: u32, file: (u64, u64)) -> bool {
    let files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let mut same = files.filter(|entry| {
        fs::metadata(entry.path()).is_ok_and(|there| (there.dev(), there.ino()) == file)
    });
    same.any(|entry| {
        let number = entry.file_name();
        let info = format!("/proc/{pid}/fdinfo/{}", number.to_string_lossy());
        let info = fs::read_to_string(info).unwrap_or_default();
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
        let flags = flags.and_then(|flags| u32::from_str_radix(flags.trim(), 8).ok());
        flags.is_some_and(|flags| flags & O_ACCMODE != 0)
    })
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    fn known(scope: Scope, pids: &[u32]) -> Writers {
        let now = Instant::now();
        let processes = pids.iter().map(|pid| (*pid, (std::process::id(), now))).collect();
        let known = Known { processes, looked: Some(now), zone: None };
        Writers { scope, by_proxy: [(ProxyKind::Nginx, known)].into() }
    }

    #[test]
    fn only_a_writers_numbers_are_its_own() {
        let mut writers = known(Scope::File("/nowhere".into()), &[7]);
        assert_eq!(writers.trust(ProxyKind::Nginx, Some((7, 7))), Some(Trust::Verified));
        assert_eq!(writers.trust(ProxyKind::Nginx, Some((7, 0))), Some(Trust::Verified));
        assert_eq!(writers.trust(ProxyKind::Nginx, Some((8, 8))), None);
        assert_eq!(writers.trust(ProxyKind::Nginx, Some((7, 1))), None);
        let own = std::process::id();
        assert_eq!(writers.trust(ProxyKind::Nginx, Some((7, own))), Some(Trust::Verified));
        // Nobody's that is seen from here.
        let mut unseen = known(Scope::File("/nowhere".into()), &[]);
        assert_eq!(unseen.trust(ProxyKind::Nginx, Some((8, 8))), Some(Trust::Unverified));
        let mut host = known(Scope::Host, &[7]);
        assert_eq!(host.trust(ProxyKind::Nginx, Some((8, 8))), Some(Trust::Unverified));
    }

    #[test]
    fn what_no_client_can_forge_needs_no_numbers_in_a_file() {
        for (scope, trust) in [
            (Scope::File("/x".into()), Trust::Verified),
            (Scope::Input, Trust::Verified),
            (Scope::Unknown, Trust::Unverified),
        ] {
            let mut writers = Writers::of(scope);
            assert_eq!(writers.trust(ProxyKind::Envoy, None), Some(trust));
        }
        let mut input = Writers::of(Scope::Input);
        assert_eq!(input.trust(ProxyKind::Nginx, Some((7, 7))), Some(Trust::Unverified));
    }

    #[test]
    fn who_only_reads_a_file_does_not_write_to_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let writer = File::create(&path).unwrap();
        let metadata = writer.metadata().unwrap();
        let file = (metadata.dev(), metadata.ino());
        assert!(writes_to(std::process::id(), file));
        drop(writer);
        let _reader = File::open(&path).unwrap();
        assert!(!writes_to(std::process::id(), file));
    }

    #[test]
    fn a_containers_log_is_the_containers() {
        let id = "0123456789abcdef".repeat(4);
        let path = format!("/var/lib/docker/containers/{id}/{id}-json.log");
        assert_eq!(Scope::of_file(Path::new(&path)), Scope::Group(vec![id]));
        let uid = "0f8b7f0c-4d1e-4f7a-9a53-8a3f0b1c2d3e";
        let path = format!("/var/log/pods/shop_web-1_{uid}/nginx/0.log");
        let names = vec![uid.to_owned(), uid.replace('-', "_")];
        assert_eq!(Scope::of_file(Path::new(&path)), Scope::Group(names));
        let path = Path::new("/var/log/nginx/error.log");
        assert_eq!(Scope::of_file(path), Scope::File(path.to_owned()));
    }
}
