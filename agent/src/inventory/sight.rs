//! A look into the calling thread's network namespace.

use std::{collections::BTreeSet, net::IpAddr};

use anyhow::Result;
use nix::ifaddrs::getifaddrs;

use crate::kernel::{
    settings::{NetnsSettings, read_here, time_wait_here},
    sock_diag::{ListenSocket, listeners_here},
    unix_diag::{UnixListenSocket, unix_listeners_here},
};

/// What a sweep sees of one namespace.
pub(super) struct Sight {
    pub sockets: Result<Vec<ListenSocket>>,
    pub unix_sockets: Result<Vec<UnixListenSocket>>,
    pub settings: NetnsSettings,
    pub time_wait: Option<u32>,
    pub addresses: BTreeSet<IpAddr>,
}

impl Sight {
    /// Looks around.
    pub(super) fn here() -> Self {
        Self {
            sockets: listeners_here(),
            unix_sockets: unix_listeners_here(),
            settings: read_here(),
            time_wait: time_wait_here(),
            addresses: addresses_here(),
        }
    }
}

fn addresses_here() -> BTreeSet<IpAddr> {
    let interfaces = getifaddrs().into_iter().flatten();
    let addresses = interfaces.filter_map(|interface| {
        let storage = interface.address?;
        let v4 = storage.as_sockaddr_in().map(|addr| IpAddr::V4(addr.ip()));
        v4.or_else(|| storage.as_sockaddr_in6().map(|addr| IpAddr::V6(addr.ip())))
    });
    addresses.collect()
}
