//! The cases: each a way for a peer to fail, with the cause that is its truth.

use floodmark::verdict::Cause;

use super::behave::Mode;

/// A proxy under test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Proxy {
    /// Debian's nginx.
    Nginx,
    /// Debian's HAProxy.
    Haproxy,
    /// Envoy.
    Envoy,
}

impl Proxy {
    pub const ALL: [Self; 3] = [Self::Nginx, Self::Haproxy, Self::Envoy];

    /// Its name, as in the agent's events.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
            Self::Envoy => "envoy",
        }
    }
}

/// Where the application is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Home {
    /// On a host of its own.
    Plain,
    /// On a host without SYN cookies.
    NoCookies,
    /// On a host with `tcp_abort_on_overflow`.
    Aborting,
    /// On a host that SYNs do not reach.
    SynsLost,
    /// On a host whose SYN/ACKs do not arrive.
    SynAcksLost,
    /// At an address that no host here has, and that nobody answers from.
    Elsewhere,
    /// At an address with a route of type `unreachable`.
    Unreachable,
    /// At an address without any route.
    NoRoute,
    /// At an address on the plain host's link that nobody has, so that ARP goes unanswered.
    Dead,
    /// On a host whose firewall rejects by ICMP host unreachable.
    RejectingHost,
    /// On a host whose firewall rejects by ICMP administratively prohibited.
    RejectingAdmin,
    /// On the plain host, by an address that is translated on the way, as a Service's is.
    Service,
    /// On the plain host, as a container whose port Docker's userland proxy listens on.
    Published,
}

/// A way to fail.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// Its name, also that of the proxies' groups.
    pub name: &'static str,
    /// What the agent should say.
    pub truth: Cause,
    /// What is true of some of the same run's connections.
    pub also: &'static [Cause],
    /// What is true of those that did not even get connected, where that differs: the queue that
    /// drops data of the one drops SYNs of the next.
    pub at_connect: Option<Cause>,
    /// What is true of those that waited in vain, where that differs: the final ACK that answers a
    /// SYN cookie is dropped in silence, whatever `tcp_abort_on_overflow` says.
    pub in_silence: Option<Cause>,
    /// Where the application is.
    pub home: Home,
    /// What the application does; `None`: there is none.
    pub mode: Option<Mode>,
    /// `listen(2)` backlog of the application.
    pub backlog: u32,
    /// Connections that fill its accept queue before.
    pub fillers: usize,
    /// Connections that fill its SYN queue before, from an address that it cannot answer.
    pub pending: usize,
    /// Whether the proxies' host has no port left for connections to it.
    pub exhausted: bool,
    /// Requests sent at once.
    pub burst: usize,
    /// The proxies that tell of it.
    pub proxies: &'static [Proxy],
}

const PLAIN: Case = Case {
    name: "",
    truth: Cause::NoKernelEvidence,
    also: &[],
    at_connect: None,
    in_silence: None,
    home: Home::Plain,
    mode: None,
    backlog: 128,
    fillers: 0,
    pending: 0,
    exhausted: false,
    burst: 1,
    proxies: &Proxy::ALL,
};

const NGINX: &[Proxy] = &[Proxy::Nginx];
const NGINX_AND_ENVOY: &[Proxy] = &[Proxy::Nginx, Proxy::Envoy];

pub const CASES: &[Case] = &[
    // The accept queue holds one more than its backlog.
    Case {
        name: "overflow",
        truth: Cause::AcceptQueueOverflow,
        mode: Some(Mode::Stuck),
        backlog: 1,
        fillers: 2,
        ..PLAIN
    },
    // One more fits in; the handshakes of the others are accepted and their data is dropped.
    Case {
        name: "half_open",
        truth: Cause::HalfOpen,
        also: &[Cause::NotAccepting],
        at_connect: Some(Cause::AcceptQueueOverflow),
        mode: Some(Mode::StuckDeferring),
        backlog: 4,
        fillers: 4,
        burst: 8,
        ..PLAIN
    },
    Case {
        name: "abort",
        truth: Cause::AbortOnOverflow,
        also: &[Cause::NotAccepting],
        at_connect: Some(Cause::AcceptQueueOverflow),
        in_silence: Some(Cause::HalfOpen),
        home: Home::Aborting,
        mode: Some(Mode::StuckDeferring),
        backlog: 4,
        fillers: 4,
        burst: 8,
        ..PLAIN
    },
    Case {
        name: "syn_queue",
        truth: Cause::SynQueueFull,
        home: Home::NoCookies,
        mode: Some(Mode::Fine),
        backlog: 4,
        pending: 12,
        ..PLAIN
    },
    Case {
        name: "service",
        truth: Cause::AcceptQueueOverflow,
        home: Home::Service,
        mode: Some(Mode::Stuck),
        backlog: 1,
        fillers: 2,
        ..PLAIN
    },
    // Docker's proxy takes the connection and waits in vain for its own.
    Case {
        name: "published",
        truth: Cause::AcceptQueueOverflow,
        home: Home::Published,
        mode: Some(Mode::Stuck),
        backlog: 1,
        fillers: 2,
        ..PLAIN
    },
    Case {
        name: "no_ports",
        truth: Cause::ProxyPortsExhausted,
        mode: Some(Mode::Stuck),
        backlog: 4096,
        exhausted: true,
        proxies: NGINX,
        ..PLAIN
    },
    Case {
        name: "not_accepting",
        truth: Cause::NotAccepting,
        mode: Some(Mode::Stuck),
        fillers: 3,
        ..PLAIN
    },
    Case { name: "refused", truth: Cause::Refused, ..PLAIN },
    Case {
        name: "syns_lost",
        truth: Cause::PathLoss,
        home: Home::SynsLost,
        mode: Some(Mode::Fine),
        ..PLAIN
    },
    Case {
        name: "synacks_lost",
        truth: Cause::PathLoss,
        home: Home::SynAcksLost,
        mode: Some(Mode::Fine),
        ..PLAIN
    },
    Case {
        name: "unreachable",
        truth: Cause::Unreachable,
        home: Home::Unreachable,
        proxies: NGINX_AND_ENVOY,
        ..PLAIN
    },
    Case {
        name: "no_route",
        truth: Cause::Unreachable,
        home: Home::NoRoute,
        proxies: NGINX_AND_ENVOY,
        ..PLAIN
    },
    // The first attempts time out, the later ones are told that there is no route to the host.
    Case {
        name: "dead",
        truth: Cause::NeighbourUnresponsive,
        home: Home::Dead,
        proxies: &[Proxy::Nginx, Proxy::Haproxy],
        ..PLAIN
    },
    Case {
        name: "rejecting_host",
        truth: Cause::Rejected,
        home: Home::RejectingHost,
        mode: Some(Mode::Fine),
        proxies: NGINX,
        ..PLAIN
    },
    Case {
        name: "rejecting_admin",
        truth: Cause::Rejected,
        home: Home::RejectingAdmin,
        mode: Some(Mode::Fine),
        proxies: NGINX,
        ..PLAIN
    },
    Case { name: "closed", truth: Cause::ApplicationClosed, mode: Some(Mode::Close), ..PLAIN },
    Case { name: "reset", truth: Cause::ApplicationClosed, mode: Some(Mode::Reset), ..PLAIN },
    Case {
        name: "status",
        truth: Cause::ApplicationFailed,
        mode: Some(Mode::Status503),
        proxies: NGINX,
        ..PLAIN
    },
    Case { name: "invalid", truth: Cause::ApplicationFailed, mode: Some(Mode::Invalid), ..PLAIN },
    Case { name: "slow", truth: Cause::ApplicationSlow, mode: Some(Mode::Slow), ..PLAIN },
    // Each proxy is told to let one request at a time through.
    Case { name: "limit", truth: Cause::ProxyLimit, mode: Some(Mode::Late), burst: 3, ..PLAIN },
    Case { name: "elsewhere", home: Home::Elsewhere, ..PLAIN },
];
