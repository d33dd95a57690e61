//! Reads the maps in which the programs count, and turns totals into growth.

use std::{
    collections::{BTreeSet, HashMap},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use anyhow::{Context, Result};
use aya::maps::{HashMap as BpfHashMap, MapData, PerCpuArray};
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
    listeners: BpfHashMap<MapData, ListenerKey, ListenerTally>,
    /// What became of connections, by service.
    pub services: ServiceMaps,
    no_port: BpfHashMap<MapData, NoPortKey, NoPortTally>,
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
            let (key, now) = entry.context("reading the LISTENERS map")?;
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
        let read = |entry: Result<(NoPortKey, NoPortTally), _>| {
            let (key, tally) = entry.context("reading the NO_PORT map")?;
            let command = tally.command.split(|byte| *byte == 0).next().unwrap_or_default();
            Ok(NoPortCount {
                netns: NetnsId(key.netns),
                destination: SocketAddr::new(address(key.family, &key.addr), key.port),
                pid: key.pid,
                command: String::from_utf8_lossy(command).into_owned(),
                failures: tally.failures,
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
            add(&mut sum.map_full, &map_full);
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
        IpAddr::V4(Ipv4Addr::from_bits(u32::from_be(raw[0])))
    } else {
        let bits = raw.iter().fold(0, |bits, word| bits << 32 | u128::from(u32::from_be(*word)));
        let addr = Ipv6Addr::from_bits(bits);
        addr.to_ipv4_mapped().map_or(IpAddr::V6(addr), IpAddr::V4)
    }
}

pub(super) fn add<const N: usize>(sum: &mut [u64; N], more: &[u64; N]) {
    sum.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
}

/// Programs count on while the map is read, but each counter only grows.
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
    fn takes_the_difference() {
        let counted = |syns| {
            let mut tally = ListenerTally::default();
            tally.counts[Class::SynAcceptQueueFull as usize] = syns;
            tally
        };
        let grown = difference(&counted(7), &counted(5));
        assert_eq!(grown, Tally::of(&[(Class::SynAcceptQueueFull, 2)]));
        assert!(difference(&counted(5), &counted(7)).is_empty());
    }

    #[test]
    fn a_mapped_address_is_ipv4() {
        let v4 = u32::from_ne_bytes([10, 0, 0, 7]);
        let raw = [0, 0, 0xffff_u32.to_be(), v4];
        assert_eq!(address(floodmark_common::AF_INET6, &raw).to_string(), "10.0.0.7");
        assert_eq!(address(floodmark_common::AF_INET6, &[0; 4]).to_string(), "::");
        assert_eq!(address(AF_INET, &[v4, 9, 9, 9]).to_string(), "10.0.0.7");
    }
}
