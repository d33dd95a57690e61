//! What to change, computed from a report: each step with the numbers it stands on and the exact
//! commands for this process and namespace.

mod backlog;
mod handshake;
mod holders;
mod impediment;
mod limit;
mod peer;
mod place;
mod proxy;
mod resources;
mod workers;

pub use impediment::description;
use serde::{Deserialize, Serialize};

use self::impediment::Case;
use super::{
    finding::Finding,
    report::{ListenerReport, Report},
    verdict::Cause,
};
use crate::{
    inventory::Server,
    kernel::{ListenerId, NetnsId},
    proxy::ProxyKind,
};

/// Findings that get advice; the rest mostly repeats it.
const ADVISED: usize = 5;

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// The cause it answers.
    pub cause: Cause,
    /// One imperative sentence.
    pub what: String,
    /// Why, with its numbers.
    pub why: String,
    /// Commands that end the trouble at once and without a restart, until the application starts anew;
    /// empty where there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub now: Vec<String>,
    /// Commands and lines of configuration that do it for good; what begins with `#` says where a line goes
    /// or what to do besides.
    pub commands: Vec<String>,
    /// The same for a program; empty where it takes a person.
    pub changes: Vec<Change>,
}

/// One change, for a program to make.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "change")]
pub enum Change {
    /// Set a kernel parameter in a network namespace.
    Sysctl {
        /// The namespace; the parameter stays unchanged in all others.
        netns: NetnsId,
        /// As `sysctl` names it.
        name: String,
        /// The new value, as `sysctl -w` takes it.
        value: String,
        /// Whether whoever listens there has to listen again for it.
        listen_again: bool,
    },
    /// Have a process listen with another backlog.
    Backlog {
        /// The listener whose limit is too small.
        listener: ListenerId,
        /// Its process, where known.
        pid: Option<u32>,
        /// What it is, where known.
        server: Option<Server>,
        /// The backlog.
        value: u32,
    },
    /// Have a process accept, so many connections per second where that is known.
    Accept {
        /// The listener that is not emptied fast enough.
        listener: ListenerId,
        /// Its process, where known.
        pid: Option<u32>,
        /// Accepts per second needed.
        per_second: Option<f64>,
    },
    /// Continue a stopped process (SIGCONT).
    Continue {
        /// Which.
        pid: u32,
    },
    /// Thaw the control group of a process.
    Thaw {
        /// Which.
        pid: u32,
    },
    /// Let a process open more files (RLIMIT_NOFILE).
    OpenFiles {
        /// Which.
        pid: u32,
        /// The limit.
        limit: u64,
    },
    /// Let a control group use more processors.
    CpuLimit {
        /// Its path.
        cgroup: String,
        /// How many.
        cores: f64,
    },
    /// Let a control group use more memory.
    MemoryLimit {
        /// Its path.
        cgroup: String,
        /// How many bytes.
        bytes: u64,
    },
    /// Run more workers.
    Workers {
        /// Of which listener.
        listener: ListenerId,
        /// How many, where that is known.
        count: Option<usize>,
    },
    /// Have something listen there.
    Listen {
        /// The address.
        at: String,
    },
    /// Set a proxy's parameter.
    Proxy {
        /// Which program.
        proxy: ProxyKind,
        /// The group or peer that it is for, where known.
        upstream: Option<String>,
        /// As the proxy names it.
        setting: String,
        /// To what; none: take it off or raise it as wanted.
        value: Option<String>,
    },
}

/// What a report calls for, most effective first: what answers the worst finding comes first.
pub fn advice(report: &Report, findings: &[Finding]) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for finding in findings.iter().take(ADVISED) {
        for step in of_finding(report, finding) {
            // What is said once is enough, but whatever is to be done is told for each.
            let is_same = |known: &Step| known.what == step.what && known.commands == step.commands;
            if !steps.iter().any(is_same) {
                steps.push(step);
            }
        }
    }
    steps.extend(proxy::follow_up(report, findings));
    steps
}

/// What must not be touched, given what was found.
pub fn avoid(findings: &[Finding]) -> Vec<String> {
    let has = |wanted: fn(Cause) -> bool| findings.iter().any(|finding| wanted(finding.cause));
    let mut lines = Vec::new();
    if has(Cause::is_overflow) {
        lines.push(
            "Do not raise only one of backlog and somaxconn: the smaller one is the limit, with \
             the values at the time of listen(2)."
                .to_owned(),
        );
        lines.push(
            "Do not set net.ipv4.tcp_abort_on_overflow=1: connections that would succeed one \
             second later are then reset, and the proxy counts a failure."
                .to_owned(),
        );
    }
    if has(|cause| cause.is_overflow() || cause == Cause::ProxyPortsExhausted) {
        lines.push(
            "Do not use net.ipv4.tcp_tw_recycle: it broke clients behind NAT, and Linux 4.12 \
             removed it. TIME_WAIT does not fill an accept queue."
                .to_owned(),
        );
    }
    if has(|cause| cause == Cause::SynQueueFull) {
        lines.push(
            "Do not set net.ipv4.tcp_syncookies=2 (always): clients without timestamps then \
             always lose window scaling and SACK. With 1, they lose these only while the queue is \
             full."
                .to_owned(),
        );
    }
    lines
}

fn of_finding(report: &Report, finding: &Finding) -> Vec<Step> {
    let listener = finding.listener.and_then(|id| {
        let same = |known: &&ListenerReport| {
            let own = known.listener.id;
            own == id || (own.netns, own.addr) == (id.netns, id.addr)
        };
        report.listeners.iter().find(same)
    });
    match finding.cause {
        Cause::AcceptQueueOverflow | Cause::HalfOpen | Cause::AbortOnOverflow => match listener {
            Some(listener) => limit::accept_queue(report, finding, listener),
            None => vec![limit::unknown(finding)],
        },
        Cause::SynQueueFull => handshake::syn_queue(report, finding, listener),
        Cause::HandshakeDropped => handshake::other_drops(report, finding, listener),
        Cause::NotAccepting => {
            let (mut steps, _) = stalled(report, finding, listener);
            if steps.is_empty() {
                steps.push(peer::not_accepting(finding, listener));
            }
            steps
        }
        Cause::Refused => vec![peer::refused(report, finding)],
        Cause::PathLoss => vec![peer::path_loss(report, finding)],
        Cause::Unreachable => vec![peer::unreachable(report, finding)],
        Cause::NeighbourUnresponsive => vec![peer::unresponsive(report, finding)],
        Cause::Rejected => vec![peer::rejected(report, finding)],
        Cause::ProxyPortsExhausted => proxy::ports(report, finding),
        Cause::ProxyLimit => vec![proxy::limit(finding)],
        Cause::ApplicationClosed => vec![peer::closed(finding)],
        Cause::ApplicationFailed => vec![peer::failed(finding)],
        Cause::ApplicationSlow => vec![peer::slow(finding)],
        Cause::NoKernelEvidence => vec![peer::elsewhere(finding)],
    }
}

/// A clause as the begin of a sentence.
fn capitalized(clause: &str) -> String {
    let mut letters = clause.chars();
    let first = letters.next().map(|letter| letter.to_uppercase().to_string());
    format!("{}{}", first.unwrap_or_default(), letters.as_str())
}

/// What keeps the holders of a finding's listener from accepting, and whether that is sure.
fn stalled(
    report: &Report,
    finding: &Finding,
    listener: Option<&ListenerReport>,
) -> (Vec<Step>, bool) {
    let stall = finding.listener.and_then(|id| report.stall(id));
    let case = stall.map(|stall| Case { report, finding, listener, stall });
    case.map(|case| impediment::steps(&case)).unwrap_or_default()
}

#[cfg(test)]
mod tests;
