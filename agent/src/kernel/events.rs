//! Detail events: from ring buffer records to [`KernelEvent`]s.

#![allow(unsafe_code, reason = "reads the kernel's records")]

use std::{net::SocketAddr, ptr};

use aya::maps::{MapData, RingBuf};
use aya_log::EbpfLogger;
use floodmark_common::{Class, EventRecord};
use log::Log;

use super::{
    counters::{address, identity},
    sample::{KernelEvent, QueueDepth},
};
use crate::clock::AgentClock;

/// The reading end of the ring buffers.
pub struct Events {
    ring: RingBuf<MapData>,
    /// What the programs have to say in words goes to the agent's own log.
    messages: EbpfLogger<&'static dyn Log>,
    /// Records that could not be decoded: the object and the agent disagree.
    pub undecodable: u64,
}

impl Events {
    /// Takes the ring buffers over.
    pub fn new(ring: RingBuf<MapData>, messages: EbpfLogger<&'static dyn Log>) -> Self {
        Self { ring, messages, undecodable: 0 }
    }

    /// Reads at most `most` of the waiting events.
    pub fn drain(&mut self, most: usize) -> Vec<KernelEvent> {
        self.messages.flush();
        let mut events = Vec::new();
        while events.len() < most {
            let Some(record) = self.ring.next() else { break };
            match decode(&record, AgentClock::own()) {
                Some(event) => events.push(event),
                None => self.undecodable += 1,
            }
        }
        events
    }
}

fn decode(bytes: &[u8], clock: &AgentClock) -> Option<KernelEvent> {
    if bytes.len() < size_of::<EventRecord>() {
        return None;
    }
    // SAFETY: long enough (above), and any bytes are a valid EventRecord (aya::Pod).
    let record = unsafe { ptr::read_unaligned(bytes.as_ptr().cast::<EventRecord>()) };
    let class = *Class::ALL.get(record.class as usize)?;
    let peer = SocketAddr::new(address(record.peer_family, &record.peer), record.peer_port);
    Some(KernelEvent {
        at: clock.at(record.at_ns),
        listener: identity(&record.listener, record.netns_inode),
        peer,
        class,
        queue: Some(QueueDepth { len: record.queue_len, limit: record.queue_limit }),
    })
}

#[cfg(test)]
mod tests {
    use floodmark_common::{AF_INET, ListenerKey};

    use super::*;
    use crate::{clock::Reading, time::UnixMs};

    fn bytes_of(record: &EventRecord) -> Vec<u8> {
        let start = ptr::from_ref(record).cast::<u8>();
        // SAFETY: EventRecord has no padding, so each of its bytes is initialised.
        unsafe { std::slice::from_raw_parts(start, size_of::<EventRecord>()) }.to_vec()
    }

    fn clock() -> AgentClock {
        let wall_ns = 1_000_000_000_000;
        AgentClock::new(move || Reading { monotonic_ns: 50_000_000_000, wall_ns, spread_ns: 0 })
    }

    #[test]
    fn decodes_a_dropped_syn() {
        let addr = [u32::from_ne_bytes([10, 1, 0, 2]), 0, 0, 0];
        let listener = ListenerKey { netns: 42, inode: 7, addr, port: 8000, family: AF_INET };
        let record = EventRecord {
            at_ns: 48_000_000_000,
            listener,
            peer: addr,
            peer_port: 40_000,
            peer_family: AF_INET,
            class: Class::SynAcceptQueueFull as u32,
            queue_len: 129,
            queue_limit: 128,
            netns_inode: 42,
            reserved: 0,
        };
        let event = decode(&bytes_of(&record), &clock()).unwrap();
        assert_eq!(event.at, UnixMs(998_000));
        assert_eq!(event.listener.addr, "10.1.0.2:8000".parse().unwrap());
        assert_eq!(event.peer, "10.1.0.2:40000".parse().unwrap());
        assert_eq!(event.class, Class::SynAcceptQueueFull);
        assert_eq!(event.queue, Some(QueueDepth { len: 129, limit: 128 }));
    }

    #[test]
    fn refuses_a_short_or_unknown_record() {
        let record = EventRecord { class: 99, ..EventRecord::default() };
        let bytes = bytes_of(&record);
        assert_eq!(decode(&bytes, &clock()), None);
        assert_eq!(decode(&bytes[..40], &clock()), None);
    }
}
