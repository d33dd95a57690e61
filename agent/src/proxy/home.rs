//! Where a proxy's own process lives: its loopback is meant by 127.0.0.1 in its log.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use super::{ProxyEvent, ProxyKind, process};
use crate::kernel::{NetnsId, netns::of_process};

/// An answer is taken for right this long.
const PERIOD: Duration = Duration::from_secs(10);

/// The network namespaces of the proxies of this host.
#[derive(Debug, Default)]
pub struct Homes {
    by_kind: BTreeMap<ProxyKind, (Instant, Option<NetnsId>)>,
}

impl Homes {
    /// The namespace of the process that an event is from: of the pid in its log, if that is the
    /// proxy's (in a container a worker's own idea of its pid may be another process here); else of
    /// the only such proxy there is.
    pub fn of(&mut self, event: &ProxyEvent) -> Option<NetnsId> {
        if let Some(pid) = event.pid.filter(|pid| process::is(event.proxy, *pid)) {
            return of_process(pid);
        }
        let known = self.by_kind.get(&event.proxy);
        if let Some((_, netns)) = known.filter(|(asked, _)| asked.elapsed() < PERIOD) {
            return *netns;
        }
        let netns = only(event.proxy);
        self.by_kind.insert(event.proxy, (Instant::now(), netns));
        netns
    }
}

/// The namespace in which all processes of the proxy live.
fn only(proxy: ProxyKind) -> Option<NetnsId> {
    let homes: BTreeSet<NetnsId> = process::all(proxy).filter_map(of_process).collect();
    homes.first().copied().filter(|_| homes.len() == 1)
}
