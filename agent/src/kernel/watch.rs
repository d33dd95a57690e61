//! Reads the maps in which the programs keep what they know of accept queues, `listen(2)` calls,
//! connections and refused Unix connects.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

use anyhow::{Context, Result};
use aya::maps::{Array, HashMap as BpfHashMap, Map, MapData, PerCpuArray, PerCpuHashMap};
use floodmark_common::{
    ListenerKey,
    churn::{ChurnKey, ChurnTally, UnixRefusal},
    queue::{ListenCall, QueueTally, SocketKey, WAIT_BUCKETS},
};

use super::{
    counters::{address, known},
    flow::FlowMaps,
    lives,
    sample::{ListenerId, NetnsId},
};

/// The maps, as taken from the object.
pub struct WatchMaps {
    queues: PerCpuHashMap<MapData, ListenerKey, QueueTally>,
    epoch: Array<MapData, u32>,
    listens: BpfHashMap<MapData, SocketKey, ListenCall>,
    changes: PerCpuArray<MapData, u64>,
    churn: BpfHashMap<MapData, ChurnKey, ChurnTally>,
    unix_refused: BpfHashMap<MapData, UnixRefusal, u64>,
    flow: FlowMaps,
}

impl WatchMaps {
    /// Takes them out of the object by name.
    pub(super) fn take(take: &mut impl FnMut(&str) -> Result<Map>) -> Result<Self> {
        Ok(Self {
            queues: take("QUEUES")?.try_into()?,
            epoch: take("EPOCH")?.try_into()?,
            listens: take("LISTENS")?.try_into()?,
            changes: take("LISTEN_CHANGES")?.try_into()?,
            churn: take("CHURN")?.try_into()?,
            unix_refused: take("UNIX_REFUSED")?.try_into()?,
            flow: FlowMaps::take(take)?,
        })
    }
}

/// What the kernel saw of one accept queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueReading {
    /// The deepest queue at an enqueue since the last look.
    pub high_since_look: u32,
    /// The deepest queue at an enqueue since start.
    pub high: u32,
    /// The longest SYN queue that a connection left since start.
    pub syn_queue_high: u32,
    /// Connections that entered the queue since start.
    pub enqueued: u64,
    /// Accepted connections by the time they had waited ([`floodmark_common::queue::wait_bucket`]).
    pub waits: [u64; WAIT_BUCKETS],
    /// Sum of those times in nanoseconds.
    pub waited_ns: u64,
}

/// Between whom connections come and go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChurnId {
    /// In which namespace.
    pub netns: NetnsId,
    /// The service's port.
    pub port: u16,
    /// Whether this host is the service's side.
    pub is_local: bool,
    /// The other side.
    pub peer: IpAddr,
}

/// The key's errno and path, and how often.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnixRefused {
    /// The client's namespace.
    pub netns: NetnsId,
    /// EAGAIN or ECONNREFUSED.
    pub errno: i32,
    /// The path as the client gave it; an abstract name begins with `@`, as `ss` writes it.
    pub path: String,
    /// Since start.
    pub count: u64,
}

/// What is known of one namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Watched {
    /// Its deepest queue since start.
    pub deepest: u32,
    /// Connections accepted from that queue.
    pub accepted: u64,
    /// Sockets that listen with the backlog asked about.
    pub listens: u64,
    /// Unix connects refused because a queue was full.
    pub unix_refused: u64,
    /// Connections to its services that the other side closed first.
    pub closed_by_clients: u64,
}

/// Reads what the programs keep.
pub struct Watch {
    maps: WatchMaps,
    epoch: u32,
    /// Connections opened at the last [`forget`](Self::forget), by key: what has not moved since
    /// makes room.
    churn_before: HashMap<ChurnKey, u64>,
}

impl Watch {
    /// Takes the maps over.
    pub(super) fn new(maps: WatchMaps) -> Self {
        Self { maps, epoch: 0, churn_before: HashMap::new() }
    }

    /// What the kernel saw of every queue, and begins a new look. On a rung that cannot tell the
    /// sockets of a SO_REUSEPORT group apart, a reading has inode 0 and is the group's.
    ///
    /// # Errors
    ///
    /// When a map cannot be read or written.
    pub fn queues(&mut self) -> Result<BTreeMap<ListenerId, QueueReading>> {
        let ended = self.epoch;
        self.epoch = self.epoch.wrapping_add(1);
        self.maps.epoch.set(0, self.epoch, 0).context("writing the EPOCH map")?;
        let mut readings = BTreeMap::new();
        for entry in self.maps.queues.iter() {
            let (key, per_cpu) = entry.context("reading the QUEUES map")?;
            let Some(listener) = known(&key) else { continue };
            let reading: &mut QueueReading = readings.entry(listener).or_default();
            per_cpu.iter().for_each(|cpu| reading.add(cpu, ended));
        }
        Ok(readings)
    }

    /// What is known of one namespace, without beginning a new look: its deepest queue with what was
    /// accepted from it, how many sockets listen with this `backlog`, Unix connects refused, and
    /// connections that clients closed.
    ///
    /// # Errors
    ///
    /// When a map cannot be read.
    pub fn of_namespace(&self, netns: NetnsId, backlog: i32) -> Result<Watched> {
        let mut by_address: BTreeMap<_, QueueReading> = BTreeMap::new();
        for entry in self.maps.queues.iter() {
            let (key, per_cpu) = entry.context("reading the QUEUES map")?;
            let own = known(&key).filter(|id| id.netns == netns);
            if let Some(id) = own {
                let reading = by_address.entry(id.addr).or_default();
                per_cpu.iter().for_each(|cpu| reading.add(cpu, self.epoch));
            }
        }
        let deepest = by_address.values().max_by_key(|reading| reading.high);
        let deepest = deepest.copied().unwrap_or_default();
        let calls = self.listen_calls()?;
        let is_full = |refused: &UnixRefused| refused.errno == libc::EAGAIN;
        let refused = self.unix_refused()?;
        let own = refused.iter().filter(|refused| refused.netns == netns && is_full(refused));
        let churn = self.churn()?;
        let services = churn.iter().filter(|(id, _)| id.netns == netns && id.is_local);
        Ok(Watched {
            deepest: deepest.high,
            accepted: deepest.waits.iter().sum(),
            listens: calls
                .iter()
                .filter(|((of, _), call)| *of == netns && call.backlog == backlog)
                .count() as u64,
            unix_refused: own.map(|refused| refused.count).sum(),
            closed_by_clients: services.map(|(_, tally)| tally.closed_there).sum(),
        })
    }

    /// The last `listen(2)` seen on each socket, by namespace and inode.
    ///
    /// # Errors
    ///
    /// When the map cannot be read.
    pub fn listen_calls(&self) -> Result<HashMap<(NetnsId, u32), ListenCall>> {
        let read = |entry: Result<(SocketKey, ListenCall), _>| {
            let (key, call) = entry.context("reading the LISTENS map")?;
            Ok(lives::known(key.netns).map(|netns| ((netns, key.inode), call)))
        };
        self.maps.listens.iter().map(read).filter_map(Result::transpose).collect()
    }

    /// How many sockets began or ceased to listen since start.
    ///
    /// # Errors
    ///
    /// When the map cannot be read.
    pub fn listen_changes(&self) -> Result<u64> {
        let per_cpu = self.maps.changes.get(&0, 0).context("reading the LISTEN_CHANGES map")?;
        Ok(per_cpu.iter().sum())
    }

    /// How connections came and went since start.
    ///
    /// # Errors
    ///
    /// When the map cannot be read.
    pub fn churn(&self) -> Result<BTreeMap<ChurnId, ChurnTally>> {
        let mut found: BTreeMap<_, ChurnTally> = BTreeMap::new();
        for entry in self.maps.churn.iter() {
            let (key, counted) = entry.context("reading the CHURN map")?;
            if let Some(id) = churn_id(&key) {
                *found.entry(id).or_default() += counted;
            }
        }
        Ok(found)
    }

    /// When connections came to the queues, and what this host's own clients did.
    pub fn flow(&mut self) -> &mut FlowMaps {
        &mut self.maps.flow
    }

    /// Unix connects refused since start.
    ///
    /// # Errors
    ///
    /// When the map cannot be read.
    pub fn unix_refused(&self) -> Result<Vec<UnixRefused>> {
        let read = |entry: Result<(UnixRefusal, u64), _>| {
            let (key, count) = entry.context("reading the UNIX_REFUSED map")?;
            Ok(lives::known(key.netns).map(|netns| UnixRefused {
                netns,
                errno: key.errno.cast_signed(),
                path: unix_path(&key.path),
                count,
            }))
        };
        self.maps.unix_refused.iter().map(read).filter_map(Result::transpose).collect()
    }

    /// Makes room: forgets queues that are not `alive`, and peers without a new connection since the
    /// last call.
    ///
    /// # Errors
    ///
    /// When a map refuses.
    pub(super) fn forget(&mut self, alive: impl Fn(&ListenerId) -> bool) -> Result<()> {
        let keys: Vec<ListenerKey> =
            self.maps.queues.keys().collect::<Result<_, _>>().context("reading the QUEUES map")?;
        for key in keys.iter().filter(|key| known(key).is_none_or(|id| !alive(&id))) {
            self.maps.queues.remove(key).context("removing from the QUEUES map")?;
        }
        self.maps.flow.forget(&alive)?;
        let mut opened = HashMap::new();
        for entry in self.maps.churn.iter() {
            let (key, tally) = entry.context("reading the CHURN map")?;
            opened.insert(key, tally.opened);
        }
        for (key, count) in &opened {
            if self.churn_before.get(key) == Some(count) {
                self.maps.churn.remove(key).context("removing from the CHURN map")?;
            }
        }
        self.churn_before = opened;
        Ok(())
    }
}

impl QueueReading {
    fn add(&mut self, cpu: &QueueTally, epoch: u32) {
        self.high_since_look = self.high_since_look.max(cpu.high_of(epoch));
        self.high = self.high.max(cpu.high);
        self.syn_queue_high = self.syn_queue_high.max(cpu.syn_queue_high);
        self.enqueued += cpu.enqueued;
        self.waits.iter_mut().zip(cpu.waits).for_each(|(sum, more)| *sum += more);
        self.waited_ns += cpu.waited_ns;
    }
}

fn churn_id(key: &ChurnKey) -> Option<ChurnId> {
    Some(ChurnId {
        netns: lives::known(key.netns)?,
        port: key.port,
        is_local: key.is_local != 0,
        peer: address(u16::from(key.family), &key.peer),
    })
}

/// As `ss` writes it: the zeros of an abstract name as `@`.
pub(super) fn unix_path(raw: &[u8]) -> String {
    let length = match raw.first() {
        Some(0) => raw.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1),
        _ => raw.iter().position(|byte| *byte == 0).unwrap_or(raw.len()),
    };
    String::from_utf8_lossy(&raw[..length]).replace('\0', "@")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unix_path_reads_as_ss_writes_it() {
        let mut raw = [0; 108];
        raw[..9].copy_from_slice(b"/run/a\0bc");
        assert_eq!(unix_path(&raw), "/run/a");
        raw[..9].copy_from_slice(b"\0abstract");
        assert_eq!(unix_path(&raw), "@abstract");
        assert_eq!(unix_path(&[0; 108]), "");
    }
}
