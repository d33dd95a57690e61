//! Detail events as columns: there may be thousands in a tick, and alike in a column.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use serde::{Deserialize, Serialize};

use crate::{
    kernel::{
        Class, KernelEvent, ListenerId, QueueDepth,
        class::{class_of, word},
    },
    time::UnixMs,
};

/// Detail events of one tick. All columns of events are equally long; those of an event whose class
/// this version does not know are left out when read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventColumns {
    /// Listeners that events are of.
    pub listeners: Vec<ListenerId>,
    /// Words of the classes that events are of.
    pub classes: Vec<String>,
    /// Clients that events are of.
    pub peers: Vec<IpAddr>,
    /// Milliseconds from the event before, or for the first since the epoch.
    pub elapsed_ms: Vec<i64>,
    /// Places in `listeners`.
    pub listener: Vec<u32>,
    /// Places in `peers`.
    pub peer: Vec<u32>,
    /// The clients' ports.
    pub port: Vec<u16>,
    /// Places in `classes`.
    pub class: Vec<u32>,
    /// The accept queue just then: length and limit, or nothing.
    pub queue: Vec<Option<(u32, u32)>>,
}

/// Gives each different value a place.
struct Places<T>(BTreeMap<T, u32>);

impl<T: Ord + Clone> Places<T> {
    fn of(&mut self, value: &T, column: &mut Vec<T>) -> u32 {
        *self.0.entry(value.clone()).or_insert_with(|| {
            column.push(value.clone());
            column.len() as u32 - 1
        })
    }
}

impl EventColumns {
    /// Columns of `events`.
    pub fn of(events: &[KernelEvent]) -> Self {
        let mut columns = Self::default();
        let mut listeners = Places(BTreeMap::new());
        let mut peers = Places(BTreeMap::new());
        let (mut places, mut classes) = (Places(BTreeMap::new()), Vec::new());
        let mut before = 0;
        for event in events {
            let at = event.at.0 as i64;
            columns.elapsed_ms.push(at - before);
            before = at;
            columns.listener.push(listeners.of(&event.listener, &mut columns.listeners));
            columns.peer.push(peers.of(&event.peer.ip(), &mut columns.peers));
            columns.port.push(event.peer.port());
            columns.class.push(places.of(&event.class, &mut classes));
            columns.queue.push(event.queue.map(|queue| (queue.len, queue.limit)));
        }
        columns.classes = classes.into_iter().map(word).collect();
        columns
    }

    /// The events again.
    pub fn events(&self) -> Vec<KernelEvent> {
        let classes: Vec<Option<Class>> = self.classes.iter().map(|word| class_of(word)).collect();
        let mut at = 0_i64;
        let rows = self.elapsed_ms.iter().enumerate().map(|(row, elapsed)| {
            at = at.saturating_add(*elapsed);
            let peer = *self.peers.get(*self.peer.get(row)? as usize)?;
            Some(KernelEvent {
                at: UnixMs(at.max(0) as u64),
                listener: *self.listeners.get(*self.listener.get(row)? as usize)?,
                peer: SocketAddr::new(peer, *self.port.get(row)?),
                class: (*classes.get(*self.class.get(row)? as usize)?)?,
                queue: self.queue.get(row)?.map(|(len, limit)| QueueDepth { len, limit }),
            })
        });
        rows.flatten().collect()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.elapsed_ms.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::NetnsId;

    fn event(at: u64, peer: &str, class: Class, queue: Option<QueueDepth>) -> KernelEvent {
        let addr = "10.0.0.1:80".parse().unwrap();
        let listener = ListenerId { netns: NetnsId(1), addr, inode: 7 };
        KernelEvent { at: UnixMs(at), listener, peer: peer.parse().unwrap(), class, queue }
    }

    #[test]
    fn every_event_comes_back() {
        let full = Some(QueueDepth { len: 3, limit: 2 });
        let mut events = vec![
            event(5000, "192.0.2.1:4000", Class::SynAcceptQueueFull, full),
            event(4999, "[2001:db8::1]:4001", Class::RetransmitSilence, None),
        ];
        events.extend(Class::ALL.map(|class| event(6000, "192.0.2.1:4000", class, full)));
        let columns = EventColumns::of(&events);
        assert_eq!((columns.events(), columns.peers.len()), (events, 2));
    }

    #[test]
    fn a_damaged_or_newer_event_is_left_out() {
        let one = event(5000, "192.0.2.1:4000", Class::SynAcceptQueueFull, None);
        let mut columns = EventColumns::of(&[one, one, one]);
        columns.classes.push("syn/not_known_yet".to_owned());
        columns.class[0] = 1;
        columns.peer[1] = 9;
        assert_eq!(columns.events(), [one]);
    }
}
