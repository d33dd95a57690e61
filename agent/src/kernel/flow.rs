//! Reads when connections came to accept queues, and when this host's own clients opened and closed
//! theirs.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
};

use anyhow::{Context, Result};
use aya::maps::{HashMap as BpfHashMap, Map, MapData, PerCpuArray, RingBuf};
use floodmark_common::{
    ListenerKey,
    flow::{Arrivals, CLIENT_CLOSED, CLIENT_FAILED, CLIENT_OPENED, ClientRecord, SLOT_NS, SLOTS},
};
use serde::{Deserialize, Serialize};

use super::{
    counters::{address, known},
    lives,
    sample::{ListenerId, NetnsId},
};
use crate::{
    clock::{AgentClock, Reading},
    time::UnixMs,
};

/// Client events taken at a time; more wait in the ring buffer.
const MOST_EVENTS: usize = 50_000;

/// Ten milliseconds in which connections entered an accept queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slot {
    /// Its begin.
    pub at: UnixMs,
    /// How many entered.
    pub enqueued: u32,
    /// The queue right after the last of them.
    pub depth: u32,
}

/// A connection of this host's own making came or went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientEvent {
    /// When, in nanoseconds of the kernel's monotonic clock.
    pub at_ns: u64,
    /// When its connect began, by the same clock.
    pub opened_ns: u64,
    /// In which namespace.
    pub netns: NetnsId,
    /// Process id of whoever connected, in the initial PID namespace.
    pub pid: u32,
    /// Where to.
    pub to: SocketAddr,
    /// What happened.
    pub what: ClientChange,
}

/// What became of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientChange {
    /// Its connect began.
    Opened,
    /// One side was through with it, or it was reset.
    Closed,
    /// It never came to be.
    Failed,
}

/// Reads arrivals by listener, and the connections that this host opens, from the programs' maps.
pub struct FlowMaps {
    arrivals: BpfHashMap<MapData, ListenerKey, Arrivals>,
    clients: RingBuf<MapData>,
    clients_lost: PerCpuArray<MapData, u64>,
    /// By listener, the newest slot that has been read.
    read: HashMap<ListenerKey, u32>,
}

impl FlowMaps {
    /// Takes them out of the object by name.
    pub(super) fn take(take: &mut impl FnMut(&str) -> Result<Map>) -> Result<Self> {
        Ok(Self {
            arrivals: take("ARRIVALS")?.try_into()?,
            clients: take("CLIENT_EVENTS")?.try_into()?,
            clients_lost: take("CLIENT_EVENTS_LOST")?.try_into()?,
            read: HashMap::new(),
        })
    }

    /// The slots that have ended since the last time, by listener. Where the rung cannot tell the
    /// sockets of a SO_REUSEPORT group apart, the inode is 0.
    ///
    /// # Errors
    ///
    /// When the map cannot be read.
    pub fn arrivals(&mut self) -> Result<BTreeMap<ListenerId, Vec<Slot>>> {
        let clock = AgentClock::own();
        let current = (Reading::now().monotonic_ns as u64 / SLOT_NS) as u32;
        let mut found = BTreeMap::new();
        for entry in self.arrivals.iter() {
            let (key, arrivals) = entry.context("reading the ARRIVALS map")?;
            // Older ones have been overwritten by now, or are left from before.
            let oldest = current.saturating_sub(SLOTS as u32);
            let read = self.read.entry(key).or_insert(oldest);
            let from = (*read).max(oldest);
            let mut fresh: Vec<_> = arrivals
                .slots
                .iter()
                .filter(|slot| slot.number > from && slot.number < current)
                .collect();
            fresh.sort_by_key(|slot| slot.number);
            *read = fresh.last().map_or(*read, |slot| slot.number);
            let slots: Vec<Slot> = fresh
                .into_iter()
                .map(|slot| Slot {
                    at: clock.at(u64::from(slot.number) * SLOT_NS),
                    enqueued: slot.enqueued,
                    depth: slot.depth,
                })
                .collect();
            if let Some(listener) = known(&key).filter(|_| !slots.is_empty()) {
                found.insert(listener, slots);
            }
        }
        Ok(found)
    }

    /// What this host's clients did since the last time, in order, and how much of it was lost since
    /// start.
    ///
    /// # Errors
    ///
    /// When the map cannot be read.
    pub fn clients(&mut self) -> Result<(Vec<ClientEvent>, u64)> {
        let mut events = Vec::new();
        while events.len() < MOST_EVENTS {
            let Some(record) = self.clients.next() else { break };
            events.extend(decode(&record));
        }
        let lost = self.clients_lost.get(&0, 0).context("reading the CLIENT_EVENTS_LOST map")?;
        Ok((events, lost.iter().sum()))
    }

    /// Makes room: forgets listeners that are not `alive`.
    ///
    /// # Errors
    ///
    /// When the map refuses.
    pub(super) fn forget(&mut self, alive: impl Fn(&ListenerId) -> bool) -> Result<()> {
        let keys: Vec<ListenerKey> =
            self.arrivals.keys().collect::<Result<_, _>>().context("reading the ARRIVALS map")?;
        for key in keys.iter().filter(|key| known(key).is_none_or(|id| !alive(&id))) {
            self.arrivals.remove(key).context("removing from the ARRIVALS map")?;
            self.read.remove(key);
        }
        Ok(())
    }
}

fn decode(bytes: &[u8]) -> Option<ClientEvent> {
    let bytes: &[u8; size_of::<ClientRecord>()] = bytes.first_chunk()?;
    let u64_at = |at: usize| Some(u64::from_ne_bytes(*bytes[at..].first_chunk()?));
    let u32_at = |at: usize| Some(u32::from_ne_bytes(*bytes[at..].first_chunk()?));
    let addr = [u32_at(32)?, u32_at(36)?, u32_at(40)?, u32_at(44)?];
    let port = u16::from_ne_bytes(*bytes[48..].first_chunk()?);
    let what = match bytes[51] {
        CLIENT_OPENED => ClientChange::Opened,
        CLIENT_CLOSED => ClientChange::Closed,
        CLIENT_FAILED => ClientChange::Failed,
        _ => return None,
    };
    Some(ClientEvent {
        at_ns: u64_at(0)?,
        opened_ns: u64_at(8)?,
        netns: lives::meet(u64_at(16)?, u32_at(24)?),
        pid: u32_at(28)?,
        to: SocketAddr::new(address(u16::from(bytes[50]), &addr), port),
        what,
    })
}

#[cfg(test)]
mod tests {
    use floodmark_common::AF_INET;

    use super::*;

    #[test]
    fn decodes_what_the_program_writes() {
        let mut bytes = [0; size_of::<ClientRecord>()];
        bytes[..8].copy_from_slice(&9_u64.to_ne_bytes());
        bytes[8..16].copy_from_slice(&5_u64.to_ne_bytes());
        bytes[16..24].copy_from_slice(&42_u64.to_ne_bytes());
        bytes[24..28].copy_from_slice(&42_u32.to_ne_bytes());
        bytes[28..32].copy_from_slice(&7_u32.to_ne_bytes());
        bytes[32..36].copy_from_slice(&[10, 0, 0, 1]);
        bytes[48..50].copy_from_slice(&80_u16.to_ne_bytes());
        bytes[50..52].copy_from_slice(&[AF_INET as u8, CLIENT_CLOSED]);
        let event = decode(&bytes).unwrap();
        assert_eq!((event.at_ns, event.opened_ns, event.netns, event.pid), (9, 5, NetnsId(42), 7));
        assert_eq!((event.to, event.what), (([10, 0, 0, 1], 80).into(), ClientChange::Closed));
        bytes[51] = 9;
        assert_eq!(decode(&bytes), None);
        assert_eq!(decode(&bytes[..40]), None);
    }
}
