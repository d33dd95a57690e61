//! Reads the maps in which the programs count, and turns totals into growth.

use std::{
    collections::{BTreeSet, HashMap},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use anyhow::{Context, Result};
use aya::maps::{MapData, PerCpuArray, PerCpuHashMap, PerCpuValues};
use floodmark_common::{
    AF_INET, Class, ListenerKey, ListenerTally, NoPortKey, NoPortTally, RawAddr, Totals,
};

use super::{
    object::CountingMaps,
    sample::{ListenerId, NetnsId, QueueDepth, Tally},
    service::NoPortCount,
    service_maps::ServiceMaps,
};

/// Growth at one listener since the last reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Growth {
    /// Whose queue.
    pub listener: ListenerId,
    /// What was counted.
    pub tally: Tally,
    /// The deepest queue seen at a drop since start.
    pub queue: QueueDepth,
}

/// The counting maps, and what they held when last read.
pub struct Counters {
    listeners: PerCpuHashMap<MapData, ListenerKey, ListenerTally>,
    /// What became of connections, by service.
    pub services: ServiceMaps,
    no_port: PerCpuHashMap<MapData, NoPortKey, NoPortTally>,
    totals: PerCpuArray<MapData, Totals>,
    seen: HashMap<ListenerKey, ListenerTally>,
}

impl Counters {
    /// Takes the maps over.
    pub fn new(maps: CountingMaps) -> Self {
        let CountingMaps { listeners, services, recent_services, no_port, totals } = maps;
        let services = ServiceMaps::new(services, recent_services);
        Self { listeners, services, no_port, totals, seen: HashMap::new() }
    }

    /// What grew since the last call.
    pub fn growth(&mut self) -> Result<Vec<Growth>> {
        let mut growth = Vec::new();
        for entry in self.listeners.iter() {
            let (key, per_cpu) = entry.context("reading the LISTENERS map")?;
            let now = sum(per_cpu.iter());
            let before = self.seen.insert(key, now).unwrap_or_default();
            let tally = difference(&now, &before);
            if !tally.is_empty() {
                let queue = QueueDepth { len: now.queue_high, limit: now.queue_limit };
                growth.push(Growth { listener: identity(&key), tally, queue });
            }
        }
        Ok(growth)
    }

    /// Makes room in the maps: forgets listeners that have `closed`, and the services of namespaces
    /// that are no longer `known`.
    pub fn forget(
        &mut self,
        closed: &BTreeSet<ListenerId>,
        known: impl Fn(NetnsId) -> bool,
    ) -> Result<()> {
        let seen = self.seen.keys().copied();
        let gone: Vec<ListenerKey> = seen.filter(|key| closed.contains(&identity(key))).collect();
        for key in gone {
            self.seen.remove(&key);
            self.listeners.remove(&key).context("removing from the LISTENERS map")?;
        }
        self.services.forget(&known)?;
        let no_port: Vec<NoPortKey> =
            self.no_port.keys().collect::<Result<_, _>>().context("reading the NO_PORT map")?;
        for key in no_port.iter().filter(|key| !known(NetnsId(key.netns))) {
            self.no_port.remove(key).context("removing from the NO_PORT map")?;
        }
        Ok(())
    }

    /// Connects that found no local port, since start.
    pub fn no_port(&self) -> Result<Vec<NoPortCount>> {
        let read = |entry: Result<(NoPortKey, PerCpuValues<NoPortTally>), _>| {
            let (key, per_cpu) = entry.context("reading the NO_PORT map")?;
            // Only the CPU that made the entry knows the name.
            let command = per_cpu.iter().map(|cpu| cpu.command).find(|name| name[0] != 0);
            let command = command.unwrap_or_default();
            let command = command.split(|byte| *byte == 0).next().unwrap_or_default();
            Ok(NoPortCount {
                netns: NetnsId(key.netns),
                destination: SocketAddr::new(address(key.family, &key.addr), key.port),
                pid: key.pid,
                command: String::from_utf8_lossy(command).into_owned(),
                failures: per_cpu.iter().map(|cpu| cpu.failures).sum(),
            })
        };
        self.no_port.iter().map(read).collect()
    }

    /// Totals over all CPUs since start.
    pub fn totals(&self) -> Result<Totals> {
        let per_cpu = self.totals.get(&0, 0).context("reading the TOTALS map")?;
        Ok(per_cpu.iter().fold(Totals::default(), |mut sum, cpu| {
            let Totals { counts, ring_full, map_full, nested, orphan_exits } = *cpu;
            add(&mut sum.counts, &counts);
            sum.ring_full += ring_full;
            sum.map_full += map_full;
            sum.nested += nested;
            sum.orphan_exits += orphan_exits;
            sum
        }))
    }
}

/// The listener behind a map key.
pub(super) fn identity(key: &ListenerKey) -> ListenerId {
    ListenerId {
        netns: NetnsId(key.netns),
        addr: SocketAddr::new(address(key.family, &key.addr), key.port),
        inode: key.inode,
    }
}

/// An address as the programs send it. An IPv4 address mapped into IPv6, as a dual-stack listener's
/// requests have it, comes out as IPv4.
pub(super) fn address(family: u16, raw: &RawAddr) -> IpAddr {
    if family == AF_INET {
        IpAddr::V4(Ipv4Addr::new(raw[0], raw[1], raw[2], raw[3]))
    } else {
        let addr = Ipv6Addr::from(*raw);
        addr.to_ipv4_mapped().map_or(IpAddr::V6(addr), IpAddr::V4)
    }
}

fn sum<'a>(per_cpu: impl Iterator<Item = &'a ListenerTally>) -> ListenerTally {
    per_cpu.fold(ListenerTally::default(), |mut sum, cpu| {
        add(&mut sum.counts, &cpu.counts);
        sum.connections += cpu.connections;
        sum.events_withheld += cpu.events_withheld;
        sum.queue_high = sum.queue_high.max(cpu.queue_high);
        sum.queue_limit = sum.queue_limit.max(cpu.queue_limit);
        sum
    })
}

pub(super) fn add<const N: usize>(sum: &mut [u64; N], more: &[u64; N]) {
    sum.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
}

/// Per-CPU counters are read one CPU after another, but each only grows.
fn difference(now: &ListenerTally, before: &ListenerTally) -> Tally {
    let grown = |class: Class| {
        let index = class as usize;
        now.counts[index].saturating_sub(before.counts[index])
    };
    let connections = now.connections.saturating_sub(before.connections);
    Tally::counted(Class::ALL.map(grown), connections)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_cpus_and_takes_the_difference() {
        let cpu = |syns, queue_high| {
            let mut tally = ListenerTally { queue_high, ..ListenerTally::default() };
            tally.count(Class::SynAcceptQueueFull, syns);
            tally
        };
        let now = sum([cpu(3, 129), cpu(4, 7)].iter());
        assert_eq!((now.counts[Class::SynAcceptQueueFull as usize], now.queue_high), (7, 129));
        assert_eq!(difference(&now, &cpu(5, 0)), Tally::of(&[(Class::SynAcceptQueueFull, 2)]));
    }

    #[test]
    fn a_mapped_address_is_ipv4() {
        let mut raw = [0; 16];
        raw[10..].copy_from_slice(&[0xff, 0xff, 10, 0, 0, 7]);
        assert_eq!(address(floodmark_common::AF_INET6, &raw).to_string(), "10.0.0.7");
        assert_eq!(address(floodmark_common::AF_INET6, &[0; 16]).to_string(), "::");
        assert_eq!(
            address(AF_INET, &[10, 0, 0, 7, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9]).to_string(),
            "10.0.0.7"
        );
    }
}
