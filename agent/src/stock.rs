//! The inventory, kept current: by what the kernel tells at once, and by sweeps as a safety net.

use std::{
    collections::BTreeSet,
    mem,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Result;

use crate::{
    inventory::{
        Inventory, Kept, View,
        peers::{PeerReport, Peers},
    },
    kernel::{
        KernelSource, ListenerId, NetnsId,
        netns::{Netns, discover_among},
    },
};

/// How often namespaces and listeners are looked for though nothing was heard of any.
const SWEEP: Duration = Duration::from_secs(5);
/// How often the holders of sockets are looked up anew, and what has gone is forgotten.
const OWNERS: Duration = Duration::from_secs(60);
/// How often connections are counted at most.
const CONNECTIONS: Duration = Duration::from_secs(10);
/// Counting them, and looking at queues between sweeps, may each take one part in so many of the
/// time.
const SHARE: u32 = 100;

/// The inventory with what it takes to keep it current.
#[derive(Debug)]
pub struct Stock {
    /// Who owns what.
    pub inventory: Inventory,
    /// The namespaces found by the last sweep.
    pub namespaces: Vec<Netns>,
    /// The names of those to look into; none, all.
    among: Vec<String>,
    peers: Peers,
    swept: Instant,
    /// Whether anything was heard of listeners since the last sweep.
    heard_of_listeners: bool,
    owners_found: Instant,
    /// When queues are to be looked at next, between sweeps.
    look_due: Instant,
    /// When connections are to be counted next.
    count_due: Instant,
    /// Sockets that began or ceased to listen, as the kernel had counted at the last sweep.
    listen_changes: u64,
    /// The number of this look at the queues.
    look: u64,
    /// The newest look of which somebody has taken the high-water marks, as they tell.
    scraped: Arc<AtomicU64>,
    /// The same, as it was at the last look.
    scraped_before: u64,
}

/// The look that a snapshot shows, and whom to tell when it was scraped.
#[derive(Clone, Debug, Default)]
pub struct Scraped {
    look: u64,
    newest: Arc<AtomicU64>,
}

impl Scraped {
    /// Tells.
    pub fn tell(&self) {
        self.newest.fetch_max(self.look, Ordering::Relaxed);
    }
}

impl Stock {
    /// Takes stock for the first time.
    ///
    /// # Errors
    ///
    /// When the namespaces cannot be visited at all.
    pub fn take(namespaces: Vec<Netns>) -> Result<Self> {
        let mut inventory = Inventory::default();
        inventory.sweep(&namespaces, true)?;
        let now = Instant::now();
        Ok(Self {
            inventory,
            namespaces,
            among: Vec::new(),
            peers: Peers::default(),
            swept: now,
            heard_of_listeners: false,
            owners_found: now,
            look_due: now,
            count_due: now,
            listen_changes: 0,
            look: 0,
            scraped: Arc::default(),
            scraped_before: 0,
        })
    }

    /// Takes stock for the first time, and of no other namespaces than those of `names` ever.
    ///
    /// # Errors
    ///
    /// As for [`take`](Self::take).
    pub fn take_among(names: &[String], namespaces: Vec<Netns>) -> Result<Self> {
        Ok(Self { among: names.to_vec(), ..Self::take(namespaces)? })
    }

    /// Whether a namespace is one of those to look into.
    pub fn watches(&self, netns: NetnsId) -> bool {
        self.among.is_empty() || self.inventory.namespaces().contains_key(&netns)
    }

    /// To be told that the high-water marks of the present look have been taken.
    pub fn scraped(&self) -> Scraped {
        Scraped { look: self.look, newest: Arc::clone(&self.scraped) }
    }

    /// What stands of the high-water marks at the look that begins. A scrape may have taken the
    /// state before the last look while that was under way.
    fn kept(&mut self) -> Kept {
        self.look += 1;
        let scraped = self.scraped.load(Ordering::Relaxed);
        if mem::replace(&mut self.scraped_before, scraped) == scraped {
            return Kept::All;
        }
        match self.look - scraped {
            1 => Kept::Nothing,
            2 => Kept::LastLook,
            _ => Kept::All,
        }
    }

    /// Brings everything up to date; true where the holders of sockets were looked up anew.
    ///
    /// # Errors
    ///
    /// When a map cannot be read or the namespaces cannot be visited.
    pub fn tick(&mut self, kernel: &mut KernelSource) -> Result<bool> {
        let kept = self.kept();
        if let Some(watch) = kernel.watch() {
            let changes = watch.listen_changes()?;
            self.heard_of_listeners |= mem::replace(&mut self.listen_changes, changes) != changes;
        }
        // One pass over the namespaces or one over the processes, never both in one tick.
        let is_anew = self.owners_found.elapsed() >= OWNERS;
        let sweep_due = self.heard_of_listeners || self.swept.elapsed() >= SWEEP;
        if is_anew {
            self.renew_owners(kernel)?;
        }
        if sweep_due && !is_anew {
            self.sweep(kernel)?;
        } else if self.look_due <= Instant::now() {
            let now = Instant::now();
            self.inventory.refresh_queues(&self.namespaces)?;
            self.look_due = now + now.elapsed() * SHARE;
        }
        if let Some(watch) = kernel.watch() {
            self.inventory.heard_of_queues(&watch.queues()?, kept);
            self.inventory.heard_of_unix_refusals(&watch.unix_refused()?);
        }
        Ok(is_anew)
    }

    /// Looks for namespaces and listeners.
    ///
    /// # Errors
    ///
    /// As for [`tick`](Self::tick).
    pub fn sweep(&mut self, kernel: &mut KernelSource) -> Result<()> {
        self.heard_of_listeners = false;
        self.namespaces = discover_among(&self.among)?;
        if let Some(watch) = kernel.watch() {
            self.inventory.heard_of_listens(watch.listen_calls()?);
        }
        self.inventory.sweep(&self.namespaces, false)?;
        if let Some(watch) = kernel.watch() {
            let mut churn = watch.churn()?;
            // A namespace that is not to be seen is the canary's, or has gone.
            churn.retain(|id, _| self.inventory.namespaces().contains_key(&id.netns));
            self.peers.heard(churn, Instant::now());
        }
        let now = Instant::now();
        if now >= self.count_due {
            self.inventory.count_connections(&self.namespaces)?;
            self.count_due = now + (now.elapsed() * SHARE).max(CONNECTIONS);
        }
        self.swept = now;
        Ok(())
    }

    /// Looks up the holders of all sockets, and forgets what has gone.
    fn renew_owners(&mut self, kernel: &mut KernelSource) -> Result<()> {
        self.inventory.renew_owners();
        if let Some(watch) = kernel.watch() {
            let alive = alive(&self.inventory);
            watch.forget(|id| alive.contains(id))?;
        }
        self.owners_found = Instant::now();
        Ok(())
    }

    /// Who connects to whom.
    pub fn peers(&self) -> Vec<PeerReport> {
        self.peers.report()
    }

    /// What there is to show, with at most `most` listeners.
    pub fn view(&self, most: usize) -> View {
        self.inventory.view(most, self.peers())
    }
}

/// The listeners there are, each also as one of its group.
fn alive(inventory: &Inventory) -> BTreeSet<ListenerId> {
    let ids = inventory.listeners().map(|listener| listener.id);
    ids.flat_map(|id| [id, ListenerId { inode: 0, ..id }]).collect()
}
