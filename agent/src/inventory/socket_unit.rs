//! The socket unit through which systemd holds a listening socket, from its unit files:
//! systemd.socket(5), and for where they lie systemd.unit(5).
//!
//! A thread of its own reads them. They belong to the root of whichever systemd holds the socket,
//! which may be a container's.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    fs,
    net::SocketAddr,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, TryRecvError, channel},
    thread,
    time::{Duration, Instant},
};

use log::debug;
use serde::{Deserialize, Serialize};

use super::{Inventory, Listener, Owner, Server};
use crate::untrusted_file::Root;

/// How long unit files that were read count as current.
const CURRENT: Duration = Duration::from_secs(60);
/// Unit files read for one manager; a usual host has about a hundred socket units.
const MOST_UNITS: usize = 1000;
/// Names looked at in one directory.
const MOST_NAMES: usize = 10_000;
/// Managers whose unit files are read: the host's, its users' and its containers'.
const MOST_MANAGERS: usize = 64;
/// Bytes of one unit file.
const LARGEST: u64 = 64 << 10;

/// A systemd socket unit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketUnit {
    /// Its name (`app.socket`).
    pub name: String,
    /// The service that takes its connections, where that is one (`Accept=no`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
}

/// The socket units of each manager, by its pid.
type Tables = BTreeMap<u32, Table>;

/// What is known of socket units, and the thread that reads more.
#[derive(Debug, Default)]
pub(super) struct SocketUnits {
    known: Tables,
    read_at: Option<Instant>,
    reading: Option<Receiver<Tables>>,
}

impl Inventory {
    /// Names the socket units of the listeners that systemd holds, so far as their unit files have
    /// been read, and has them read again now and then.
    pub(super) fn name_socket_units(&mut self) {
        let held =
            self.listeners.values().filter_map(|listener| Some((listener, held_by(listener)?)));
        let mut managers: BTreeMap<u32, Vec<PathBuf>> = BTreeMap::new();
        let mut is_unnamed = false;
        for (listener, manager) in held {
            is_unnamed |= listener.socket_unit.is_none();
            managers.entry(manager.pid).or_insert_with(|| directories(manager));
        }
        self.socket_units.renew(managers, is_unnamed);
        for listener in self.listeners.values_mut() {
            let Some(manager) = held_by(listener) else {
                listener.socket_unit = None;
                continue;
            };
            if let Some(table) = self.socket_units.known.get(&manager.pid) {
                listener.socket_unit = table.of(listener);
            }
        }
    }
}

/// The systemd that holds a listener.
fn held_by(listener: &Listener) -> Option<&Owner> {
    listener.owners.iter().find(|owner| owner.server == Some(Server::Systemd))
}

impl SocketUnits {
    fn renew(&mut self, managers: BTreeMap<u32, Vec<PathBuf>>, is_unnamed: bool) {
        match self.reading.as_ref().map(Receiver::try_recv) {
            // Whoever is held up by a file system that hangs is not joined by a second one.
            Some(Err(TryRecvError::Empty)) => return,
            Some(Ok(tables)) => self.known = tables,
            Some(Err(TryRecvError::Disconnected)) | None => {}
        }
        self.reading = None;
        let is_current = self.read_at.is_some_and(|at| at.elapsed() < CURRENT);
        let is_new = is_unnamed && managers.keys().any(|pid| !self.known.contains_key(pid));
        if managers.is_empty() || (is_current && !is_new) {
            return;
        }
        self.read_at = Some(Instant::now());
        let (sender, receiver) = channel();
        let read = move || {
            let tables = managers.into_iter().take(MOST_MANAGERS).map(|(pid, directories)| {
                let root = Root::new(Path::new(&format!("/proc/{pid}/root")));
                (pid, root.map(|root| Table::read(&root, &directories)).unwrap_or_default())
            });
            // Nobody waits for it any more when the agent has ended.
            let _ = sender.send(tables.collect());
        };
        match thread::Builder::new().name("socket-units".to_owned()).spawn(read) {
            Ok(_) => self.reading = Some(receiver),
            Err(error) => debug!("cannot read socket units: {error}"),
        }
    }
}

/// Where a manager's unit files lie, those first that override others.
fn directories(manager: &Owner) -> Vec<PathBuf> {
    let user = manager.cgroup.as_deref().and_then(user_of);
    let paths: &[&str] = match user {
        None => &[
            "/etc/systemd/system.control",
            "/run/systemd/system.control",
            "/run/systemd/transient",
            "/run/systemd/generator.early",
            "/etc/systemd/system",
            "/run/systemd/system",
            "/run/systemd/generator",
            "/usr/local/lib/systemd/system",
            "/usr/lib/systemd/system",
            "/lib/systemd/system",
            "/run/systemd/generator.late",
        ],
        Some(_) => &[
            "/etc/systemd/user",
            "/run/systemd/user",
            "/usr/local/lib/systemd/user",
            "/usr/lib/systemd/user",
            "/lib/systemd/user",
        ],
    };
    let runtime = user.map(|uid| format!("/run/user/{uid}/systemd"));
    let own = runtime.into_iter().flat_map(|runtime| {
        ["transient", "generator.early", "generator"].map(|name| format!("{runtime}/{name}"))
    });
    own.chain(paths.iter().map(|path| (*path).to_owned())).map(PathBuf::from).collect()
}

/// The user whose manager has this control group.
pub(crate) fn user_of(cgroup: &str) -> Option<u32> {
    let uid = |part: &str| part.strip_prefix("user@")?.strip_suffix(".service")?.parse().ok();
    cgroup.split('/').find_map(uid)
}

/// Where a manager listens, by socket unit.
#[derive(Debug, Default)]
struct Table {
    units: Vec<(SocketUnit, Vec<Stream>)>,
}

/// A value of `ListenStream=` for TCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stream {
    /// A port alone: every address of either family, or of IPv4 where the kernel has no IPv6.
    Port(u16),
    At(SocketAddr),
}

impl Stream {
    fn read(value: &str) -> Option<Self> {
        if let Ok(port) = value.parse() {
            return Some(Self::Port(port));
        }
        // `[fe80::1]:80%eth0` and `[fe80::1%eth0]:80` name an interface besides.
        let address = match (value.find('%'), value.find(']')) {
            (Some(zone), Some(end)) if zone < end => {
                format!("{}{}", &value[..zone], &value[end..])
            }
            (Some(zone), _) => value[..zone].to_owned(),
            _ => value.to_owned(),
        };
        address.parse().ok().map(Self::At)
    }

    fn is_at(self, addr: SocketAddr) -> bool {
        let canonical = |addr: SocketAddr| (addr.ip().to_canonical(), addr.port());
        match self {
            Self::Port(port) => addr.port() == port && addr.ip().is_unspecified(),
            Self::At(own) => canonical(own) == canonical(addr),
        }
    }
}

impl Table {
    fn read(root: &Root, directories: &[PathBuf]) -> Self {
        let mut files: BTreeMap<OsString, PathBuf> = BTreeMap::new();
        for directory in directories {
            for name in names(root, directory) {
                let is_socket = Path::new(&name).extension().is_some_and(|kind| kind == "socket");
                if is_socket && (files.len() < MOST_UNITS || files.contains_key(&name)) {
                    let path = directory.join(&name);
                    files.entry(name).or_insert(path);
                }
            }
        }
        let unit = |(name, path): (&OsString, &PathBuf)| {
            let name = name.to_str()?;
            let mut settings = Settings::default();
            settings.take(&root.read(path, LARGEST).ok()?);
            for path in drop_ins(root, directories, name) {
                settings.take(&root.read(&path, LARGEST).unwrap_or_default());
            }
            Some(settings.unit(name)).filter(|(_, streams)| !streams.is_empty())
        };
        Self { units: files.iter().filter_map(unit).collect() }
    }

    /// The unit that listens where `listener` does. Of several, which is what a unit that is not in
    /// use leads to, that of the service which holds the socket as well.
    fn of(&self, listener: &Listener) -> Option<SocketUnit> {
        let addr = listener.id.addr;
        let at = |streams: &Vec<Stream>| streams.iter().any(|stream| stream.is_at(addr));
        let found: Vec<&SocketUnit> =
            self.units.iter().filter(|(_, streams)| at(streams)).map(|(unit, _)| unit).collect();
        let services: BTreeSet<&str> =
            listener.owners.iter().filter_map(|owner| owner.workload.unit.as_deref()).collect();
        let holds = |unit: &&&SocketUnit| {
            unit.service.as_deref().is_some_and(|service| services.contains(service))
        };
        match found.as_slice() {
            [only] => Some((*only).clone()),
            several => several.iter().find(holds).map(|unit| (*unit).clone()),
        }
    }
}

/// The names in a directory; none where there is none.
fn names(root: &Root, directory: &Path) -> Vec<OsString> {
    let Ok(opened) = root.open_directory(directory) else { return Vec::new() };
    let entries = fs::read_dir(format!("/proc/self/fd/{}", opened.as_raw_fd()));
    entries
        .into_iter()
        .flatten()
        .flatten()
        .take(MOST_NAMES)
        .map(|entry| entry.file_name())
        .collect()
}

/// A unit's drop-ins, in the order in which they apply: by name, of which the first directory's
/// counts.
fn drop_ins(root: &Root, directories: &[PathBuf], unit: &str) -> Vec<PathBuf> {
    let mut found: BTreeMap<OsString, PathBuf> = BTreeMap::new();
    for directory in directories {
        let directory = directory.join(format!("{unit}.d"));
        for name in names(root, &directory) {
            if Path::new(&name).extension().is_some_and(|kind| kind == "conf") {
                let path = directory.join(&name);
                found.entry(name).or_insert(path);
            }
        }
    }
    found.into_values().take(MOST_UNITS).collect()
}

/// What a unit file and its drop-ins say in `[Socket]`.
#[derive(Debug, Default)]
struct Settings {
    streams: Vec<Stream>,
    service: Option<String>,
    accepts: bool,
}

impl Settings {
    /// Takes in one file after another.
    fn take(&mut self, text: &[u8]) {
        let text = String::from_utf8_lossy(text).replace("\\\n", " ");
        let mut in_socket = false;
        for line in text.lines().map(str::trim) {
            if let Some(section) = line.strip_prefix('[') {
                in_socket = section == "Socket]";
            } else if in_socket && let Some((key, value)) = line.split_once('=') {
                self.set(key.trim_end(), value.trim_start());
            }
        }
    }

    fn set(&mut self, key: &str, value: &str) {
        match key {
            // An empty value takes back all before it.
            "ListenStream" if value.is_empty() => self.streams.clear(),
            "ListenStream" => self.streams.extend(Stream::read(value)),
            "Service" => self.service = (!value.is_empty()).then(|| value.to_owned()),
            "Accept" => {
                let yes = ["1", "yes", "y", "true", "t", "on"];
                self.accepts = yes.iter().any(|word| value.eq_ignore_ascii_case(word));
            }
            _ => {}
        }
    }

    fn unit(self, name: &str) -> (SocketUnit, Vec<Stream>) {
        let stem = name.strip_suffix(".socket").unwrap_or(name);
        let service = self.service.unwrap_or_else(|| format!("{stem}.service"));
        // With Accept=yes each connection has an instance of its own, none of which listens.
        let service = (!self.accepts).then_some(service);
        (SocketUnit { name: name.to_owned(), service }, self.streams)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::{ListenerId, NetnsId, QueueDepth};

    fn listener(addr: &str, service: Option<&str>) -> Listener {
        let id = ListenerId { netns: NetnsId(1), addr: addr.parse().unwrap(), inode: 1 };
        let mut owners = vec![Owner::new(1, "systemd", Some("/init.scope".to_owned()))];
        owners[0].server = Some(Server::Systemd);
        let cgroup = |service| Some(format!("/system.slice/{service}"));
        owners.extend(service.map(|service| Owner::new(9, "app", cgroup(service))));
        let mut listener = Listener::unknown(id, QueueDepth::default(), None);
        listener.owners = owners.into();
        listener
    }

    fn table(files: &[(&str, &str)]) -> Table {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let manager = Owner::new(1, "systemd", Some("/init.scope".to_owned()));
        Table::read(&Root::new(root.path()).unwrap(), &directories(&manager))
    }

    fn name(table: &Table, addr: &str, service: Option<&str>) -> Option<String> {
        table.of(&listener(addr, service)).map(|unit| unit.name)
    }

    #[test]
    fn a_unit_is_found_by_where_it_listens() {
        let table = table(&[
            (
                "usr/lib/systemd/system/web.socket",
                "[Socket]\nListenStream=8080\nService=app.service",
            ),
            ("usr/lib/systemd/system/four.socket", "[Socket]\nListenStream = 127.0.0.1:81\n"),
            ("etc/systemd/system/six.socket", "[Socket]\nListenStream=[::1]:82\nAccept=yes\n"),
            (
                "run/systemd/system/x.socket",
                "[Unit]\nListenStream=83\n[Socket]\nListenStream=/run/x",
            ),
        ]);
        let web = table.of(&listener("[::]:8080", None)).unwrap();
        assert_eq!(
            (web.name.as_str(), web.service.as_deref()),
            ("web.socket", Some("app.service"))
        );
        assert_eq!(name(&table, "127.0.0.1:81", None).as_deref(), Some("four.socket"));
        assert_eq!(name(&table, "0.0.0.0:81", None), None);
        assert_eq!(table.of(&listener("[::1]:82", None)).unwrap().service, None);
        assert_eq!(name(&table, "[::]:83", None), None);
    }

    #[test]
    fn drop_ins_and_what_overrides_others_count() {
        let table = table(&[
            ("usr/lib/systemd/system/ssh.socket", "[Socket]\nListenStream=22\n"),
            (
                "etc/systemd/system/ssh.socket.d/port.conf",
                "[Socket]\nListenStream=\nListenStream=2222",
            ),
            ("usr/lib/systemd/system/a.socket", "[Socket]\nListenStream=90\n"),
            ("etc/systemd/system/a.socket", "[Socket]\nListenStream=91\n"),
        ]);
        assert_eq!(name(&table, "[::]:22", None), None);
        assert_eq!(name(&table, "[::]:2222", None).as_deref(), Some("ssh.socket"));
        assert_eq!(name(&table, "[::]:90", None), None);
        assert_eq!(name(&table, "[::]:91", None).as_deref(), Some("a.socket"));
    }

    /// A unit file that is installed need not be in use.
    #[test]
    fn of_two_units_the_service_that_holds_the_socket_decides() {
        let table = table(&[
            ("etc/systemd/system/a.socket", "[Socket]\nListenStream=80\n"),
            ("etc/systemd/system/b.socket", "[Socket]\nListenStream=0.0.0.0:80\n"),
        ]);
        assert_eq!(name(&table, "0.0.0.0:80", Some("b.service")).as_deref(), Some("b.socket"));
        assert_eq!(name(&table, "0.0.0.0:80", None), None);
    }

    #[test]
    fn an_interface_beside_an_address_is_no_part_of_it() {
        for value in ["[fe80::1%eth0]:80", "[fe80::1]:80%eth0", "[fe80::1]:80"] {
            assert_eq!(Stream::read(value), Some(Stream::At("[fe80::1]:80".parse().unwrap())));
        }
        for value in ["/run/x.sock", "@abstract", "vsock:2:80", "%t/x.sock"] {
            assert_eq!(Stream::read(value), None, "{value}");
        }
    }

    #[test]
    fn a_users_manager_has_directories_of_its_own() {
        let cgroup = "/user.slice/user-1000.slice/user@1000.service/init.scope";
        assert_eq!(user_of(cgroup), Some(1000));
        let manager = Owner::new(5, "systemd", Some(cgroup.to_owned()));
        let all = directories(&manager);
        assert_eq!(all[0], Path::new("/run/user/1000/systemd/transient"));
        assert!(all.iter().all(|path| !path.ends_with("system")));
    }
}
