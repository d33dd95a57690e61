//! nginx's markings from its own memory, by uprobes: also where the log's level hides them, at the
//! microsecond, and with the local port of the connection that failed.
//!
//! `binary.rs` finds running nginx programs and says whether they are understood, `record.rs` turns
//! what the programs send into events, and compares it with what it must look like. What does not is
//! let go of, and that is said.

pub(crate) mod binary;
mod record;

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    path::Path,
    sync::{Arc, atomic::Ordering, mpsc::channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, MapData, RingBuf},
    programs::{
        UProbe,
        uprobe::{UProbeAttachLocation, UProbeAttachPoint, UProbeLinkId, UProbeScope},
    },
    util::KernelVersion,
};
use log::{info, warn};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{ProxyEvent, ProxyKind, SourceStats, process};
use crate::{clock::AgentClock, essential, kernel::constants};
use binary::{Binary, Identity};
pub use binary::{offsets, version};
use record::Untrustworthy;

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/floodmark-nginx"));

/// Name of the source in metrics and events.
pub const SOURCE: &str = "nginx uprobes";
/// How often records are looked for.
const PAUSE: Duration = Duration::from_millis(100);
/// How long to wait for the first of them.
const FIRST_SWEEP: Duration = Duration::from_secs(1);
/// How often running programs are looked for.
const SWEEP: Duration = Duration::from_secs(5);
/// The program for a peer that is let go of, and the functions it goes to: the first that is there.
const FREE: &[(&str, &[&str])] = &[
    (
        "nginx_free_peer",
        &[
            "ngx_http_upstream_free_round_robin_peer_locked",
            "ngx_http_upstream_free_round_robin_peer",
        ],
    ),
    ("nginx_free_peer", &["ngx_stream_upstream_free_round_robin_peer"]),
];
/// Programs at the way into and out of a connect.
const CONNECT: &[(&str, &[&str])] = &[
    ("nginx_connect_peer", &["ngx_event_connect_peer"]),
    ("nginx_connect_peer_returns", &["ngx_event_connect_peer"]),
];

/// The programs in every nginx of this host.
pub struct Uprobes {
    ebpf: Ebpf,
    records: RingBuf<MapData>,
    lost: Array<MapData, u64>,
    /// What is attached, by binary; empty for one that was refused or let go of.
    attached: BTreeMap<Identity, Vec<(&'static str, UProbeLinkId)>>,
    stats: Arc<SourceStats>,
}

impl Uprobes {
    /// Loads the programs; [`Uprobes::sweep`] attaches them.
    ///
    /// # Errors
    ///
    /// When the kernel does not take them: BPF is not allowed, its BTF lacks what they read, or it is a
    /// release candidate, whose version aya cannot read and which it therefore gives no cookies.
    pub fn load() -> Result<Self> {
        KernelVersion::current()
            .map_err(|error| anyhow!("{error}: uprobes need it for their cookie"))?;
        let constants = constants().context("reading the kernel's BTF")?;
        let mut loader = EbpfLoader::new();
        for (name, value) in &constants {
            loader.override_global(name, value, false);
        }
        let mut ebpf = loader.load(OBJECT).context("loading the programs for nginx")?;
        let mut programs: BTreeSet<&str> = BTreeSet::new();
        programs.extend(FREE.iter().chain(CONNECT).map(|(program, _)| *program));
        for name in programs {
            program(&mut ebpf, name)?.load().with_context(|| format!("loading {name}"))?;
        }
        let mut take =
            |name: &str| ebpf.take_map(name).ok_or_else(|| anyhow!("the object has no map {name}"));
        let records = RingBuf::try_from(take("NGINX_EVENTS")?)?;
        let lost = Array::try_from(take("NGINX_LOST")?)?;
        let (attached, stats) = (BTreeMap::new(), Arc::default());
        Ok(Self { ebpf, records, lost, attached, stats })
    }

    /// The counters, as of any other source.
    pub fn stats(&self) -> Arc<SourceStats> {
        Arc::clone(&self.stats)
    }

    /// Binaries with programs in them.
    pub fn attached(&self) -> usize {
        self.attached.values().filter(|links| !links.is_empty()).count()
    }

    /// Attaches to what runs and hands events over, on a thread of its own, until `stop` is cancelled or
    /// nobody listens any more. Waits for the first programs, but not for those on a hung mount.
    ///
    /// # Errors
    ///
    /// When the thread cannot be started.
    pub fn spawn(
        mut self,
        events: mpsc::Sender<ProxyEvent>,
        stop: CancellationToken,
    ) -> Result<()> {
        let (sweeping, first_sweep) = channel::<Infallible>();
        let watch = move || {
            self.sweep();
            drop(sweeping);
            let mut swept = Instant::now();
            while !stop.is_cancelled() {
                if swept.elapsed() >= SWEEP {
                    self.sweep();
                    swept = Instant::now();
                }
                for event in self.read() {
                    if events.blocking_send(event).is_err() {
                        return;
                    }
                }
                thread::sleep(PAUSE);
            }
        };
        essential::thread("uprobes", watch).context("starting a thread")?;
        let _ = first_sweep.recv_timeout(FIRST_SWEEP);
        Ok(())
    }

    /// The events that have come since the last call.
    pub fn read(&mut self) -> Vec<ProxyEvent> {
        let (mut events, mut distrusted) = (Vec::new(), BTreeSet::new());
        while let Some(record) = self.records.next() {
            SourceStats::count(&self.stats.lines);
            match record::event(&record, AgentClock::own()) {
                // A user may run the system's own program.
                Ok(event) if event.pid.is_some_and(is_anothers) => {
                    SourceStats::count(&self.stats.lines_foreign);
                }
                Ok(event) => {
                    SourceStats::count(&self.stats.events);
                    events.push(event);
                }
                Err(Untrustworthy { pid, why }) => {
                    SourceStats::count(&self.stats.errors);
                    distrusted.insert((pid, why));
                }
            }
        }
        if let Ok(lost) = self.lost.get(&0, 0) {
            self.stats.dropped.store(lost, Ordering::Relaxed);
        }
        for (pid, why) in distrusted {
            self.let_go(pid, why);
        }
        events
    }

    /// Attaches to what has been started since the last call.
    pub fn sweep(&mut self) {
        let functions = FREE.iter().chain(CONNECT).flat_map(|(_, functions)| *functions);
        let functions: Vec<&str> = functions.copied().collect();
        let running = binary::running(&functions, |identity| self.attached.contains_key(&identity));
        // What was refused need not be known for longer than it runs.
        self.attached
            .retain(|identity, links| !links.is_empty() || running.present.contains(identity));
        for binary in running.new {
            let links = match self.attach(&binary) {
                Ok(links) => {
                    info!("attached uprobes to {} ({})", binary.shown, binary.version);
                    links
                }
                Err(error) => {
                    warn!("cannot attach uprobes to {}: {error:#}", binary.shown);
                    SourceStats::count(&self.stats.errors);
                    Vec::new()
                }
            };
            self.attached.insert(binary.identity, links);
        }
    }

    fn attach(&mut self, binary: &Binary) -> Result<Vec<(&'static str, UProbeLinkId)>> {
        let single = binary.offset_of_single()?;
        let mut links = Vec::new();
        for (name, functions) in FREE.iter().chain(CONNECT) {
            let mut places = functions.iter().map(|name| (*name, binary.offset_of(name)));
            let Some((function, Some(offset))) = places.find(|(_, place)| place.is_some()) else {
                continue;
            };
            // Not by the function's name: aya would read the whole file again.
            let point = UProbeAttachPoint {
                location: UProbeAttachLocation::AbsoluteOffset(offset),
                cookie: Some(single),
            };
            let attached = program(&mut self.ebpf, name)?.attach(
                point,
                binary.path(),
                UProbeScope::AllProcesses,
            );
            match attached {
                Ok(link) => links.push((*name, link)),
                Err(error) => {
                    self.detach(links);
                    return Err(error).with_context(|| format!("attaching to {function}"));
                }
            }
        }
        anyhow::ensure!(
            !links.is_empty(),
            "it exports none of the functions; is it a static build?"
        );
        Ok(links)
    }

    /// Takes the programs out of a binary whose memory does not look as it must.
    fn let_go(&mut self, pid: u32, why: &str) {
        for identity in binary::of_process(pid) {
            let links = self.attached.insert(identity, Vec::new()).unwrap_or_default();
            if !links.is_empty() {
                warn!("detached uprobes from nginx (pid {pid}): {why}");
            }
            self.detach(links);
        }
    }

    fn detach(&mut self, links: Vec<(&'static str, UProbeLinkId)>) {
        for (name, link) in links {
            if let Ok(program) = program(&mut self.ebpf, name) {
                // Fails for a binary that is gone, and then there is nothing left to detach.
                let _ = program.detach(link);
            }
        }
    }
}

/// Whether a process that is there is no nginx of the system's.
fn is_anothers(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists() && !process::is(ProxyKind::Nginx, pid)
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut UProbe> {
    let program = ebpf.program_mut(name).with_context(|| format!("the object has no {name}"))?;
    Ok(program.try_into()?)
}
