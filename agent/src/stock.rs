//! The inventory, kept current: by what the kernel tells at once, and by sweeps as a safety net.
//!
//! Looking into namespaces and up the owners of sockets is done by two threads of their own. A tick
//! asks them and takes in what they have found; it waits a moment for the first, and never for the
//! second, which reads what belongs to other processes.

mod worker;

use std::{
    collections::{BTreeSet, HashSet},
    mem,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Result;
use worker::Worker;

use crate::{
    inventory::{
        Counted, Found, Inventory, Kept, Limits, Lookups, OwnerSearch, Queues, QueuesWanted, Sweep,
        View,
        peers::{PeerReport, Peers},
    },
    kernel::{KernelSource, ListenerId, NetnsId, netns::Netns},
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
/// Sweeps, and searches for owners, may each take one part in so many of the time.
const SWEEP_SHARE: u32 = 10;
/// How long a tick waits for a look into the namespaces: most hosts have it done by then.
const PATIENCE: Duration = Duration::from_millis(50);

/// What the scanning thread is asked for.
#[derive(Debug)]
enum Look {
    /// Namespaces and listeners; the connections as well, where that is due.
    Sweep { names: Vec<String>, limits: Limits, known: BTreeSet<NetnsId>, counts: bool },
    /// The queues of the listeners known.
    Queues(Vec<Netns>, QueuesWanted),
}

/// What it saw, and how long it took.
#[derive(Debug)]
enum Seen {
    Sweep(Result<Sweep>),
    Connections(Result<Counted>, Duration),
    Queues(Result<Queues>, Duration),
}

impl Look {
    fn now(self, tell: &mut dyn FnMut(Seen)) {
        let begun = Instant::now();
        match self {
            Self::Sweep { names, limits, known, counts } => {
                let sweep = Sweep::of_host(&names, limits, &known);
                let namespaces = sweep.as_ref().map(Sweep::namespaces).unwrap_or_default();
                tell(Seen::Sweep(sweep));
                if counts {
                    let begun = Instant::now();
                    tell(Seen::Connections(Counted::of(&namespaces), begun.elapsed()));
                }
            }
            Self::Queues(namespaces, wanted) => {
                tell(Seen::Queues(Queues::of(&namespaces, &wanted), begun.elapsed()));
            }
        }
    }
}

/// What the searching thread is asked for: the holders of these sockets.
#[derive(Debug)]
struct Search {
    inodes: Arc<HashSet<u32>>,
    anew: bool,
}

/// What it found.
#[derive(Debug)]
enum Owned {
    Found(Found),
    /// That was all: what became of the look-ups, and how long it took to go through the processes.
    End(Lookups, Duration),
}

/// The inventory with what it takes to keep it current.
#[derive(Debug)]
pub struct Stock {
    /// Who owns what.
    pub inventory: Inventory,
    /// The namespaces found by the last sweep.
    pub namespaces: Vec<Netns>,
    /// The names of those to look into; none, all.
    among: Vec<String>,
    limits: Limits,
    peers: Peers,
    scanner: Worker<Look, Seen>,
    searcher: Worker<Search, Owned>,
    /// The sockets whose holders are being looked for.
    searched_for: Arc<HashSet<u32>>,
    /// Whether all holders are to be looked up anew.
    search_anew: bool,
    lookups: Lookups,
    /// When to sweep next, and not before which time.
    sweep_due: Instant,
    sweep_not_before: Instant,
    search_not_before: Instant,
    /// Whether anything was heard of listeners since the last sweep.
    heard_of_listeners: bool,
    forgot: Instant,
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
    /// Reports that this look was scraped, so that the marks since the last scrape start again.
    pub fn tell(&self) {
        self.newest.fetch_max(self.look, Ordering::Relaxed);
    }
}

impl Stock {
    /// Takes stock for the first time: of all namespaces, or of none but those of `names` ever. The
    /// owners of what listens follow.
    ///
    /// # Errors
    ///
    /// When the namespaces cannot be visited at all, or no thread can be started.
    pub fn take(names: &[String], limits: Limits) -> Result<Self> {
        let mut search = OwnerSearch::default();
        let searcher =
            Worker::start("owners", move |asked: Search, tell: &mut dyn FnMut(Owned)| {
                let begun = Instant::now();
                let mut pass = None;
                let lookups = search.search(&asked.inodes, asked.anew, |found| {
                    pass.get_or_insert_with(|| begun.elapsed());
                    tell(Owned::Found(found));
                });
                tell(Owned::End(lookups, pass.unwrap_or_default()));
            })?;
        let now = Instant::now();
        let mut stock = Self {
            inventory: Inventory::default(),
            namespaces: Vec::new(),
            among: names.to_vec(),
            limits,
            peers: Peers::default(),
            scanner: Worker::start("inventory", |look: Look, tell: &mut dyn FnMut(Seen)| {
                look.now(tell);
            })?,
            searcher,
            searched_for: Arc::default(),
            search_anew: false,
            lookups: Lookups::default(),
            sweep_due: now,
            sweep_not_before: now,
            search_not_before: now,
            heard_of_listeners: false,
            forgot: now,
            look_due: now,
            count_due: now,
            listen_changes: 0,
            look: 0,
            scraped: Arc::default(),
            scraped_before: 0,
        };
        stock.take_in_sweep(Sweep::of_host(names, limits, &BTreeSet::new())?);
        stock.search()?;
        Ok(stock)
    }

    /// Waits until the owners are known, and connections counted, at most so long.
    ///
    /// # Errors
    ///
    /// When the namespaces cannot be visited.
    pub fn settle(&mut self, patience: Duration) -> Result<()> {
        let until = Instant::now() + patience;
        self.inventory.enter_connections(Counted::of(&self.namespaces)?);
        while self.searcher.is_busy() && Instant::now() < until {
            if let Some(owned) = self.searcher.next(until.saturating_duration_since(Instant::now()))
            {
                self.take_in_owned(owned);
            }
        }
        Ok(())
    }

    /// Whether a namespace is one of those to look into.
    pub fn watches(&self, netns: NetnsId) -> bool {
        self.among.is_empty() || self.inventory.namespaces().contains_key(&netns)
    }

    /// What became of looking up the owners of sockets.
    pub fn lookups(&self) -> Lookups {
        self.lookups
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

    /// Brings everything up to date, as far as that is done by now; true where what has gone is to be
    /// forgotten.
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
        let now = Instant::now();
        let forgets = now.duration_since(self.forgot) >= OWNERS;
        if forgets {
            self.forgot = now;
            self.search_anew = true;
            self.forget(kernel)?;
        }
        self.take_in(kernel, Duration::ZERO)?;
        if self.heard_of_listeners || self.sweep_due <= now {
            self.sweep(kernel)?;
        } else if self.look_due <= now && !self.scanner.is_busy() {
            let wanted = self.inventory.queues_to_look_at();
            self.scanner.ask(Look::Queues(self.namespaces.clone(), wanted))?;
            self.take_in(kernel, PATIENCE)?;
        }
        self.take_in_owners()?;
        if let Some(watch) = kernel.watch() {
            self.inventory.heard_of_queues(&watch.queues()?, kept);
            self.inventory.heard_of_unix_refusals(&watch.unix_refused()?);
        }
        Ok(forgets)
    }

    /// Looks for namespaces and listeners, unless that took so long the last time that it is too
    /// early. Does not wait long: what comes later is taken in by a later tick.
    ///
    /// # Errors
    ///
    /// As for [`tick`](Self::tick).
    pub fn sweep(&mut self, kernel: &mut KernelSource) -> Result<()> {
        let now = Instant::now();
        if now < self.sweep_not_before || self.scanner.is_busy() {
            return Ok(());
        }
        self.heard_of_listeners = false;
        self.sweep_due = now + SWEEP;
        self.scanner.ask(Look::Sweep {
            names: self.among.clone(),
            limits: self.limits,
            known: self.inventory.namespaces().keys().copied().collect(),
            counts: now >= self.count_due,
        })?;
        self.take_in(kernel, PATIENCE)
    }

    /// Takes in what the scanner has seen, waiting at most so long for the next of it.
    fn take_in(&mut self, kernel: &mut KernelSource, patience: Duration) -> Result<()> {
        while let Some(seen) = self.scanner.next(patience) {
            match seen {
                Seen::Sweep(sweep) => {
                    if let Some(watch) = kernel.watch() {
                        self.inventory.heard_of_listens(watch.listen_calls()?);
                    }
                    self.take_in_sweep(sweep?);
                    self.hear_of_churn(kernel)?;
                    self.search()?;
                    // The connections may come later.
                    return Ok(());
                }
                Seen::Connections(counted, took) => {
                    self.inventory.enter_connections(counted?);
                    self.count_due = Instant::now() + (took * SHARE).max(CONNECTIONS);
                }
                Seen::Queues(queues, took) => {
                    self.inventory.enter_queues(queues?);
                    self.look_due = Instant::now() + took * SHARE;
                }
            }
        }
        Ok(())
    }

    fn take_in_sweep(&mut self, sweep: Sweep) {
        self.sweep_not_before = Instant::now() + pause_after(sweep.took);
        self.namespaces = sweep.namespaces();
        self.inventory.enter(sweep);
    }

    fn hear_of_churn(&mut self, kernel: &mut KernelSource) -> Result<()> {
        if let Some(watch) = kernel.watch() {
            let mut churn = watch.churn()?;
            // A namespace that is not to be seen is the canary's, or has gone.
            churn.retain(|id, _| self.inventory.namespaces().contains_key(&id.netns));
            self.peers.heard(churn, Instant::now());
        }
        Ok(())
    }

    /// Takes in the owners found by now, and has others looked for.
    fn take_in_owners(&mut self) -> Result<()> {
        while let Some(owned) = self.searcher.next(Duration::ZERO) {
            self.take_in_owned(owned);
        }
        self.search()
    }

    fn take_in_owned(&mut self, owned: Owned) {
        match owned {
            Owned::Found(found) => self.inventory.enter_owners(&self.searched_for, &found),
            Owned::End(lookups, pass) => {
                self.lookups += lookups;
                self.search_not_before = Instant::now() + pause_after(pass);
            }
        }
    }

    /// Has the holders of new sockets looked for, or of all where that is due.
    fn search(&mut self) -> Result<()> {
        if self.searcher.is_busy() || Instant::now() < self.search_not_before {
            return Ok(());
        }
        let anew = mem::take(&mut self.search_anew);
        let inodes = self.inventory.ownerless(anew);
        if !inodes.is_empty() {
            self.searched_for = Arc::new(inodes);
            self.searcher.ask(Search { inodes: Arc::clone(&self.searched_for), anew })?;
        }
        Ok(())
    }

    /// Forgets what the programs keep of listeners that have gone.
    fn forget(&self, kernel: &mut KernelSource) -> Result<()> {
        let alive = alive(&self.inventory);
        kernel.forget_queues(|id| alive.contains(id))
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

/// How long to leave the host alone after something took so long.
fn pause_after(took: Duration) -> Duration {
    if took > PATIENCE { took * SWEEP_SHARE } else { Duration::ZERO }
}

/// The listeners there are, each also as one of its group.
fn alive(inventory: &Inventory) -> BTreeSet<ListenerId> {
    let ids = inventory.listeners().map(|listener| listener.id);
    ids.flat_map(|id| [id, ListenerId { inode: 0, ..id }]).collect()
}
