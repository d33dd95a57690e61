//! The cases: each a fault on an application's or the proxy's host, the cause that it is, and how it
//! shows.

use std::time::Duration;

use floodmark::verdict::Cause;

use super::obstacle::Obstacle;
use crate::verdicts::behave::Mode;

/// How a fault is brought about and how it shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// So many connections at once, straight to the application.
    Burst(usize),
    /// As many connections as said, with data for all of them after; then as many again: data that
    /// comes while the queue is full is a final ACK lost.
    Data(usize),
    /// So many connections, straight to the application, one in 50 ms.
    Trickle(usize),
    /// Handshakes that stay half open, so many, and three good ones after them.
    HalfOpen(usize),
    /// So many requests at once, through nginx.
    Requests(usize),
}

#[derive(Clone, Copy, Debug)]
pub struct Case {
    pub name: &'static str,
    /// What the agent must name first.
    pub cause: Cause,
    /// What the application does; none: there is none.
    pub mode: Option<Mode>,
    /// `listen(2)` backlog of the application.
    pub backlog: u32,
    /// Kernel parameters of the application's host, below `/proc/sys/net`.
    pub app_settings: &'static [(&'static str, &'static str)],
    /// Kernel parameters of the proxy's host.
    pub proxy_settings: &'static [(&'static str, &'static str)],
    /// `max_conns` of nginx's servers.
    pub max_conns: u32,
    /// Connections that wait in the accept queue when the load begins.
    pub fillers: usize,
    /// How long the agent has watched by then.
    pub watched: Duration,
    /// What brings the fault out.
    pub load: Load,
    /// Whether half of the advised backlog is to be tried as well, which must lose.
    pub tries_half: bool,
    /// What stands between the hosts.
    pub obstacle: Option<Obstacle>,
    /// Whether the first advice takes a person: the case does what they would.
    pub by_person: bool,
}

const PLAIN: Case = Case {
    name: "",
    cause: Cause::AcceptQueueOverflow,
    mode: Some(Mode::Paced),
    backlog: 4096,
    app_settings: &[],
    proxy_settings: &[],
    max_conns: 0,
    fillers: 0,
    watched: Duration::from_secs(2),
    load: Load::Burst(300),
    tries_half: false,
    obstacle: None,
    by_person: false,
};

/// What a person is told of when the application itself is at fault.
const BY_PERSON: Case = Case { load: Load::Requests(3), by_person: true, ..PLAIN };

pub const CASES: &[Case] = &[
    Case { name: "backlog", backlog: 64, tries_half: true, ..PLAIN },
    Case { name: "somaxconn", app_settings: &[("core/somaxconn", "64")], ..PLAIN },
    Case {
        name: "final_ack",
        cause: Cause::HalfOpen,
        mode: Some(Mode::PacedDeferring),
        backlog: 64,
        load: Load::Data(60),
        ..PLAIN
    },
    Case {
        name: "abort_on_overflow",
        cause: Cause::AbortOnOverflow,
        mode: Some(Mode::PacedDeferring),
        backlog: 64,
        app_settings: &[("ipv4/tcp_abort_on_overflow", "1")],
        load: Load::Data(60),
        ..PLAIN
    },
    Case {
        name: "syn_queue",
        cause: Cause::SynQueueFull,
        mode: Some(Mode::Fine),
        backlog: 4,
        app_settings: &[("ipv4/tcp_syncookies", "0")],
        load: Load::HalfOpen(12),
        ..PLAIN
    },
    Case {
        name: "last_quarter",
        cause: Cause::HandshakeDropped,
        mode: Some(Mode::Fine),
        // Of 8 places the first SYNs take 7, as 8 - 7 < 8 / 4; the accept queue has room.
        app_settings: &[("ipv4/tcp_syncookies", "0"), ("ipv4/tcp_max_syn_backlog", "8")],
        load: Load::HalfOpen(12),
        ..PLAIN
    },
    Case { name: "stuck", mode: Some(Mode::Stuck), backlog: 16, load: Load::Trickle(40), ..PLAIN },
    Case {
        name: "not_accepting",
        cause: Cause::NotAccepting,
        mode: Some(Mode::Stuck),
        fillers: 3,
        watched: Duration::from_secs(4),
        load: Load::Requests(3),
        ..PLAIN
    },
    Case { name: "refused", cause: Cause::Refused, mode: None, load: Load::Requests(3), ..PLAIN },
    Case {
        name: "ports",
        cause: Cause::ProxyPortsExhausted,
        mode: Some(Mode::Late),
        proxy_settings: &[("ipv4/ip_local_port_range", "40000 40009")],
        load: Load::Requests(30),
        ..PLAIN
    },
    Case {
        name: "proxy_limit",
        cause: Cause::ProxyLimit,
        mode: Some(Mode::Late),
        max_conns: 1,
        // A cause before the agent began to watch must be out of the question.
        watched: Duration::from_secs(61),
        load: Load::Requests(3),
        ..PLAIN
    },
    Case { name: "slow", cause: Cause::ApplicationSlow, mode: Some(Mode::Slow), ..BY_PERSON },
    Case { name: "closed", cause: Cause::ApplicationClosed, mode: Some(Mode::Close), ..BY_PERSON },
    Case {
        name: "invalid",
        cause: Cause::ApplicationFailed,
        mode: Some(Mode::Invalid),
        ..BY_PERSON
    },
    Case {
        name: "syns_filtered",
        cause: Cause::PathLoss,
        mode: Some(Mode::Fine),
        obstacle: Some(Obstacle::SynFilter),
        ..BY_PERSON
    },
    Case {
        name: "answers_filtered",
        cause: Cause::PathLoss,
        mode: Some(Mode::Fine),
        obstacle: Some(Obstacle::AnswerFilter),
        ..BY_PERSON
    },
    Case {
        name: "no_route",
        cause: Cause::Unreachable,
        mode: Some(Mode::Fine),
        obstacle: Some(Obstacle::NoRoute),
        ..BY_PERSON
    },
    Case {
        name: "host_down",
        cause: Cause::NoKernelEvidence,
        mode: None,
        obstacle: Some(Obstacle::HostDown),
        ..BY_PERSON
    },
];
