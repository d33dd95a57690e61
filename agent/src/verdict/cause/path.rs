//! What the way to the peer says of an attempt that failed.

use super::{Facts, Ruling, errno, ruling};
use crate::{
    kernel::path::{Path, PeerPath, Reachability},
    verdict::verdict::{Cause, Confidence},
};

/// The kernel said that the peer cannot be reached. It says so where no route leads there
/// (`fib_props`), where the next hop does not answer ARP or neighbour discovery (`ipv4_link_failure`,
/// `ip6_link_failure`), and where somebody on the way sent ICMP (`tcp_v4_err`, `tcp_v6_err`).
pub(super) fn unreachable(errno: i32, facts: &Facts) -> Ruling {
    use Confidence::{High, Medium};
    if let Some(closed) = path_closed(facts) {
        return closed;
    }
    let name = if errno == errno::ENETUNREACH { "ENETUNREACH" } else { "EHOSTUNREACH" };
    match facts.path.map(|seen| seen.path) {
        Some(Path::Neighbour { addr, is_gateway, state }) => {
            let (sure, heard) = match state {
                Reachability::Answers => (High, "answers"),
                Reachability::Fixed => (High, "needs no neighbour entry"),
                _ => (Medium, "is not known to be dead"),
            };
            let hop = if is_gateway { format!("its gateway {addr}") } else { "it".to_owned() };
            ruling(
                Cause::Rejected,
                sure,
                &format!(
                    "connect returned {name}, but there is a route to the peer and {hop} {heard}: \
                     a firewall or a router rejected the connection (ICMP)"
                ),
            )
        }
        Some(Path::Local) => ruling(
            Cause::Rejected,
            High,
            &format!(
                "connect returned {name} for an address of the proxy's own host: a firewall \
                      rule rejects it"
            ),
        ),
        _ => ruling(
            Cause::Unreachable,
            Medium,
            &format!(
                "connect returned {name}: no route, no answer to ARP, or a rejection by ICMP; the \
                 path from the proxy's namespace could not be checked"
            ),
        ),
    }
}

/// EACCES, EPERM and EINVAL with a route that is open.
pub(super) fn not_allowed(errno: i32) -> Ruling {
    if errno == errno::EINVAL {
        let because = "error number 22 is not related to a queue";
        return ruling(Cause::NoKernelEvidence, Confidence::Low, because);
    }
    ruling(
        Cause::Rejected,
        Confidence::Medium,
        "a security module (SELinux: httpd_can_network_connect), a BPF program or a firewall \
         denied the connect",
    )
}

/// Where nothing can get to the peer.
pub(super) fn path_closed(facts: &Facts) -> Option<Ruling> {
    let seen = facts.path.filter(PeerPath::is_closed)?;
    let (cause, because) = match seen.path {
        Path::NoRoute => (Cause::Unreachable, "there is no route to the peer".to_owned()),
        Path::Refused { errno } => {
            let kind = match errno {
                errno::EACCES => "prohibit",
                errno::EINVAL => "blackhole",
                _ => "unreachable",
            };
            (Cause::Unreachable, format!("the only route to the peer has the type {kind}"))
        }
        Path::Neighbour { addr, is_gateway, .. } => {
            let who =
                if is_gateway { format!("the gateway {addr}") } else { "the peer".to_owned() };
            let what = if addr.is_ipv4() { "ARP" } else { "neighbour discovery" };
            (Cause::NeighbourUnresponsive, format!("{who} does not answer {what}"))
        }
        Path::Local => return None,
    };
    let place =
        if seen.is_router { ", as seen on this host, which routes for the proxy" } else { "" };
    Some(ruling(cause, Confidence::High, &format!("{because}{place}")))
}
