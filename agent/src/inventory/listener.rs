//! A listening socket with its queue, its limits and its owners.

use serde::{Deserialize, Serialize};

use crate::kernel::{ListenerId, QueueDepth};

/// A listening TCP socket as the inventory knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listener {
    /// Which one.
    pub id: ListenerId,
    /// Name of its namespace: a name under `/run/netns`, or `net:[N]`.
    pub netns_name: String,
    /// Its accept queue when last looked at (`sock_diag` idiag_rqueue, idiag_wqueue).
    pub queue: QueueDepth,
    /// `SK_MEMINFO_DROPS` when last looked at. It says that this listener drops, not how often: a
    /// dropped final ACK moves it by two. Wraps at 2^32.
    pub drops: u32,
    /// `net.core.somaxconn` of its namespace.
    pub somaxconn: Option<u32>,
    /// Whether an IPv6 wildcard socket leaves IPv4 alone (IPV6_V6ONLY).
    pub v6_only: bool,
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
            queue,
            drops: 0,
            somaxconn: None,
            v6_only: false,
            owners: Vec::new(),
        }
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
}
