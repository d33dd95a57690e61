//! A listening socket with its queue, its limits and its owners.

use std::{
    net::SocketAddr,
    ops::{Deref, DerefMut},
    sync::Arc,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{
    backlog::{Backlog, LimitedBy},
    depth::Depth,
    server::Server,
    socket_unit::SocketUnit,
    workload::Workload,
};
use crate::{
    kernel::{ListenerId, NetnsId, QueueDepth},
    shell::quoted,
};

/// A listening TCP socket as the inventory knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listener {
    /// Namespace, bound address and inode.
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
    /// The processes that hold the socket, lowest pid first; at most 64.
    pub owners: Owners,
    /// The unit through which systemd holds the socket, where it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub socket_unit: Option<SocketUnit>,
}

impl Listener {
    /// A listener of which only the kernel's counting is known: it closed before it could be looked
    /// at.
    pub fn unknown(id: ListenerId, queue: QueueDepth, netns_name: Option<String>) -> Self {
        Self {
            id,
            netns_name: netns_name.unwrap_or_else(|| id.netns.name()),
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
            owners: Owners::default(),
            socket_unit: None,
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

    /// The words that select it, and no other, on the command line of `floodmark raise`.
    pub fn selector(&self) -> String {
        let ListenerId { netns, addr, .. } = self.id;
        let is_plain = |name: &str| {
            let is_own = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.chars().all(is_own)
        };
        // A name may hold anything.
        let addr = quoted(&addr.to_string());
        match Some(&*self.netns_name).filter(|name| is_plain(name)) {
            Some(name) => format!("{addr} --netns {name}"),
            None => format!("{addr} --netns {}", netns.inode()),
        }
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
    /// The processes that hold the socket, lowest pid first; at most 64.
    pub owners: Owners,
}

/// The processes that hold a socket. Copies share one list, and so do sockets with the same holders.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owners(Arc<Vec<Owner>>);

impl Owners {
    /// Whether both are the same list in memory.
    #[cfg(test)]
    pub(super) fn is_shared_with(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl From<Vec<Owner>> for Owners {
    fn from(owners: Vec<Owner>) -> Self {
        Self(Arc::new(owners))
    }
}

impl FromIterator<Owner> for Owners {
    fn from_iter<T: IntoIterator<Item = Owner>>(owners: T) -> Self {
        owners.into_iter().collect::<Vec<_>>().into()
    }
}

impl Deref for Owners {
    type Target = Vec<Owner>;

    fn deref(&self) -> &Vec<Owner> {
        &self.0
    }
}

impl DerefMut for Owners {
    fn deref_mut(&mut self) -> &mut Vec<Owner> {
        Arc::make_mut(&mut self.0)
    }
}

impl Serialize for Owners {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Owners {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Vec::deserialize(deserializer).map(Self::from)
    }
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
    /// Which server program or framework it is, where that shows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<Server>,
    /// Its parent process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<u32>,
    /// Whether its main thread waited for child processes (wait4(2)) when it was looked at: it does
    /// not accept meanwhile.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub awaits_children: bool,
    /// Where it hands on what it accepts, where it is a forwarder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forwards_to: Option<SocketAddr>,
}

impl Owner {
    /// An owner, with what its control group tells of it.
    pub fn new(pid: u32, command: impl Into<String>, cgroup: Option<String>) -> Self {
        let workload = cgroup.as_deref().map(Workload::of_cgroup).unwrap_or_default();
        let command = command.into();
        Self {
            pid,
            command,
            cgroup,
            workload,
            server: None,
            parent: None,
            awaits_children: false,
            forwards_to: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selector_is_safe_for_a_shell_whatever_the_names() {
        let selector = |addr: &str, name: &str| {
            let id =
                ListenerId { netns: NetnsId::new(7, 2), addr: addr.parse().unwrap(), inode: 1 };
            Listener::unknown(id, QueueDepth::default(), Some(name.to_owned())).selector()
        };
        assert_eq!(selector("0.0.0.0:80", "app-1"), "0.0.0.0:80 --netns app-1");
        assert_eq!(selector("[::]:80", "app"), "'[::]:80' --netns app");
        for hostile in ["", "-x", "a b", "$(reboot)", "net:[7]", "x\u{202e}"] {
            assert_eq!(selector("0.0.0.0:80", hostile), "0.0.0.0:80 --netns 7", "{hostile}");
        }
    }

    #[test]
    fn a_full_queue_holds_one_more_than_its_limit() {
        let queue = |len| QueueDepth { len, limit: 2 };
        assert!(!queue(2).is_full() && queue(3).is_full());
        assert!((queue(3).occupancy() - 1.0).abs() < f64::EPSILON);
    }
}
