//! Where an upstream's address really leads, where that is not the address itself: translated on the
//! way (a container's published port, a Kubernetes Service), or handed on by a program.

use std::{
    collections::{BTreeSet, HashMap},
    net::SocketAddr,
    time::{Duration, Instant},
};

use log::debug;
use nix::time::{ClockId, clock_gettime};

use super::{Inventory, Listener};
use crate::kernel::{
    NetnsId,
    conntrack::{Translation, translations_here},
    netns::{Netns, visit},
};

/// An answer is taken for right this long.
const PERIOD: Duration = Duration::from_secs(1);
/// Addresses remembered.
const MOST: usize = 1000;
/// Asking may take one part in so many of a processor's time: a conntrack table may be long.
const SHARE: u32 = 20;

/// The routes asked for lately.
#[derive(Debug, Default)]
pub struct Routes {
    known: HashMap<(Option<NetnsId>, SocketAddr), (Instant, Vec<Translation>)>,
    budget: Budget,
}

/// The processor time that asking conntrack took in the running second; on a host as busy as in an
/// incident far more time passes meanwhile.
#[derive(Debug)]
struct Budget {
    since: Instant,
    spent: Duration,
}

impl Default for Budget {
    fn default() -> Self {
        Self { since: Instant::now(), spent: Duration::ZERO }
    }
}

impl Budget {
    /// Whether something is left of it.
    fn is_left(&mut self, now: Instant) -> bool {
        if now.duration_since(self.since) >= PERIOD {
            *self = Self { since: now, spent: Duration::ZERO };
        }
        self.spent < PERIOD / SHARE
    }
}

impl Routes {
    /// Where a connection to `addr` goes, made from the namespace `from` by the port `local`, each
    /// where known; empty where it goes to the address itself, as far as can be told.
    ///
    /// Asks only where no listener takes the address, or a forwarder does: a translated address has
    /// no listener of its own. Namespaces are asked that translate as a rule: the proxy's own, and
    /// the host's.
    pub fn of(
        &mut self,
        addr: SocketAddr,
        from: Option<NetnsId>,
        local: Option<SocketAddr>,
        inventory: &Inventory,
        namespaces: &[Netns],
        host: Option<NetnsId>,
    ) -> Vec<SocketAddr> {
        let takers = inventory.candidates(addr, from);
        let forwarded: BTreeSet<SocketAddr> =
            takers.iter().filter_map(|taker| forwards(taker)).collect();
        if !takers.is_empty() && forwarded.is_empty() {
            return Vec::new();
        }
        let asked: Vec<Netns> = namespaces
            .iter()
            .filter(|netns| Some(netns.id) == from || Some(netns.id) == host)
            .cloned()
            .collect();
        let translations = self.translations(addr, from, &asked);
        let own = translations.iter().filter(|translation| {
            local.is_none_or(|local| local.port() == translation.client.port())
        });
        let translated: BTreeSet<SocketAddr> = own.map(|translation| translation.to).collect();
        if translated.is_empty() { forwarded } else { translated }.into_iter().collect()
    }

    fn translations(
        &mut self,
        addr: SocketAddr,
        from: Option<NetnsId>,
        asked: &[Netns],
    ) -> Vec<Translation> {
        let now = Instant::now();
        let is_left = self.budget.is_left(now);
        match self.known.get(&(from, addr)) {
            Some((at, translations)) if now.duration_since(*at) < PERIOD || !is_left => {
                return translations.clone();
            }
            None if !is_left => return Vec::new(),
            _ => {}
        }
        let answers = visit(asked, |_| {
            let before = processor_time();
            let answer = translations_here(addr);
            (answer, processor_time().saturating_sub(before))
        });
        let mut found = Vec::new();
        for (answer, took) in answers.unwrap_or_default() {
            self.budget.spent += took;
            match answer {
                Ok(translations) => found.extend(translations),
                Err(error) => debug!("cannot check whether {addr} is translated: {error:#}"),
            }
        }
        if self.known.len() >= MOST {
            self.known.clear();
        }
        self.known.insert((from, addr), (now, found.clone()));
        found
    }
}

/// What this thread has had of a processor.
fn processor_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

/// Where a listener's process forwards to.
fn forwards(listener: &Listener) -> Option<SocketAddr> {
    listener.owners.iter().find_map(|owner| owner.forwards_to)
}
