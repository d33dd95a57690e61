//! What is done to a listener, a given number of times, in a network namespace of its own.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use floodmark::kernel::{Counter, mib};
use floodmark_tests::topology::Namespace;
use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, connect, listen, socket,
    },
};
use serde::Serialize;

/// Below the clients' ports, as services' ports are; the agent tells the sides apart by that.
const PORT: u16 = 8080;
/// Times that do not count, so that maps hold their entries and caches are warm.
const WARM_UP: u32 = 200;

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Workload {
    /// A client connects, the server accepts, both close.
    Accepted,
    /// A SYN meets a full accept queue.
    Dropped,
}

/// A workload done.
pub struct Done<T> {
    /// What was read before.
    pub before: T,
    /// What was read after.
    pub after: T,
    /// How long it took.
    pub took: Duration,
}

impl Workload {
    /// Does it `times`, in this thread, reading before and after.
    ///
    /// # Errors
    ///
    /// When the kernel's own counters say that something else was done.
    pub fn run<T: Send>(self, times: u32, read: impl Fn() -> T + Sync) -> Result<Done<T>> {
        let namespace = Namespace::new(format!("fmbench-{}", std::process::id()))?;
        namespace.inside(|| self.run_here(times, &read))?
    }

    fn run_here<T>(self, times: u32, read: impl Fn() -> T) -> Result<Done<T>> {
        let target = Target::new(self)?;
        for _ in 0..WARM_UP {
            target.once()?;
        }
        let counted = self.counted()?;
        let before = read();
        let start = Instant::now();
        for _ in 0..times {
            target.once()?;
        }
        let took = start.elapsed();
        let after = read();
        let counted = self.counted()? - counted;
        ensure!(counted == u64::from(times), "{self:?} {times} times; the kernel says {counted}");
        Ok(Done { before, after, took })
    }

    /// The kernel's count of it in this namespace.
    fn counted(self) -> Result<u64> {
        let counts = mib::read_here().context("reading the kernel's counters")?;
        Ok(match self {
            Self::Accepted => counts[Counter::PassiveOpens],
            Self::Dropped => counts[Counter::ListenOverflows],
        })
    }
}

struct Target {
    workload: Workload,
    listener: TcpListener,
    addr: SocketAddr,
    /// Connections that nobody accepts.
    _queued: Vec<TcpStream>,
}

impl Target {
    fn new(workload: Workload) -> Result<Self> {
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
        let listener = TcpListener::bind(addr).context("listening")?;
        let mut queued = Vec::new();
        if workload == Workload::Dropped {
            // std has its own backlog. With 0 the SYN queue would count as full, too.
            listen(&listener, Backlog::new(1)?).context("shortening the queue")?;
            // A queue is full when it holds more than its limit (sk_acceptq_is_full).
            for _ in 0..2 {
                queued.push(TcpStream::connect(addr).context("filling the queue")?);
            }
        }
        Ok(Self { workload, listener, addr, _queued: queued })
    }

    fn once(&self) -> Result<()> {
        match self.workload {
            Workload::Accepted => {
                let client = TcpStream::connect(self.addr).context("connecting")?;
                let server = self.listener.accept().context("accepting")?;
                drop((client, server));
            }
            Workload::Dropped => self.knock()?,
        }
        Ok(())
    }

    /// Sends one SYN and forgets about it, so that it is not sent again.
    fn knock(&self) -> Result<()> {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let client = socket(AddressFamily::Inet, SockType::Stream, flags, None)?;
        match connect(client.as_raw_fd(), &SockaddrStorage::from(self.addr)) {
            Err(Errno::EINPROGRESS) => Ok(()),
            other => other.context("a connect that should be under way"),
        }
    }
}
