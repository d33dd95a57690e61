//! A look into network namespaces, which takes time in proportion to their sockets: it is work for
//! another thread than the tick's.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::{Duration, Instant},
};

use anyhow::Result;
use nix::ifaddrs::getifaddrs;

use super::{
    LeftOut, Limits,
    limits::{Chosen, leave, leave_namespaces},
};
use crate::kernel::{
    NetnsId,
    connections::{Connections, count_here},
    netns::{Netns, discover_among, visit},
    settings::{NetnsSettings, read_here, time_wait_here},
    sock_diag::{Family, ListenSocket, each_listener},
    unix_diag::{UnixListenSocket, each_unix_listener, unix_listeners_here},
};

/// Addresses of one namespace that are remembered; whoever owns it can give it any number.
const MOST_ADDRESSES: usize = 4096;

/// What a sweep sees of one namespace.
#[derive(Debug)]
pub(super) struct Sight {
    pub sockets: Result<Chosen<ListenSocket>>,
    pub unix_sockets: Result<Chosen<UnixListenSocket>>,
    pub settings: NetnsSettings,
    pub time_wait: Option<u32>,
    pub addresses: BTreeSet<IpAddr>,
}

impl Sight {
    /// Looks around, and keeps at most so many sockets of either kind.
    fn here(most: usize) -> Self {
        let mut sockets = Chosen::at_most(most);
        let listed = each_listener(&Family::BOTH, |socket| sockets.add(socket));
        let mut unix_sockets = Chosen::at_most(most);
        let unix_listed = each_unix_listener(|socket| unix_sockets.add(socket));
        Self {
            sockets: listed.map(|()| sockets),
            unix_sockets: unix_listed.map(|()| unix_sockets),
            settings: read_here(),
            time_wait: time_wait_here(),
            addresses: addresses_here(),
        }
    }
}

/// What a sweep sees.
#[derive(Debug)]
pub struct Sweep {
    pub(super) sights: Vec<(Netns, Sight)>,
    /// What there is beyond the limits.
    pub(super) left_out: LeftOut,
    /// How long it took.
    pub took: Duration,
}

impl Sweep {
    /// Looks into those namespaces of `names`, or all where none is named, that the limits leave;
    /// those first that are `known`.
    ///
    /// # Errors
    ///
    /// When the namespaces cannot be visited at all.
    pub fn of_host(names: &[String], limits: Limits, known: &BTreeSet<NetnsId>) -> Result<Self> {
        let begun = Instant::now();
        let mut namespaces = discover_among(names)?;
        let is_known = |netns: &Netns| known.contains(&netns.id);
        let left_out = leave_namespaces(&mut namespaces, limits.namespaces, is_known);
        let mut sweep = Self::of(&namespaces, limits)?;
        sweep.left_out.namespaces = left_out;
        sweep.took = begun.elapsed();
        Ok(sweep)
    }

    /// Looks into every one of `namespaces`. One that goes away meanwhile is left out.
    ///
    /// # Errors
    ///
    /// When the namespaces cannot be visited at all.
    pub fn of(namespaces: &[Netns], limits: Limits) -> Result<Self> {
        let begun = Instant::now();
        let most = limits.listeners;
        let mut sights = visit(namespaces, |netns| (netns.clone(), Sight::here(most)))?;
        let (mut tcp, mut unix) = (Vec::new(), Vec::new());
        for (_, sight) in &mut sights {
            tcp.extend(sight.sockets.as_mut().ok());
            unix.extend(sight.unix_sockets.as_mut().ok());
        }
        let left_out = LeftOut {
            listeners: leave(&mut tcp, most),
            unix_listeners: leave(&mut unix, most),
            namespaces: 0,
        };
        Ok(Self { sights, left_out, took: begun.elapsed() })
    }

    /// The namespaces that were looked into.
    pub fn namespaces(&self) -> Vec<Netns> {
        self.sights.iter().map(|(netns, _)| netns.clone()).collect()
    }
}

/// What of a namespace has to be looked at between sweeps: what it was known to have listeners of.
#[derive(Clone, Debug, Default)]
pub(super) struct Known {
    pub families: BTreeSet<Family>,
    pub unix: bool,
}

/// The queues of the listeners known, of those namespaces that have any.
#[derive(Debug)]
pub struct Queues {
    pub(super) looks: Vec<(NetnsId, Vec<ListenSocket>, Vec<UnixListenSocket>)>,
}

/// Which queues to look at, as [`Inventory::queues_to_look_at`](super::Inventory) tells.
#[derive(Clone, Debug)]
pub struct QueuesWanted {
    pub(super) known: BTreeMap<NetnsId, Known>,
    pub(super) tcp: BTreeSet<(NetnsId, u32)>,
}

impl Queues {
    /// Looks at the queues of those that are `wanted`.
    ///
    /// # Errors
    ///
    /// When the namespaces cannot be visited at all.
    pub fn of(namespaces: &[Netns], wanted: &QueuesWanted) -> Result<Self> {
        let QueuesWanted { known, tcp } = wanted;
        let there: Vec<Netns> =
            namespaces.iter().filter(|netns| known.contains_key(&netns.id)).cloned().collect();
        // That a namespace does not list its listeners has been said by the sweep.
        let looks = visit(&there, |netns| {
            let Known { families, unix } = &known[&netns.id];
            let families: Vec<Family> = families.iter().copied().collect();
            let unix = if *unix { unix_listeners_here().unwrap_or_default() } else { Vec::new() };
            let mut sockets = Vec::new();
            let _ = each_listener(&families, |socket| {
                if tcp.contains(&(netns.id, socket.inode)) {
                    sockets.push(socket);
                }
            });
            (netns.id, sockets, unix)
        })?;
        Ok(Self { looks })
    }
}

/// The connections of namespaces, counted. The time this takes grows with their number.
#[derive(Debug)]
pub struct Counted {
    pub(super) counts: Vec<(NetnsId, Connections)>,
}

impl Counted {
    /// Counts them.
    ///
    /// # Errors
    ///
    /// When the namespaces cannot be visited at all.
    pub fn of(namespaces: &[Netns]) -> Result<Self> {
        let counts = visit(namespaces, |netns| {
            // That a namespace does not list its sockets has been said by the sweep.
            (netns.id, count_here(read_here().port_range).unwrap_or_default())
        })?;
        Ok(Self { counts })
    }
}

fn addresses_here() -> BTreeSet<IpAddr> {
    let interfaces = getifaddrs().into_iter().flatten();
    let addresses = interfaces.filter_map(|interface| {
        let storage = interface.address?;
        let v4 = storage.as_sockaddr_in().map(|addr| IpAddr::V4(addr.ip()));
        v4.or_else(|| storage.as_sockaddr_in6().map(|addr| IpAddr::V6(addr.ip())))
    });
    addresses.take(MOST_ADDRESSES).collect()
}
