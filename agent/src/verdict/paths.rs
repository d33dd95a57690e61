//! The ways that were found closed lately. A neighbour takes seconds to be given up for dead: what
//! the first failed attempt could not tell, the next one does.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use crate::{
    kernel::{NetnsId, path::PeerPath},
    time::UnixMs,
};

/// How long a closed way is remembered: longer than an event waits for its verdict.
const MEMORY: Duration = Duration::from_secs(30);
/// Ways remembered.
const MOST: usize = 1000;

/// Closed ways, each with when it was last found so.
#[derive(Debug, Default)]
pub(super) struct ClosedPaths {
    seen: BTreeMap<(NetnsId, IpAddr), (UnixMs, PeerPath)>,
}

impl ClosedPaths {
    /// Takes in the way from `netns` to `addr`, as it was at `now`.
    pub fn add(&mut self, netns: NetnsId, addr: IpAddr, now: UnixMs, path: Option<PeerPath>) {
        let Some(path) = path.filter(PeerPath::is_closed) else { return };
        if self.seen.len() < MOST || self.seen.contains_key(&(netns, addr)) {
            self.seen.insert((netns, addr), (now, path));
        }
    }

    /// The way, if it was found closed at `from` or later.
    pub fn since(&self, netns: NetnsId, addr: IpAddr, from: UnixMs) -> Option<PeerPath> {
        self.seen.get(&(netns, addr)).filter(|(at, _)| *at >= from).map(|(_, path)| *path)
    }

    /// Forgets what is long past.
    pub fn forget(&mut self, now: UnixMs) {
        self.seen.retain(|_, (at, _)| at.later(MEMORY) >= now);
    }
}
