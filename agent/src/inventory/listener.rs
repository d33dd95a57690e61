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
    /// `net.core.somaxconn` of its namespace.
    pub somaxconn: Option<u32>,
    /// The socket's drop counter (`SK_MEMINFO_DROPS`). Not ListenDrops: see kernel::estimate.
    pub drops: u32,
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
}
