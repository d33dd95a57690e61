//! What a thread was doing when it was looked at.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// What a thread was doing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activity {
    /// It ran, or was ready to run (state R).
    Running,
    /// It waited for a connection to the listener: in accept(2), or in epoll, poll or select on it.
    Accepting,
    /// It waited for events in epoll, poll or select, of many descriptors but not the listener.
    Polling,
    /// It waited for nothing but time.
    Sleeping,
    /// A signal had stopped it (state T).
    Stopped,
    /// A debugger had stopped it (state t).
    Traced,
    /// Its control group was frozen.
    Frozen,
    /// It waited for its children or for a signal, as the parent of workers does.
    Supervising,
    /// It waited for another thread: a lock, a condition, an empty queue of work (futex(2)).
    Locked,
    /// It waited for something else.
    Waiting(Wait),
}

/// A system call, and what it waits for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Wait {
    /// Name of the system call; of one without a name here its number, as `syscall N`. In state D without a
    /// system call: `page fault`.
    pub call: String,
    /// What it waits for.
    pub target: Target,
}

/// What a system call waits for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// Another server, by its address.
    Remote(SocketAddr),
    /// A client that came in by way of a listener: its address is not kept.
    OwnClient,
    /// A socket of which no address is known: a Unix socket, one that is not connected.
    Socket,
    /// A pipe or FIFO.
    Pipe,
    /// A file, by its path at the time.
    File(String),
    /// The kernel, uninterruptibly (state D), by the function in which it waits.
    Kernel(String),
    /// Unknown.
    Unknown,
}
