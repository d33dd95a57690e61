//! Ten minutes of a busy host, made up second by second in the shape that the agent sees them: what
//! is given to the recorder is of the same types and sizes, and changes from second to second.

use std::{
    collections::BTreeMap,
    fs,
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use floodmark::{
    clock::ClockSteps,
    inventory::{
        Depth, Inventory, InventoryChanges, Listener, Namespace, Owner,
        peers::{PeerCounts, PeerReport},
    },
    kernel::{
        Attribution, Class, Counter, KernelEvent, KernelSample, ListenerDelta, ListenerId,
        MibCounts, NetnsId, QueueDepth, ServiceCount, Tally, flow::Slot,
    },
    proxy::{Carrier, EventKind, Failure, Phase, ProxyEvent, ProxyKind, Upstream},
    record::{FileSink, Header, Moment, Reader, Recorder, replay},
    time::{UnixMs, Window},
    verdict::{Heard, Inputs, Judge, SLOT_MS, Totals},
};
use nix::time::{ClockId, clock_gettime};

/// What is measured is for this long.
const SECONDS: u64 = 600;
/// Listeners of the host, in as many namespaces by tens.
const LISTENERS: u32 = 100;
/// Listeners that take the connections.
const BUSY: u32 = 8;
/// Peers that the agent keeps apart.
const PEERS: u32 = 50;
const BEGIN: u64 = 1_795_204_000_000;

/// How much of it goes wrong.
struct Load {
    name: &'static str,
    /// Handshakes lost in a second, each with its event.
    lost: u64,
    /// What the proxies say in a second.
    told: u64,
}

/// The page's table.
pub fn table(rate: u64) -> Result<String> {
    let loads = [
        Load { name: "nothing lost", lost: 0, told: 0 },
        Load { name: "one in twenty lost", lost: rate / 20, told: 50 },
        Load { name: "every one lost", lost: rate, told: 200 },
    ];
    let mut page = format!(
        "{SECONDS} s at {rate} connections/s to {BUSY} of {LISTENERS} listeners. Each loss has an \
         event from a different client. Proxy events have their log lines.\n\n| of the \
         connections | file | of a core | longest tick | replay | verdicts |\n| --- | ---: | ---: \
         | ---: | ---: | ---: |\n"
    );
    for load in &loads {
        let Measured { bytes, share, longest, replayed, verdicts } = measure(rate, load)?;
        page += &format!(
            "| {} | {:.2} MB | {:.2} % | {:.1} ms | {:.1} s | {verdicts} |\n",
            load.name,
            bytes as f64 / 1e6,
            100.0 * share,
            longest.as_secs_f64() * 1e3,
            replayed.as_secs_f64(),
        );
    }
    Ok(page)
}

struct Measured {
    bytes: u64,
    /// Processor time for a second's tick.
    share: f64,
    longest: Duration,
    replayed: Duration,
    /// All of them the same in the replay.
    verdicts: u64,
}

fn measure(rate: u64, load: &Load) -> Result<Measured> {
    let path = std::env::temp_dir().join(format!("fmbench-{}.fmr", std::process::id()));
    let _ = fs::remove_file(&path);
    let sink = FileSink::create(&path, &Header::here(UnixMs(BEGIN), false), None)?;
    let mut recorder = Recorder::new(Box::new(sink), None);
    let mut judge = Judge::new(UnixMs(BEGIN));
    let (mut spent, mut longest, mut verdicts) = (Duration::ZERO, Duration::ZERO, 0);
    let mut host = Host::new(rate);
    for second in 1..=SECONDS {
        host.go_on(second, load);
        let inputs = Inputs {
            now: UnixMs(BEGIN + 1000 * second),
            sample: &host.sample,
            events: &host.events,
            heard: &host.heard,
            hears_proxies: true,
            forgets: second.is_multiple_of(60),
            is_last: second == SECONDS,
            standings: &[],
            totals: &host.totals,
            arrivals: &host.arrivals,
            links: &[],
            stalls: &[],
            clock: &ClockSteps::default(),
        };
        let outcome = judge.tick(&inputs, &host.inventory);
        verdicts += outcome.verdicts.len() as u64;
        let moment = Moment {
            inputs: &inputs,
            inventory: &host.inventory,
            peers: host.peers.clone(),
            troubles: BTreeMap::new(),
            verdicts: &outcome.verdicts,
        };
        let (began, before) = (Instant::now(), own_time()?);
        recorder.tick(moment)?;
        spent += own_time()? - before;
        longest = longest.max(began.elapsed());
    }
    let bytes = fs::metadata(&path)?.len();
    let before = Instant::now();
    let replay = replay(Reader::open(fs::File::open(&path)?)?, |_, _| {})?;
    anyhow::ensure!(replay.comparison.is_same(), "the replay comes to other verdicts");
    anyhow::ensure!(replay.comparison.same == verdicts, "verdicts are missing in the replay");
    let replayed = before.elapsed();
    fs::remove_file(&path)?;
    let share = spent.as_secs_f64() / SECONDS as f64;
    Ok(Measured { bytes, share, longest, replayed, verdicts })
}

/// Processor time of this thread.
fn own_time() -> Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).context("reading the clock")?.into())
}

/// A host as it is in one second.
struct Host {
    rate: u64,
    /// For whatever is like chance.
    random: u64,
    inventory: Inventory,
    listeners: Vec<Listener>,
    sample: KernelSample,
    events: Vec<KernelEvent>,
    heard: Vec<Heard>,
    totals: Totals,
    peers: Vec<PeerReport>,
    arrivals: Vec<(ListenerId, Vec<Slot>)>,
}

fn netns(number: u32) -> NetnsId {
    NetnsId::new(4_026_532_000 + number / 10, 0)
}

impl Host {
    fn new(rate: u64) -> Self {
        let listeners: Vec<Listener> = (0..LISTENERS).map(listener).collect();
        let mut changes = InventoryChanges::default();
        for number in 0..LISTENERS / 10 {
            let namespace = Namespace { name: format!("app{number}"), ..Namespace::default() };
            changes.namespaces.set.insert(netns(10 * number), namespace);
            let own = Ipv4Addr::from(0x0a00_0000 + 10 * number).into();
            changes.addresses.set.insert(netns(10 * number), [own].into());
        }
        let mut inventory = Inventory::default();
        inventory.apply(changes);
        Self {
            rate,
            random: 0x9e37_79b9_7f4a_7c15,
            inventory,
            listeners,
            sample: KernelSample::default(),
            events: Vec::new(),
            heard: Vec::new(),
            totals: Totals::default(),
            peers: Vec::new(),
            arrivals: Vec::new(),
        }
    }

    /// A number below `below` (xorshift, G. Marsaglia 2003).
    fn chance(&mut self, below: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % below
    }

    fn go_on(&mut self, second: u64, load: &Load) {
        self.connect(load);
        self.arrive(second);
        self.lose(second, load.lost);
        self.hear(second, load.told);
        self.count(second, load);
    }

    /// Each busy listener takes its share; how long each connection waits varies.
    fn connect(&mut self, load: &Load) {
        let mut changes = InventoryChanges::default();
        for number in 0..BUSY as usize {
            let share = self.rate / u64::from(BUSY);
            let high = if load.lost > 0 { 129 } else { 20 + self.chance(60) as u32 };
            let parts = [self.chance(100), self.chance(100), self.chance(100), self.chance(100)];
            let len = self.chance(u64::from(high)) as u32;
            let listener = &mut self.listeners[number];
            listener.queue.len = len;
            listener.drops += (load.lost / u64::from(BUSY)) as u32;
            let depth = listener.depth.get_or_insert_default();
            for (bucket, part) in parts.into_iter().enumerate() {
                depth.waits[6 + bucket] += share * part / 200;
            }
            depth.waited_ns += share * 40_000 + parts[0];
            depth.high = depth.high.max(high);
            depth.high_at_last_look = high;
            depth.high_since_scrape = high;
        }
        changes.listeners.set = self.listeners.iter().map(|it| (it.id, it.clone())).collect();
        self.inventory.apply(changes);
    }

    /// Arrivals come told slot by slot.
    fn arrive(&mut self, second: u64) {
        self.arrivals.clear();
        let slots = 1000 / SLOT_MS;
        let each = self.rate / u64::from(BUSY) / slots;
        for number in 0..BUSY as usize {
            let mut told = Vec::new();
            for slot in 0..slots {
                let at = UnixMs(BEGIN + 1000 * (second - 1) + slot * SLOT_MS);
                let enqueued = (each / 2 + self.chance(each + 1)) as u32;
                told.push(Slot { at, enqueued, depth: self.chance(129) as u32 });
            }
            self.arrivals.push((self.listeners[number].id, told));
        }
    }

    fn lose(&mut self, second: u64, lost: u64) {
        let to = UnixMs(BEGIN + 1000 * second);
        let window = Window { from: UnixMs(to.0 - 1000), to };
        let each = lost / u64::from(BUSY);
        let busy = self.listeners[..BUSY as usize].to_vec();
        let delta = |listener: &Listener| ListenerDelta {
            listener: listener.id,
            tally: Tally::of(&[
                (Class::SynAcceptQueueFull, each - each / 4),
                (Class::AckAcceptQueueFull, each / 4),
            ]),
            attribution: Attribution::Exact,
            queue: Some(QueueDepth { len: 129, limit: 128 }),
        };
        let listeners = if lost > 0 { busy.iter().map(delta).collect() } else { Vec::new() };
        self.sample = KernelSample { window, listeners, events_lost: 0 };
        self.events.clear();
        for number in 0..lost {
            let client = 0xc0a8_0000 + self.chance(1 << 16) as u32;
            let port = 32_768 + self.chance(28_000) as u16;
            let class = match number % 4 {
                3 => Class::AckAcceptQueueFull,
                _ => Class::SynAcceptQueueFull,
            };
            self.events.push(KernelEvent {
                at: UnixMs(window.from.0 + number * 1000 / lost),
                listener: busy[(number % u64::from(BUSY)) as usize].id,
                peer: SocketAddr::new(Ipv4Addr::from(client).into(), port),
                class,
                queue: Some(QueueDepth { len: 129, limit: 128 }),
            });
        }
    }

    fn hear(&mut self, second: u64, told: u64) {
        self.heard.clear();
        for number in 0..told {
            let at = UnixMs(BEGIN + 1000 * second - 1);
            let upstream = self.listeners[(number % u64::from(BUSY)) as usize].id.addr;
            let kind = match number % 10 {
                0 => EventKind::PeerMarked { phase: Phase::Connect, failure: None },
                _ => EventKind::AttemptFailed { phase: Phase::Connect, failure: Failure::TIMEOUT },
            };
            let carrier = Carrier::plain("/var/log/nginx/error.log", at);
            let serial = second * 1000 + number;
            let event = ProxyEvent {
                connection: Some(serial),
                ..ProxyEvent::new(
                    ProxyKind::Nginx,
                    &carrier,
                    (at, 1000),
                    kind,
                    Upstream::Inet(upstream),
                )
            };
            let client = Ipv4Addr::from(0xc0a8_0000 + self.chance(1 << 16) as u32);
            let line = format!(
                "2026/11/21 17:00:00 [error] 812#812: *{serial} upstream timed out (110: Connection \
                 timed out) while connecting to upstream, client: {client}, server: \
                 www.example.org, request: \"GET /articles/{serial}?page={number} HTTP/1.1\", \
                 upstream: \"http://{upstream}/articles/{serial}\", host: \"www.example.org\""
            );
            self.heard.push(Heard { event, netns: None, at, line: Some(line) });
        }
    }

    fn count(&mut self, second: u64, load: &Load) {
        for number in 0..LISTENERS / 10 {
            let is_busy = number == 0;
            let mut counts = MibCounts::default();
            if is_busy {
                counts[Counter::ListenOverflows] = load.lost * second;
                counts[Counter::ListenDrops] = load.lost * second;
                counts[Counter::TimeWait] = (self.rate - load.lost) * second;
                counts[Counter::PassiveOpens] = (self.rate - load.lost) * second;
            }
            let name = format!("app{number}");
            self.totals.kernel.insert(netns(10 * number), (name, counts));
        }
        self.totals.services = (0..BUSY)
            .map(|number| ServiceCount {
                netns: netns(number),
                port: 8000 + number as u16,
                is_local: true,
                counts: [("time_wait".to_owned(), self.rate * second / u64::from(BUSY))].into(),
            })
            .collect();
        // Known anew at each sweep.
        if second % 5 == 1 {
            let rate = self.rate;
            self.peers = (0..PEERS).map(|number| self.peer(number, rate * second)).collect();
        }
    }

    fn peer(&mut self, number: u32, connections: u64) -> PeerReport {
        let opened = connections / u64::from(PEERS) + self.chance(1000);
        PeerReport {
            netns: netns(number % BUSY),
            port: 8000 + (number % BUSY) as u16,
            is_local: true,
            peer: Ipv4Addr::from(0xc0a8_0000 + number).to_string(),
            counts: PeerCounts { opened, closed_here: opened, closed_there: 0, aborted: 0 },
            opened_per_second: opened as f64 / 15.0,
            median_lifetime: Some(0.04),
            closed_here_share: Some(1.0),
        }
    }
}

fn listener(number: u32) -> Listener {
    let addr = Ipv4Addr::from(0x0a00_0000 + number / 10 * 10);
    let id = ListenerId {
        netns: netns(number),
        addr: SocketAddr::new(addr.into(), 8000 + number as u16),
        inode: 70_000 + number,
    };
    let cgroup = format!("/system.slice/app{number}.service");
    let queue = QueueDepth { len: 0, limit: 128 };
    Listener {
        somaxconn: Some(4096),
        depth: Some(Depth::default()),
        owners: vec![Owner::new(1000 + number, "gunicorn", Some(cgroup))].into(),
        ..Listener::unknown(id, queue, Some(format!("app{}", number / 10)))
    }
}
