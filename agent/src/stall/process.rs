//! One process that holds a stalled listener, by what procfs says of it and its threads.

use std::{
    collections::{BTreeSet, HashMap},
    fs::{self, File},
    os::{
        fd::AsRawFd,
        unix::fs::{FileExt, MetadataExt},
    },
    path::{Path, PathBuf},
};

use super::{
    activity::{Activity, Target, Wait},
    calls::{self, Call, Kind},
    remote::Connections,
};
use crate::{kernel::sock_diag::inode_of_link, untrusted_file::read_procfs};

/// Bytes of a small file of procfs.
const MOST_BYTES: u64 = 4096;
/// Bytes of what an epoll descriptor watches: 600 descriptors.
const MOST_WATCHED: u64 = 64 << 10;
/// Descriptors of one process that are looked at for the listener.
const MOST_DESCRIPTORS: usize = 4096;
/// Descriptors of one poll(2) or select(2) that are looked at.
const MOST_POLLED: usize = 64;
/// Open files that are counted one by one, on kernels before 6.2.
const MOST_COUNTED: usize = 1 << 16;
/// Characters of a file's path or a kernel function that are kept.
const MOST_TEXT: usize = 120;

/// A process that holds the listener. Its directory stays open, and with it the identity of the process
/// (see `inventory/owners.rs`).
#[derive(Debug)]
pub(super) struct Process {
    /// Its id.
    pub pid: u32,
    /// Its parent.
    pub parent: Option<u32>,
    directory: File,
    /// The descriptors through which it holds the listener.
    listens: BTreeSet<u64>,
    listener: u32,
}

/// What a look at a thread found.
#[derive(Debug)]
pub(super) struct Look {
    pub activity: Activity,
    /// Time on a processor, and ready to run without one, in nanoseconds since the thread began.
    pub ran_ns: u64,
    pub waited_ns: u64,
    pub major_faults: u64,
}

impl Process {
    /// Opens a process, if it holds the socket with the inode `listener`.
    pub(super) fn open(pid: u32, parent: Option<u32>, listener: u32) -> Option<Self> {
        let directory = File::open(format!("/proc/{pid}")).ok()?;
        let mut process = Self { pid, parent, directory, listens: BTreeSet::new(), listener };
        let descriptors = fs::read_dir(process.path().join("fd")).ok()?;
        for entry in descriptors.flatten().take(MOST_DESCRIPTORS) {
            let number = entry.file_name().to_str().and_then(|name| name.parse().ok());
            if let Some(number) = number
                && process.socket(number) == Some(listener)
            {
                process.listens.insert(number);
            }
        }
        (!process.listens.is_empty()).then_some(process)
    }

    /// A path of its directory in procfs that is valid while this exists.
    pub(super) fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.directory.as_raw_fd()))
    }

    fn text(&self, name: &str) -> Option<String> {
        let bytes = read_procfs(&self.path().join(name), MOST_BYTES).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Its threads, at most so many.
    pub(super) fn threads(&self, most: usize) -> Vec<u32> {
        let Ok(entries) = fs::read_dir(self.path().join("task")) else { return Vec::new() };
        let ids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        ids.take(most).collect()
    }

    /// The path of its control group in each hierarchy, as `/proc/PID/cgroup` has them.
    pub(super) fn cgroups(&self) -> Option<String> {
        self.text("cgroup")
    }

    /// How many files it has open, and how many it may have open. The count is the size of its directory
    /// of descriptors since Linux 6.2 (fs/proc/fd.c, proc_readfd_count).
    pub(super) fn descriptors(&self) -> Option<(u64, u64)> {
        let limits = self.text("limits")?;
        let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
        let limit: u64 = line.split_ascii_whitespace().next()?.parse().ok()?;
        let directory = self.path().join("fd");
        let size = fs::metadata(&directory).ok()?.size();
        let open = if size > 0 {
            size
        } else {
            fs::read_dir(&directory).ok()?.take(MOST_COUNTED).count() as u64
        };
        Some((open, limit))
    }

    /// Looks at a thread; `None` if it has ended.
    pub(super) fn look(&self, tid: u32, connections: &mut Connections) -> Option<Look> {
        let stat = self.text(&format!("task/{tid}/stat"))?;
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
        let state = fields.first()?.chars().next()?;
        let major_faults = fields.get(9)?.parse().ok()?;
        let times = self.text(&format!("task/{tid}/schedstat"))?;
        let mut times = times.split_ascii_whitespace().filter_map(|word| word.parse().ok());
        let (ran_ns, waited_ns) = (times.next()?, times.next()?);
        let activity = match state {
            'R' => Activity::Running,
            'T' => Activity::Stopped,
            't' => Activity::Traced,
            'D' => Activity::Waiting(self.uninterruptible(tid)),
            _ => self.waiting(tid, connections),
        };
        Some(Look { activity, ran_ns, waited_ns, major_faults })
    }

    fn call(&self, tid: u32) -> Option<Call> {
        Call::parse(&self.text(&format!("task/{tid}/syscall"))?)
    }

    /// What a thread in state D waits for: the kernel function says more than the call.
    fn uninterruptible(&self, tid: u32) -> Wait {
        let function = self.text(&format!("task/{tid}/wchan")).unwrap_or_default();
        let call = match self.call(tid) {
            Some(Call::In { number, .. }) => name_of(number),
            _ => "page fault".to_owned(),
        };
        Wait { call, target: Target::Kernel(cut(function.trim())) }
    }

    fn waiting(&self, tid: u32, connections: &mut Connections) -> Activity {
        let (number, args) = match self.call(tid) {
            // It ran again between the two reads.
            Some(Call::Running) => return Activity::Running,
            Some(Call::In { number, args }) => (number, args),
            Some(Call::None) | None => return wait("page fault", Target::Unknown),
        };
        let function = || self.text(&format!("task/{tid}/wchan")).unwrap_or_default();
        if number == libc::SYS_restart_syscall && function().contains("nanosleep") {
            return Activity::Sleeping;
        }
        let Some((name, kind)) = calls::find(number) else {
            return wait(&name_of(number), Target::Unknown);
        };
        match kind {
            Kind::Accept if self.listens.contains(&args[0]) => Activity::Accepting,
            Kind::Accept | Kind::Descriptor => wait(name, self.target(args[0], connections)),
            Kind::Sleep => Activity::Sleeping,
            Kind::Lock => Activity::Locked,
            Kind::Supervise => Activity::Supervising,
            Kind::Epoll => match self.is_watched_by(args[0]) {
                Some(false) => Activity::Polling,
                Some(true) | None => Activity::Accepting,
            },
            Kind::Poll => self.polls(name, self.polled(args[0], args[1]), connections),
            Kind::Select => {
                let sets = [args[1], args[2]].map(|set| self.selected(set, args[0]));
                let all = sets.into_iter().collect::<Option<Vec<_>>>();
                self.polls(name, all.map(|sets| sets.concat()), connections)
            }
        }
    }

    /// What it waits for in poll(2) or select(2) on some descriptors.
    fn polls(
        &self,
        name: &str,
        descriptors: Option<Vec<u64>>,
        connections: &mut Connections,
    ) -> Activity {
        match descriptors.as_deref() {
            Some([]) => Activity::Sleeping,
            Some(all) if all.iter().any(|fd| self.listens.contains(fd)) => Activity::Accepting,
            // An answer that is waited for with a timeout, and often a descriptor that interrupts it.
            Some([first]) => wait(name, self.target(*first, connections)),
            Some(_) => Activity::Polling,
            None => wait(name, Target::Unknown),
        }
    }

    /// Whether an epoll descriptor watches the listener for connections; `None` if that is unknown.
    fn is_watched_by(&self, epoll: u64) -> Option<bool> {
        let file = self.path().join(format!("fdinfo/{epoll}"));
        let bytes = read_procfs(&file, MOST_WATCHED).ok()?;
        let text = String::from_utf8_lossy(&bytes);
        let is_listener = |line: &str| watches(line, self.listener);
        if text.lines().any(is_listener) {
            return Some(true);
        }
        ((bytes.len() as u64) < MOST_WATCHED).then_some(false)
    }

    /// Reads some bytes of its memory, as ptrace(2) would allow.
    fn memory(&self, address: u64, bytes: &mut [u8]) -> Option<()> {
        File::open(self.path().join("mem")).ok()?.read_exact_at(bytes, address).ok()
    }

    /// The descriptors of an array of `struct pollfd`; `None` if it cannot be read.
    fn polled(&self, address: u64, count: u64) -> Option<Vec<u64>> {
        let count = usize::try_from(count).ok()?.min(MOST_POLLED);
        let mut bytes = [0; MOST_POLLED * 8];
        self.memory(address, &mut bytes[..count * 8]).or((count == 0).then_some(()))?;
        let descriptor =
            |entry: &[u8]| i32::from_ne_bytes([entry[0], entry[1], entry[2], entry[3]]);
        let all = bytes[..count * 8].chunks_exact(8).map(descriptor);
        // A negative one is left out (poll(2)).
        Some(all.filter_map(|fd| u64::try_from(fd).ok()).collect())
    }

    /// The descriptors in a set of select(2) that go up to `end`.
    fn selected(&self, set: u64, end: u64) -> Option<Vec<u64>> {
        let mut bits = [0; libc::FD_SETSIZE / 8];
        let used = usize::try_from(end).ok()?.div_ceil(64) * 8;
        let used = used.min(bits.len());
        if set == 0 || used == 0 {
            return Some(Vec::new());
        }
        self.memory(set, &mut bits[..used])?;
        let is_set = |fd: &u64| bits[(*fd / 8) as usize] >> (fd % 8) & 1 == 1;
        Some((0..end.min(used as u64 * 8)).filter(is_set).take(MOST_POLLED).collect())
    }

    fn link(&self, descriptor: u64) -> Option<String> {
        let link = fs::read_link(self.path().join(format!("fd/{descriptor}"))).ok()?;
        Some(link.to_string_lossy().into_owned())
    }

    /// The inode of a socket.
    fn socket(&self, descriptor: u64) -> Option<u32> {
        inode_of_link(self.link(descriptor)?.as_ref())
    }

    /// What is behind a descriptor.
    fn target(&self, descriptor: u64, connections: &mut Connections) -> Target {
        let Some(link) = self.link(descriptor) else { return Target::Unknown };
        if link.starts_with("pipe:") {
            return Target::Pipe;
        }
        if let Some(inode) = self.socket(descriptor) {
            return match connections.of(inode, &self.path()) {
                Some(connection) if connection.is_clients => Target::OwnClient,
                Some(connection) => Target::Remote(connection.remote),
                None => Target::Socket,
            };
        }
        if link.starts_with('/') { Target::File(cut(&link)) } else { Target::Unknown }
    }
}

fn wait(call: &str, target: Target) -> Activity {
    Activity::Waiting(Wait { call: call.to_owned(), target })
}

fn name_of(number: i64) -> String {
    calls::find(number).map_or_else(|| format!("syscall {number}"), |(name, _)| name.to_owned())
}

fn cut(text: &str) -> String {
    text.chars().take(MOST_TEXT).collect()
}

/// Whether a line of an epoll descriptor's fdinfo is of the socket with this inode, watched for input
/// (fs/eventpoll.c, ep_show_fdinfo): `tfd: 6 events: 19 data: 6  pos:0 ino:d46 sdev:8`.
fn watches(line: &str, inode: u32) -> bool {
    let hex = |text: &str| u64::from_str_radix(text, 16).ok();
    let after = |key: &str| hex(line.split_once(key)?.1.split_ascii_whitespace().next()?);
    let is_for_input = after("events:").is_some_and(|events| events & libc::EPOLLIN as u64 != 0);
    line.starts_with("tfd:") && is_for_input && after("ino:") == Some(u64::from(inode))
}

/// Reads a small file of the kernel's, such as one of a control group.
pub(super) fn read_small(path: &Path) -> Option<String> {
    String::from_utf8(read_procfs(path, MOST_BYTES).ok()?).ok()
}

/// Values of a file of lines `name value`.
pub(super) fn values(text: &str) -> HashMap<&str, u64> {
    let pair = |line: &'_ str| -> Option<(usize, u64)> {
        let (name, value) = line.split_once(' ')?;
        Some((name.len(), value.trim().parse().ok()?))
    };
    text.lines().filter_map(|line| pair(line).map(|(end, value)| (&line[..end], value))).collect()
}

#[cfg(test)]
mod tests {
    use std::{
        net::{TcpListener, TcpStream},
        os::fd::AsRawFd,
        process::id,
        thread,
        time::Duration,
    };

    use super::*;

    /// What a thread of this process does that runs `work` on a listener.
    fn seen(work: impl FnOnce(&TcpListener) + Send) -> Activity {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let link = fs::read_link(format!("/proc/self/fd/{}", listener.as_raw_fd())).unwrap();
        let inode = link.to_str().unwrap()["socket:[".len()..].trim_end_matches(']').parse();
        let process = Process::open(id(), None, inode.unwrap()).unwrap();
        thread::scope(|scope| {
            let (sender, tid) = std::sync::mpsc::channel();
            let listener = &listener;
            scope.spawn(move || {
                sender.send(nix::unistd::gettid().as_raw() as u32).unwrap();
                work(listener);
            });
            let tid = tid.recv().unwrap();
            let mut connections = Connections::default();
            let mut last = Activity::Running;
            // The thread needs a moment until it waits.
            for _ in 0..100 {
                thread::sleep(Duration::from_millis(10));
                let Some(look) = process.look(tid, &mut connections) else { break };
                last = look.activity;
                if last != Activity::Running {
                    break;
                }
            }
            // Ends an accept(2).
            let _ = TcpStream::connect(("127.0.0.1", port));
            last
        })
    }

    #[test]
    fn what_a_thread_waits_for_is_seen() {
        let accepting = |listener: &TcpListener| drop(listener.accept());
        assert_eq!(seen(accepting), Activity::Accepting);
        assert_eq!(seen(|_| thread::sleep(Duration::from_millis(300))), Activity::Sleeping);
        let polling = |listener: &TcpListener| {
            use nix::poll::{PollFd, PollFlags, poll};
            use std::os::fd::AsFd;
            let _ = poll(&mut [PollFd::new(listener.as_fd(), PollFlags::POLLIN)], 300u16);
        };
        assert_eq!(seen(polling), Activity::Accepting);
        let pausing = |_: &TcpListener| {
            let _ = nix::poll::poll(&mut [], 300u16);
        };
        assert_eq!(seen(pausing), Activity::Sleeping);
    }

    #[test]
    fn a_connection_to_another_server_is_named() {
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = other.local_addr().unwrap();
        let reading = move |_: &TcpListener| {
            use std::io::Read as _;
            let mut stream = TcpStream::connect(addr).unwrap();
            stream.set_read_timeout(Some(Duration::from_millis(400))).unwrap();
            let _ = stream.read(&mut [0]);
        };
        let Activity::Waiting(wait) = seen(reading) else { panic!() };
        assert_eq!((wait.call.as_str(), wait.target), ("recvfrom", Target::Remote(addr)));
    }

    #[test]
    fn an_epoll_descriptor_tells_what_it_watches() {
        let line = "tfd:        6 events:       19 data:                6  pos:0 ino:d46 sdev:8";
        assert!(watches(line, 0xd46) && !watches(line, 0xd47));
        assert!(!watches(&line.replace("19", "18"), 0xd46), "not for input");
        assert!(!watches("pos:	0", 0));
    }

    #[test]
    fn a_process_that_does_not_hold_the_socket_is_left_alone() {
        assert!(Process::open(id(), None, 1).is_none());
    }
}
