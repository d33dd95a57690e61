//! Reads the maps in which the programs count, and turns totals into growth.

use std::{
    collections::{BTreeSet, HashMap},
    mem,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use anyhow::{Context, Result};
use aya::maps::{HashMap as BpfHashMap, MapData, PerCpuArray};
use floodmark_common::{
    AF_INET, Class, ListenerKey, ListenerTally, NetnsKey, NoPortKey, NoPortTally, RawAddr, Totals,
};

use super::{
    lives,
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
    /// Namespaces in the maps that were unknown when last forgotten about.
    unknown: BTreeSet<NetnsKey>,
}

impl Counters {
    /// Takes the maps over.
    pub fn new(maps: CountingMaps) -> Self {
        let CountingMaps { listeners, services, recent_services, no_port, totals } = maps;
        let services = ServiceMaps::new(services, recent_services);
        let (seen, unknown) = (HashMap::new(), BTreeSet::new());
        Self { listeners, services, no_port, totals, seen, unknown }
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
                let listener = identity(&key, now.netns_inode);
                growth.push(Growth { listener, tally, queue });
            }
        }
        Ok(growth)
    }

    /// Makes room in the maps: forgets listeners that have `closed`, and whatever concerns namespaces
    /// that were not among the `present` ones at this call nor at the one before. One that is younger
    /// than the last sweep is there at the next call.
    pub fn forget(
        &mut self,
        closed: &BTreeSet<ListenerId>,
        present: impl Fn(NetnsId) -> bool,
    ) -> Result<()> {
        let no_port: Vec<NoPortKey> =
            self.no_port.keys().collect::<Result<_, _>>().context("reading the NO_PORT map")?;
        let services = self.services.keys()?;
        let seen = self.seen.keys().map(|key| key.netns);
        let keys: BTreeSet<NetnsKey> = seen
            .chain(services.iter().map(|key| key.netns))
            .chain(no_port.iter().map(|key| key.netns))
            .collect();
        let is_unknown = |key: &NetnsKey| lives::known(*key).is_none_or(|netns| !present(netns));
        let unknown: BTreeSet<NetnsKey> = keys.into_iter().filter(is_unknown).collect();
        let gone = &unknown & &mem::take(&mut self.unknown);
        let is_closed = |key: &ListenerKey| {
            gone.contains(&key.netns) || known(key).is_some_and(|id| closed.contains(&id))
        };
        let listeners: Vec<ListenerKey> = self.seen.keys().copied().filter(is_closed).collect();
        for key in listeners {
            self.seen.remove(&key);
            self.listeners.remove(&key).context("removing from the LISTENERS map")?;
        }
        self.services.forget(&gone)?;
        for key in no_port.iter().filter(|key| gone.contains(&key.netns)) {
            self.no_port.remove(key).context("removing from the NO_PORT map")?;
        }
        self.unknown = unknown;
        Ok(())
    }

    /// Connects that found no local port, since start.
    pub fn no_port(&self) -> Result<Vec<NoPortCount>> {
        let read = |entry: Result<(NoPortKey, NoPortTally), _>| {
            let (key, tally) = entry.context("reading the NO_PORT map")?;
            let Some(netns) = lives::known(key.netns) else { return Ok(None) };
            let command = tally.command.split(|byte| *byte == 0).next().unwrap_or_default();
            Ok(Some(NoPortCount {
                netns,
                destination: SocketAddr::new(address(key.family, &key.addr), key.port),
                pid: key.pid,
                command: String::from_utf8_lossy(command).into_owned(),
                failures: tally.failures,
            }))
        };
        self.no_port.iter().map(read).filter_map(Result::transpose).collect()
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

/// The listener behind a map key, in a namespace with that inode number.
pub(super) fn identity(key: &ListenerKey, netns_inode: u32) -> ListenerId {
    listener_in(lives::meet(key.netns, netns_inode), key)
}

/// The listener behind a map key; `None` in a namespace that nobody has met.
pub(super) fn known(key: &ListenerKey) -> Option<ListenerId> {
    Some(listener_in(lives::known(key.netns)?, key))
}

fn listener_in(netns: NetnsId, key: &ListenerKey) -> ListenerId {
    ListenerId {
        netns,
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
