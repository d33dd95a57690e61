//! The one model that every proxy dialect is translated into.

use std::{fmt, net::SocketAddr};

use serde::{Deserialize, Serialize};

use super::{dialect::haproxy::LogFormat, timestamp::When};
use crate::{kernel::path::PeerPath, time::UnixMs};

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
    /// The group (nginx `upstream`, HAProxy backend, Envoy cluster) the peer was tried for, where
    /// the proxy names it beside the peer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// The peer's address, where it is known though `upstream` is a name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_addr: Option<SocketAddr>,
    /// Where a connection to the peer's address really goes, where that is translated on its way or
    /// handed on by a program; several where it is shared out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub leads_to: Vec<SocketAddr>,
    /// The way to the peer a moment later, where it did not let the proxy connect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PeerPath>,
    /// The proxy's own end of the connection that failed: with it the join is exact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_addr: Option<SocketAddr>,
    /// How long the attempt, or the request with all its attempts, took; in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub took_ms: Option<u64>,
    /// Whether it is sure that the proxy itself said so.
    #[serde(default, skip_serializing_if = "Trust::is_verified")]
    pub trust: Trust,
    /// What is known of when the line was read, until `at` has been checked against it.
    #[serde(skip)]
    pub undated: Option<Reading>,
    /// The line that told it, where it was one; its beginning where it is long. Not for export: it
    /// names clients and what they asked for.
    #[serde(skip)]
    pub line: Option<String>,
}

impl ProxyEvent {
    /// An event of which no more is known than that, at a time that is known.
    pub fn new(
        proxy: ProxyKind,
        carrier: &Carrier<'_>,
        (at, precision_ms): (UnixMs, u32),
        kind: EventKind,
        upstream: Upstream,
    ) -> Self {
        let when = When { at, is_local: false, precision_ms };
        Self { undated: None, ..Self::at(when, proxy, carrier, kind, upstream) }
    }

    /// An event of which no more is known than that, at a time that may be local.
    pub(super) fn at(
        when: When,
        proxy: ProxyKind,
        carrier: &Carrier<'_>,
        kind: EventKind,
        upstream: Upstream,
    ) -> Self {
        let Carrier { read_at, stamped, .. } = *carrier;
        Self {
            at: when.at,
            precision_ms: when.precision_ms,
            undated: Some(Reading { read_at, heard_at: read_at, stamped, is_local: when.is_local }),
            proxy,
            source: carrier.source.to_owned(),
            pid: carrier.pid,
            connection: None,
            kind,
            upstream,
            group: None,
            peer_addr: None,
            leads_to: Vec::new(),
            path: None,
            local_addr: None,
            took_ms: None,
            trust: Trust::Verified,
            line: None,
        }
    }

    /// The event by a clock that is ahead by `offset_ms`.
    pub fn shifted(self, offset_ms: i64) -> Self {
        Self { at: self.at.shifted(offset_ms), ..self }
    }

    /// The event of a line that was read at `at` by the agent's clock.
    pub(super) fn heard_at(self, at: UnixMs) -> Self {
        let undated = self.undated.map(|reading| Reading { heard_at: at, ..reading });
        Self { undated, ..self }
    }

    /// How the attempt failed that it tells of, where it says.
    pub fn failure(&self) -> Option<Failure> {
        match self.kind {
            EventKind::AttemptFailed { failure, .. } => Some(failure),
            EventKind::PeerMarked { failure, .. } => failure,
            EventKind::NoLivePeers | EventKind::PeerBack => None,
        }
    }

    /// The peer's TCP address, where it is known.
    pub fn addr(&self) -> Option<SocketAddr> {
        match self.upstream {
            Upstream::Inet(addr) => Some(addr),
            _ => self.peer_addr,
        }
    }

    /// The group the event concerns, where it is known.
    pub fn group_name(&self) -> Option<&str> {
        match &self.upstream {
            Upstream::Group(name) => Some(name),
            Upstream::Server { group, .. } => Some(group),
            _ => self.group.as_deref(),
        }
    }
}

/// Whether it is sure that a line is the proxy's own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trust {
    /// It is: the process it names is the proxy's, or nobody else can write such a line.
    #[default]
    Verified,
    /// Its form fits. Who wrote it cannot be checked from here.
    Unverified,
    /// Its form fits, and it follows text in which somebody else may have written it.
    Doubtful,
}

impl Trust {
    fn is_verified(&self) -> bool {
        *self == Self::Verified
    }
}

/// When a line was read, and what its carrier says of when it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// When it was read, by the wall clock.
    pub read_at: UnixMs,
    /// The same by the agent's clock.
    pub heard_at: UnixMs,
    /// The carrier's stamp.
    pub stamped: Option<When>,
    /// Whether the event's time is local time of a zone that is not known yet.
    pub is_local: bool,
}

/// What brought a line here, and what that says of it.
#[derive(Clone, Copy, Debug)]
pub struct Carrier<'a> {
    /// Name of the source.
    pub source: &'a str,
    /// When the line was read, by the wall clock, as are all times that a parser is told and tells.
    pub read_at: UnixMs,
    /// When it was written, where the carrier stamps it (a container's log, syslog, journald).
    pub stamped: Option<When>,
    /// The writer's process id, where the carrier tells it (syslog).
    pub pid: Option<u32>,
    /// How HAProxy's operator has it write traffic logs, where that is known.
    pub log_formats: &'a [LogFormat],
}

impl<'a> Carrier<'a> {
    /// A line of `source` read at `read_at`, of which the carrier tells nothing.
    pub fn plain(source: &'a str, read_at: UnixMs) -> Self {
        Self { source, read_at, stamped: None, pid: None, log_formats: &[] }
    }

    /// The best idea of when a line was written that bears no time itself.
    pub(super) fn written(&self) -> When {
        self.stamped.unwrap_or(When { at: self.read_at, is_local: false, precision_ms: 1000 })
    }
}

/// The proxy program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "programs, named as they call themselves")]
pub enum ProxyKind {
    /// nginx and what is built on it: OpenResty, APISIX, Tengine, ingress-nginx.
    Nginx,
    Haproxy,
    Envoy,
    Caddy,
    /// Apache httpd.
    Apache,
    Traefik,
}

impl ProxyKind {
    /// Every program there is.
    pub const ALL: [Self; 6] =
        [Self::Nginx, Self::Haproxy, Self::Envoy, Self::Caddy, Self::Apache, Self::Traefik];

    /// Name of the program in metrics and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
            Self::Envoy => "envoy",
            Self::Caddy => "caddy",
            Self::Apache => "apache",
            Self::Traefik => "traefik",
        }
    }
}

/// What a proxy reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum EventKind {
    /// One attempt at one peer failed; a health check is an attempt too.
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
        /// How that attempt failed, where the marking itself says so.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        failure: Option<Failure>,
    },
    /// The proxy takes the peer into its rotation again.
    PeerBack,
    /// Every peer of the group is out: the client gets an error at once.
    NoLivePeers,
}

impl EventKind {
    /// Every value of [`name`](Self::name), for metrics that start at 0.
    pub const NAMES: [&str; 4] = ["attempt_failed", "peer_marked", "peer_back", "no_live_peers"];

    /// Name of the event in metrics and JSON.
    pub fn name(&self) -> &'static str {
        match self {
            Self::AttemptFailed { .. } => "attempt_failed",
            Self::PeerMarked { .. } => "peer_marked",
            Self::PeerBack => "peer_back",
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
    /// Any other step, or one that the proxy does not tell.
    Other,
}

impl Phase {
    /// Its name, as in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::TlsHandshake => "tls_handshake",
            Self::Send => "send",
            Self::ResponseHeader => "response_header",
            Self::Body => "body",
            Self::Other => "other",
        }
    }
}

/// How an attempt failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "failure")]
pub enum Failure {
    /// The system call's error number (Linux numbering, e.g. 110 = ETIMEDOUT). A proxy's own timer
    /// that ran out is 110 too, as nginx has it.
    Errno {
        /// The number as the proxy printed it, or as its words stand for.
        errno: i32,
    },
    /// The peer closed before it had answered in full.
    ClosedEarly,
    /// The peer closed or reset the connection before it had answered; the proxy does not tell which.
    Aborted,
    /// The peer answered something that is no valid response, or no valid TLS handshake.
    InvalidResponse,
    /// The peer answered with a status that the proxy counts as a failure.
    BadStatus,
    /// The proxy came up against a limit of its own: connections, queue, descriptors.
    OwnLimit,
    /// The proxy does not say.
    Unknown,
}

impl Failure {
    /// ETIMEDOUT.
    pub const TIMEOUT: Self = Self::Errno { errno: 110 };
    /// ECONNREFUSED.
    pub const REFUSED: Self = Self::Errno { errno: 111 };
    /// ECONNRESET.
    pub const RESET: Self = Self::Errno { errno: 104 };

    /// Whether a way that is closed may have led to it: not where the peer itself answered, or the
    /// proxy did not even try.
    pub fn may_be_the_paths(self) -> bool {
        match self {
            Self::Errno { errno } => {
                ![libc::ECONNREFUSED, libc::ECONNRESET, libc::EPIPE, libc::EADDRNOTAVAIL]
                    .contains(&errno)
            }
            Self::Unknown => true,
            _ => false,
        }
    }

    /// The failure that Go, Envoy and Caddy tell in the words of `strerror`, in glibc's or musl's.
    pub(super) fn of_words(words: &str) -> Option<Self> {
        let errno = match words.to_ascii_lowercase().as_str() {
            "connection refused" => 111,
            "connection reset by peer" => 104,
            "broken pipe" => 32,
            "connection timed out" | "operation timed out" | "i/o timeout" => 110,
            "cannot assign requested address" | "address not available" => 99,
            "network is unreachable" | "network unreachable" => 101,
            "no route to host" | "host is unreachable" => 113,
            "too many open files" | "no file descriptors available" => 24,
            "resource temporarily unavailable" => 11,
            "no such file or directory" => 2,
            _ => return None,
        };
        Some(Self::Errno { errno })
    }
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
    /// A server by its name in the proxy's configuration (HAProxy).
    Server {
        /// Its backend.
        group: String,
        /// The server, unique in its backend.
        name: String,
    },
    /// A peer by the host and port that the proxy's configuration has.
    Host(String),
    /// The proxy does not say which.
    Unnamed,
}

impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inet(addr) => write!(f, "{addr}"),
            Self::Unix(path) => write!(f, "unix:{path}"),
            Self::Group(name) | Self::Host(name) => f.write_str(name),
            Self::Server { group, name } => write!(f, "{group}/{name}"),
            Self::Unnamed => f.write_str("unnamed"),
        }
    }
}
