//! What stands between the proxy's host and the application's: put up for a case, and taken away as
//! the person would who has read the advice.

use std::net::Ipv4Addr;

use anyhow::{Context, Result, ensure};

use super::stage::NOBODY;
use crate::topology::{Namespace, Topology, ip};

/// An address on the way to the application's host, which that host gets when it is brought up.
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(10, 77, 1, 20);
/// The table that drops.
const TABLE: &str = "lab";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// A filter of the application's host drops SYNs before TCP sees them.
    SynFilter,
    /// A filter of the proxy's host drops the SYN/ACKs that come back.
    AnswerFilter,
    /// The proxy's host has a route that says there is none.
    NoRoute,
    /// The proxy asks at an address whose host is down.
    HostDown,
}

impl Obstacle {
    pub fn put_up(self, topology: &Topology) -> Result<()> {
        let (proxy, (app, addr)) = (&topology.proxy, &topology.apps[0]);
        match self {
            Self::SynFilter => filter(app, "tcp flags & (syn|ack) == syn"),
            Self::AnswerFilter => filter(proxy, "tcp flags & (syn|ack) == (syn|ack)"),
            Self::NoRoute => {
                ip(&["-n", proxy.name(), "route", "add", "unreachable", &addr.to_string()])
            }
            Self::HostDown => {
                let (proxy, host) = (proxy.name(), ELSEWHERE.to_string());
                let near = Ipv4Addr::from_bits(addr.to_bits() - 1).to_string();
                ip(&["-n", proxy, "route", "add", &host, "dev", "app1", "src", &near])?;
                let nobody = ["lladdr", NOBODY, "nud", "permanent", "dev", "app1"];
                ip(&[&["-n", proxy, "neigh", "replace", &host], &nobody[..]].concat())
            }
        }
    }

    pub fn take_away(self, topology: &Topology) -> Result<()> {
        let (proxy, (app, addr)) = (&topology.proxy, &topology.apps[0]);
        match self {
            Self::SynFilter => nft(app, &format!("delete table ip {TABLE}")),
            Self::AnswerFilter => nft(proxy, &format!("delete table ip {TABLE}")),
            Self::NoRoute => {
                ip(&["-n", proxy.name(), "route", "del", "unreachable", &addr.to_string()])
            }
            Self::HostDown => {
                let host = ELSEWHERE.to_string();
                ip(&["-n", app.name(), "addr", "add", &host, "dev", "eth0"])?;
                ip(&["-n", proxy.name(), "neigh", "del", &host, "dev", "app1"])
            }
        }
    }

    /// The word by which the commands of the advice show it, where they can.
    pub fn sign(self) -> Option<&'static str> {
        match self {
            Self::SynFilter | Self::AnswerFilter => Some("chain way"),
            Self::NoRoute => Some("unreachable"),
            Self::HostDown => None,
        }
    }

    /// Where the proxy asks instead of at the application's own address.
    pub fn address(self) -> Option<Ipv4Addr> {
        (self == Self::HostDown).then_some(ELSEWHERE)
    }
}

/// Has a host drop what comes in and matches.
fn filter(host: &Namespace, what: &str) -> Result<()> {
    let rules = format!(
        "table ip {TABLE} {{
            chain way {{
                type filter hook prerouting priority 0
                iif != lo {what} drop
            }}
        }}"
    );
    nft(host, &rules)
}

fn nft(host: &Namespace, rules: &str) -> Result<()> {
    let status = host.command("/usr/sbin/nft")?.arg(rules).status();
    let status = status.context("running nft (package nftables)")?;
    ensure!(status.success(), "nft does not take {rules}");
    Ok(())
}
