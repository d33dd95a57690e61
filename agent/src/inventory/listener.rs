//! A listening socket with its queue, its limits and its owners.

use floodmark_common::queue::{ListenCall, WAIT_BUCKETS};
use serde::{Deserialize, Serialize};

use super::workload::Workload;
use crate::kernel::{ListenerId, NetnsId, QueueDepth, watch::QueueReading};

/// A listening TCP socket as the inventory knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listener {
    /// Which one.
    pub id: ListenerId,
    /// Name of its namespace: a name under `/run/netns`, or `net:[N]`.
    pub netns_name: String,
    /// The kernel's unique cookie for the socket; 0 where it is not known.
    #[serde(default)]
    pub cookie: u64,
    /// Its accept queue when last looked at (`sock_diag` idiag_rqueue, idiag_wqueue).
    pub queue: QueueDepth,
    /// `SK_MEMINFO_DROPS` when last looked at. It says that this listener drops, not how often: a
    /// dropped final ACK moves it by two. Wraps at 2^32.
    pub drops: u32,
    /// `net.core.somaxconn` of its namespace.
    pub somaxconn: Option<u32>,
    /// What its process asked for in `listen(2)`.
    #[serde(default)]
    pub backlog: Backlog,
    /// How often its limit was seen to change: a further `listen(2)` with another backlog.
    #[serde(default)]
    pub limit_changes: u32,
    /// Whether an IPv6 wildcard socket leaves IPv4 alone (IPV6_V6ONLY).
    pub v6_only: bool,
    /// Sockets that share its address and port by SO_REUSEPORT, itself included.
    #[serde(default)]
    pub group: u32,
    /// Handshakes towards its address that wait for their final ACK, when last counted; those of the
    /// whole group.
    #[serde(default)]
    pub syn_queue: Option<u32>,
    /// What the kernel saw of its queue; none where no program counts.
    #[serde(default)]
    pub depth: Option<Depth>,
    /// Every process that holds the socket, lowest pid first.
    pub owners: Vec<Owner>,
}

impl Listener {
    /// A listener of which only the kernel's counting is known: it closed before it could be looked
    /// at.
    pub fn unknown(id: ListenerId, queue: QueueDepth, netns_name: Option<String>) -> Self {
        Self {
            id,
            netns_name: netns_name.unwrap_or_else(|| format!("net:[{}]", id.netns)),
            cookie: 0,
            queue,
            drops: 0,
            somaxconn: None,
            backlog: Backlog::default(),
            limit_changes: 0,
            v6_only: false,
            group: 1,
            syn_queue: None,
            depth: None,
            owners: Vec::new(),
        }
    }

    /// Share of the accept queue that is in use; 1 when it is full.
    pub fn occupancy(&self) -> f64 {
        self.queue.occupancy()
    }

    /// What must be raised for a longer queue.
    pub fn limited_by(&self) -> Option<LimitedBy> {
        self.backlog.limited_by(self.queue.limit)
    }

    /// Whether it takes IPv4 and IPv6.
    pub fn is_dual_stack(&self) -> bool {
        self.id.addr.is_ipv6() && self.id.addr.ip().is_unspecified() && !self.v6_only
    }
}

impl QueueDepth {
    /// Share that is in use; 1 when it is full, at `limit + 1`.
    pub fn occupancy(&self) -> f64 {
        f64::from(self.len) / (f64::from(self.limit) + 1.0)
    }

    /// Whether the next connection would find no room.
    pub fn is_full(&self) -> bool {
        self.len > self.limit
    }
}

/// The backlog of a listener.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backlog {
    /// What the process asked for. Inferred and equal to somaxconn, it is that or more.
    pub asked: Option<u32>,
    /// True where nobody saw the `listen(2)`.
    pub inferred: bool,
    /// `net.core.somaxconn` at that time; the present one where the backlog is inferred.
    pub somaxconn: Option<u32>,
}

impl Backlog {
    /// From the call, where one was seen that explains the limit; else from the limit, which is the
    /// smaller of backlog and somaxconn (kernel: net/socket.c `__sys_listen`).
    pub fn of(limit: u32, call: Option<&ListenCall>, somaxconn: Option<u32>) -> Self {
        // The kernel compares without sign: a negative backlog means as much as there is.
        let seen = call.map(|call| (call.backlog.cast_unsigned(), call.somaxconn));
        match seen.filter(|(asked, somaxconn)| asked.min(somaxconn) == &limit) {
            Some((asked, then)) => {
                Self { asked: Some(asked), inferred: false, somaxconn: Some(then) }
            }
            None => Self { asked: Some(limit), inferred: true, somaxconn },
        }
    }

    fn limited_by(&self, limit: u32) -> Option<LimitedBy> {
        let (asked, somaxconn) = (self.asked?, self.somaxconn?);
        Some(match asked.cmp(&somaxconn) {
            std::cmp::Ordering::Less => LimitedBy::Backlog,
            std::cmp::Ordering::Greater => LimitedBy::Somaxconn,
            // Inferred, it may well have been more: that somaxconn bounds it is all that is sure.
            std::cmp::Ordering::Equal if self.inferred && limit == somaxconn => {
                LimitedBy::Somaxconn
            }
            std::cmp::Ordering::Equal => LimitedBy::Both,
        })
    }
}

/// Which of two bounds makes a queue as short as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LimitedBy {
    /// The backlog that the process asks for.
    Backlog,
    /// `net.core.somaxconn`; the process has to listen again after it is raised.
    Somaxconn,
    /// They are equal.
    Both,
}

impl LimitedBy {
    /// Name in metrics and tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Backlog => "backlog",
            Self::Somaxconn => "somaxconn",
            Self::Both => "both",
        }
    }
}

/// What the kernel saw of an accept queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Depth {
    /// The deepest queue since the last scrape.
    pub high_since_scrape: u32,
    /// The deepest queue between the last two looks.
    #[serde(skip)]
    pub high_at_last_look: u32,
    /// The deepest queue since start.
    pub high: u32,
    /// The longest SYN queue that a connection left since start.
    pub syn_queue_high: u32,
    /// Accepted connections by the time they had waited: up to 2^-20 s, 2^-19 s and so on.
    pub waits: [u64; WAIT_BUCKETS],
    /// Sum of those times in nanoseconds.
    pub waited_ns: u64,
}

impl Depth {
    /// Takes in what the kernel saw since the last look, and the queue at both ends of that time.
    pub(super) fn take(&mut self, reading: &QueueReading, at_either_end: u32, kept: Kept) {
        let high = reading.high_since_look.max(at_either_end);
        let before = match kept {
            Kept::All => self.high_since_scrape,
            Kept::LastLook => self.high_at_last_look,
            Kept::Nothing => 0,
        };
        self.high_since_scrape = before.max(high);
        self.high_at_last_look = high;
        self.high = self.high.max(reading.high).max(high);
        self.syn_queue_high = reading.syn_queue_high;
        self.waits = reading.waits;
        self.waited_ns = reading.waited_ns;
    }

    /// Accepted connections whose time was taken.
    pub fn accepted(&self) -> u64 {
        self.waits.iter().sum()
    }
}

/// How much of the high-water marks since the last scrape stands before a look is taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// Nobody has scraped.
    All,
    /// The state before the last look was scraped: what that look saw still stands.
    LastLook,
    /// The state after the last look was scraped.
    Nothing,
}

/// A listening Unix stream or sequential-packet socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnixListener {
    /// In which namespace.
    pub netns: NetnsId,
    /// The namespace's name.
    pub netns_name: String,
    /// The path it is bound to; an abstract name begins with `@`.
    pub path: String,
    /// Its inode in sockfs.
    pub inode: u32,
    /// Its queue; a client that will not wait is refused when `len > limit`.
    pub queue: QueueDepth,
    /// Connects refused with EAGAIN since start; none where no program counts.
    #[serde(default)]
    pub refused: Option<u64>,
    /// Every process that holds the socket, lowest pid first.
    pub owners: Vec<Owner>,
}

/// A process that holds a listening socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// Process id in the agent's PID namespace.
    pub pid: u32,
    /// `comm` of the process, as the kernel keeps it (at most 15 bytes).
    pub command: String,
    /// Its control group path, from `/proc/PID/cgroup`.
    pub cgroup: Option<String>,
    /// The unit, container and pod that this path leads to.
    #[serde(default)]
    pub workload: Workload,
}

impl Owner {
    /// An owner, with what its control group tells of it.
    pub fn new(pid: u32, command: impl Into<String>, cgroup: Option<String>) -> Self {
        let workload = cgroup.as_deref().map(Workload::of_cgroup).unwrap_or_default();
        Self { pid, command: command.into(), cgroup, workload }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(backlog: i32, somaxconn: u32) -> ListenCall {
        ListenCall { backlog, somaxconn, ..ListenCall::default() }
    }

    fn limited(limit: u32, call: Option<ListenCall>, somaxconn: u32) -> (u32, bool, LimitedBy) {
        let backlog = Backlog::of(limit, call.as_ref(), Some(somaxconn));
        (backlog.asked.unwrap(), backlog.inferred, backlog.limited_by(limit).unwrap())
    }

    #[test]
    fn a_call_that_was_seen_tells_what_to_raise() {
        assert_eq!(limited(128, Some(call(128, 4096)), 4096), (128, false, LimitedBy::Backlog));
        assert_eq!(limited(128, Some(call(511, 128)), 128), (511, false, LimitedBy::Somaxconn));
        assert_eq!(limited(128, Some(call(128, 128)), 128), (128, false, LimitedBy::Both));
        let all = (u32::MAX, false, LimitedBy::Somaxconn);
        assert_eq!(limited(4096, Some(call(-1, 4096)), 4096), all);
        // somaxconn was raised since, which a listener does not feel.
        assert_eq!(limited(128, Some(call(511, 128)), 4096), (511, false, LimitedBy::Somaxconn));
    }

    #[test]
    fn without_a_call_the_limit_tells_at_least_which_bound_holds() {
        assert_eq!(limited(128, None, 4096), (128, true, LimitedBy::Backlog));
        assert_eq!(limited(128, None, 128), (128, true, LimitedBy::Somaxconn));
        // The call that was seen is not the one in force.
        assert_eq!(limited(5, Some(call(511, 128)), 128), (5, true, LimitedBy::Backlog));
    }

    #[test]
    fn a_high_water_mark_stands_until_it_was_scraped_and_no_longer() {
        let mut depth = Depth::default();
        let reading =
            |high_since_look| QueueReading { high_since_look, high: 90, ..QueueReading::default() };
        depth.take(&reading(90), 0, Kept::All);
        depth.take(&reading(0), 3, Kept::All);
        assert_eq!((depth.high_since_scrape, depth.high), (90, 90));
        depth.take(&reading(2), 0, Kept::Nothing);
        assert_eq!((depth.high_since_scrape, depth.high), (2, 90));
        // Scraped while the last look was under way: nobody has seen that one's 50 yet.
        depth.take(&reading(50), 0, Kept::All);
        depth.take(&reading(1), 0, Kept::LastLook);
        assert_eq!(depth.high_since_scrape, 50);
    }

    #[test]
    fn a_full_queue_holds_one_more_than_its_limit() {
        let queue = |len| QueueDepth { len, limit: 2 };
        assert!(!queue(2).is_full() && queue(3).is_full());
        assert!((queue(3).occupancy() - 1.0).abs() < f64::EPSILON);
    }
}
