//! The one model that every proxy dialect is translated into.

use std::{fmt, net::SocketAddr};

use serde::{Deserialize, Serialize};

use crate::time::UnixMs;

/// Something a proxy said about one of its upstream peers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProxyEvent {
    /// When the proxy said it. nginx stamps whole seconds: the true instant lies within
    /// `[at, at + precision_ms)`.
    pub at: UnixMs,
    /// Resolution of `at` in milliseconds.
    pub precision_ms: u32,
    /// Which program said it.
    pub proxy: ProxyKind,
    /// Where it was read: a file's path, a syslog sender.
    pub source: String,
    /// Process id of the worker as it sees itself (its own PID namespace).
    pub pid: Option<u32>,
    /// The proxy's own connection serial (nginx `*CID`), which pairs lines of one request.
    pub connection: Option<u64>,
    /// What happened.
    pub kind: EventKind,
    /// To whom.
    pub upstream: Upstream,
}

/// The proxy program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProxyKind {
    /// nginx, open source.
    Nginx,
}

impl ProxyKind {
    /// Name of the program in metrics and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
        }
    }
}

/// What a proxy reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum EventKind {
    /// One attempt at one peer failed.
    AttemptFailed {
        /// How far the attempt had come.
        phase: Phase,
        /// How it failed.
        failure: Failure,
    },
    /// The proxy takes the peer out of its rotation.
    PeerMarked {
        /// How far the attempt that led to the marking had come.
        phase: Phase,
    },
    /// Every peer of the group is out: the client gets an error at once.
    NoLivePeers,
}

impl EventKind {
    /// Every name there is.
    pub const NAMES: [&str; 3] = ["attempt_failed", "peer_marked", "no_live_peers"];

    /// Name of the event in metrics and JSON.
    pub fn name(&self) -> &'static str {
        match self {
            Self::AttemptFailed { .. } => "attempt_failed",
            Self::PeerMarked { .. } => "peer_marked",
            Self::NoLivePeers => "no_live_peers",
        }
    }
}

/// The step of an attempt at which the proxy gave up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// `connect(2)` and the TCP handshake.
    Connect,
    /// TLS handshake with the upstream.
    TlsHandshake,
    /// Sending the request.
    Send,
    /// Waiting for the response header.
    ResponseHeader,
    /// Reading the response body, or relaying a stream.
    Body,
    /// Any other step.
    Other,
}

/// How an attempt failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "failure")]
pub enum Failure {
    /// The system call's error number (Linux numbering, e.g. 110 = ETIMEDOUT).
    Errno {
        /// The number as the proxy printed it.
        errno: i32,
    },
    /// The peer closed before it had answered in full.
    ClosedEarly,
    /// The peer answered something that is no valid response, or no valid TLS handshake.
    InvalidResponse,
}

/// The peer, or group of peers, an event is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Upstream {
    /// A TCP peer.
    Inet(SocketAddr),
    /// A Unix-domain socket's path.
    Unix(String),
    /// The name of a group (nginx `upstream NAME {}`), said when no peer was left to try.
    Group(String),
}

impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inet(addr) => write!(f, "{addr}"),
            Self::Unix(path) => write!(f, "unix:{path}"),
            Self::Group(name) => f.write_str(name),
        }
    }
}
