//! The ladder: for each signal the rungs it can be had from, best first, what each rung cannot see,
//! and which one was taken and why not a higher one.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::hooks::{
    ACCEPTS_2, ACCEPTS_4, ACCEPTS_KPROBE, ACCEPTS_SYSCALL, ACK_BRACKET, ACK_BRACKET_KPROBE,
    ACK_REASON, CHURN, CLIENTS, COOKIE_BRACKET, COOKIE_BRACKET_KPROBE, ENQUEUES, ENQUEUES_CLONED,
    ENQUEUES_KPROBE, EXPIRED, EXPIRED_KPROBE, Hook, ICMP_ERROR, ICMP_ERROR_KPROBE, LAST_QUARTER,
    LISTEN_CALLS, LISTENERS_CHANGED, LISTENS_STARTED, NO_PORT, NO_PORT_KPROBE, SYN_BRACKET,
    SYN_BRACKET_KPROBE, SYN_REPEATED, SYN_REPEATED_KPROBE, SYN_REPEATED_TRACEPOINT,
    SYNACK_TRACEPOINT, TIME_WAIT_ENDS, TIME_WAIT_ENDS_KPROBE, TIME_WAIT_EXPIRED,
    TIME_WAIT_EXPIRED_KPROBE, TIME_WAIT_HASHED, TIME_WAIT_HASHED_KPROBE, TIME_WAIT_SCHEDULED,
    TIME_WAIT_SCHEDULED_KPROBE, TIME_WAIT_STATES, UNACCEPTED, UNACCEPTED_KPROBE, UNIX_CONNECTS,
    UNIX_CONNECTS_SYSCALL,
};
pub use super::signal::Signal;

/// Where a signal comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rung {
    /// Nowhere.
    None,
    /// Netlink `sock_diag` and the namespaces' MIB files.
    Netlink,
    /// BPF at tracepoints.
    Tracepoint,
    /// BPF at function entry and exit, by kprobe and kretprobe.
    Kprobe,
    /// BPF at function entry and exit, by trampoline.
    Fentry,
}

impl Rung {
    /// Name in metrics and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Netlink => "netlink",
            Self::Tracepoint => "tracepoint",
            Self::Kprobe => "kprobe",
            Self::Fentry => "fentry",
        }
    }
}

impl fmt::Display for Rung {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One way to have a signal.
#[derive(Debug)]
pub struct Way {
    /// Its place on the ladder.
    pub rung: Rung,
    /// The programs it takes; all of them must attach.
    pub hooks: &'static [Hook],
    /// Programs that tell more where they attach.
    pub extras: &'static [Hook],
    /// What it cannot see.
    pub blind_spot: &'static str,
    /// Whether its programs run for every connection and do more than look whether something is
    /// wrong.
    pub for_every_connection: bool,
}

const fn way(rung: Rung, hooks: &'static [Hook], blind_spot: &'static str) -> Way {
    Way { rung, hooks, extras: &[], blind_spot, for_every_connection: false }
}

const fn time_wait(hooks: &'static [Hook]) -> Way {
    Way { extras: TIME_WAIT_ENDS, ..way(Rung::Fentry, hooks, "nothing") }
}

const fn time_wait_kprobe(hooks: &'static [Hook]) -> Way {
    Way { extras: TIME_WAIT_ENDS_KPROBE, ..way(Rung::Kprobe, hooks, KPROBE) }
}

/// A way whose programs run for every connection.
const fn watching(rung: Rung, hooks: &'static [Hook], blind_spot: &'static str) -> Way {
    Way { for_every_connection: true, ..way(rung, hooks, blind_spot) }
}

impl Way {
    /// Why it is not taken within `reach`, and what would allow it.
    pub fn beyond(&self, reach: Reach) -> Option<&'static str> {
        if self.slows_system_calls() && !reach.system_calls {
            return Some("makes every system call slower; --trace-system-calls allows it");
        }
        (self.for_every_connection && !reach.connections)
            .then_some("runs for every connection; --watch-connections allows it")
    }

    /// Whether every system call of the host takes longer for it, so that it must be asked for.
    pub fn slows_system_calls(&self) -> bool {
        self.hooks.iter().any(Hook::slows_system_calls)
    }
}

const NETLINK_DROPS: &str = "no peers and no stage; the owner of a drop if its listener closes \
                             within a second; if several listeners of one namespace drop in the \
                             same second, their shares are estimates";

macro_rules! missed_by_kprobes {
    () => {
        "events while another kprobe program or a map system call runs on the same CPU; these \
         misses are counted if the kernel counts them"
    };
}

macro_rules! not_unicast {
    () => {
        "the first SYNs to a broadcast or multicast address"
    };
}

const KPROBE: &str = missed_by_kprobes!();
const NOT_UNICAST: &str = not_unicast!();
const SYN_KPROBE: &str = concat!(not_unicast!(), ", and ", missed_by_kprobes!());
const NETLINK_NO_COUNT: &str = "everything: the kernel has no counter for it";

/// Every signal with its ways, best first.
pub const LADDER: &[(Signal, &[Way])] = &[
    (
        Signal::SynDrops,
        &[
            Way { extras: LAST_QUARTER, ..way(Rung::Fentry, SYN_BRACKET, NOT_UNICAST) },
            way(Rung::Kprobe, SYN_BRACKET_KPROBE, SYN_KPROBE),
            way(Rung::Netlink, &[], NETLINK_DROPS),
        ],
    ),
    (
        Signal::AckDrops,
        &[
            way(Rung::Fentry, ACK_BRACKET, "nothing"),
            way(Rung::Kprobe, ACK_BRACKET_KPROBE, KPROBE),
            way(
                Rung::Tracepoint,
                ACK_REASON,
                "the difference between a full accept queue and another failure to create the \
                 child socket, and between a silent drop and a reset",
            ),
            way(Rung::Netlink, &[], NETLINK_DROPS),
        ],
    ),
    (
        Signal::CookieDrops,
        &[
            way(Rung::Fentry, COOKIE_BRACKET, "nothing"),
            way(Rung::Kprobe, COOKIE_BRACKET_KPROBE, KPROBE),
            way(Rung::Netlink, &[], NETLINK_DROPS),
        ],
    ),
    (
        Signal::IcmpDrops,
        &[
            way(Rung::Fentry, ICMP_ERROR, "nothing"),
            way(Rung::Kprobe, ICMP_ERROR_KPROBE, KPROBE),
            way(Rung::Netlink, &[], NETLINK_DROPS),
        ],
    ),
    (
        Signal::SynackRetransmits,
        &[
            way(Rung::Tracepoint, SYNACK_TRACEPOINT, "nothing"),
            way(
                Rung::Netlink,
                &[],
                "everything except a counter per namespace (TCPSynRetrans), which also counts \
                 retransmitted SYNs",
            ),
        ],
    ),
    (
        Signal::ExpiredRequests,
        &[
            way(Rung::Fentry, EXPIRED, "nothing"),
            way(Rung::Kprobe, EXPIRED_KPROBE, KPROBE),
            way(Rung::None, &[], NETLINK_NO_COUNT),
        ],
    ),
    (
        Signal::UnacceptedResets,
        &[
            way(Rung::Fentry, UNACCEPTED, "nothing"),
            way(Rung::Kprobe, UNACCEPTED_KPROBE, KPROBE),
            way(Rung::None, &[], NETLINK_NO_COUNT),
        ],
    ),
    (
        Signal::TimeWait,
        &[
            time_wait(TIME_WAIT_HASHED),
            time_wait(TIME_WAIT_SCHEDULED),
            time_wait(TIME_WAIT_EXPIRED),
            time_wait_kprobe(TIME_WAIT_HASHED_KPROBE),
            time_wait_kprobe(TIME_WAIT_SCHEDULED_KPROBE),
            time_wait_kprobe(TIME_WAIT_EXPIRED_KPROBE),
            way(
                Rung::Tracepoint,
                TIME_WAIT_STATES,
                "how TIME_WAIT ends (TWRecycled); which connections found the table full, waited in \
                 FIN_WAIT2 alone (TWKilled) or were reset in FIN_WAIT2 or CLOSING: all count as \
                 entered TIME_WAIT",
            ),
            way(Rung::Netlink, &[], "everything except a counter per namespace (TW)"),
        ],
    ),
    (
        Signal::SynRetransmits,
        &[
            way(Rung::Fentry, SYN_REPEATED, "nothing"),
            way(Rung::Kprobe, SYN_REPEATED_KPROBE, KPROBE),
            way(
                Rung::Tracepoint,
                SYN_REPEATED_TRACEPOINT,
                "before Linux 6.17, SYNs that this host's own queue refuses, until a later SYN of \
                 the same connection is sent",
            ),
            way(
                Rung::Netlink,
                &[],
                "everything except a counter per namespace (TCPSynRetrans), which also counts \
                 SYN/ACKs",
            ),
        ],
    ),
    (
        Signal::PortExhaustion,
        &[
            way(Rung::Fentry, NO_PORT, "nothing"),
            way(Rung::Kprobe, NO_PORT_KPROBE, KPROBE),
            way(Rung::None, &[], NETLINK_NO_COUNT),
        ],
    ),
    (
        Signal::QueueDepth,
        &[
            watching(Rung::Fentry, ENQUEUES, "nothing"),
            watching(Rung::Kprobe, ENQUEUES_KPROBE, KPROBE),
            watching(
                Rung::Tracepoint,
                ENQUEUES_CLONED,
                "which socket of a SO_REUSEPORT group is affected: each has the maximum of the \
                 deepest",
            ),
            way(
                Rung::Netlink,
                &[],
                "maximums between two samples, unless something was dropped \
                                     then",
            ),
        ],
    ),
    (
        Signal::TimeInQueue,
        &[
            watching(Rung::Fentry, ACCEPTS_2, "nothing"),
            watching(Rung::Fentry, ACCEPTS_4, "nothing"),
            watching(Rung::Kprobe, ACCEPTS_KPROBE, KPROBE),
            watching(
                Rung::Tracepoint,
                ACCEPTS_SYSCALL,
                "connections that io_uring or a 32-bit process accepts",
            ),
            way(Rung::None, &[], NETLINK_NO_COUNT),
        ],
    ),
    (
        Signal::ListenCalls,
        &[
            way(
                Rung::Fentry,
                LISTEN_CALLS,
                "the backlog of sockets older than the agent, which is derived from the limit",
            ),
            way(
                Rung::Tracepoint,
                LISTENS_STARTED,
                "a second listen(2) on a socket, except its limit; sockets older than the agent; \
                 backlogs of io_uring and 32-bit processes",
            ),
            way(Rung::Tracepoint, LISTENERS_CHANGED, "backlogs, which are derived from the limit"),
            way(
                Rung::Netlink,
                &[],
                "backlogs, which are derived from the limit; listeners newer than the last sweep",
            ),
        ],
    ),
    (
        Signal::Churn,
        &[
            Way {
                extras: CLIENTS,
                ..watching(Rung::Tracepoint, CHURN, "connections older than the agent")
            },
            way(Rung::None, &[], NETLINK_NO_COUNT),
        ],
    ),
    (
        Signal::UnixRefusals,
        &[
            way(Rung::Fentry, UNIX_CONNECTS, "datagram sockets; paths are as the client gave them"),
            way(
                Rung::Tracepoint,
                UNIX_CONNECTS_SYSCALL,
                "datagram sockets, io_uring and 32-bit processes; paths are as the client gave \
                 them",
            ),
            way(Rung::None, &[], NETLINK_NO_COUNT),
        ],
    ),
];

/// How far the agent may reach for its signals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reach {
    /// No rung above this one.
    pub highest: Rung,
    /// Whether ways may be taken that make every system call of the host take longer.
    pub system_calls: bool,
    /// Whether ways may be taken whose programs run for every connection, trouble or not.
    pub connections: bool,
}

/// All that connections tell, on no rung above this one.
impl From<Rung> for Reach {
    fn from(highest: Rung) -> Self {
        Self { highest, system_calls: false, connections: true }
    }
}

/// What costs next to nothing while nothing is wrong.
impl Default for Reach {
    fn default() -> Self {
        Self { connections: false, ..Rung::Fentry.into() }
    }
}

/// How a signal is had on this host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// The signal; each has exactly one standing.
    pub signal: Signal,
    /// The rung taken.
    pub rung: Rung,
    /// What that rung cannot see.
    pub blind_spot: String,
    /// The rungs tried before, each with the reason it was refused.
    pub refused: Vec<Refusal>,
}

impl Standing {
    /// The refusals of rungs above the one taken. A way of the same rung that another kernel needs
    /// is no loss.
    pub fn higher_refused(&self) -> impl Iterator<Item = &Refusal> {
        self.refused.iter().filter(|refusal| refusal.rung > self.rung)
    }
}

/// A rung that could not be taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// The rung that the kernel refused.
    pub rung: Rung,
    /// The program's place that was refused, as `fexit on tcp_conn_request`; none where all were.
    pub place: Option<String>,
    /// Why, and what would help, in one line.
    pub reason: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_signal_goes_down_from_its_best_rung() {
        for (signal, ways) in LADDER {
            assert!(ways.is_sorted_by(|a, b| a.rung >= b.rung), "{signal:?}");
        }
    }
}
