//! A look at the queues alone, cheap enough for every tick.

use std::collections::BTreeMap;

use super::{
    Inventory,
    sight::{Known, Queues, QueuesWanted},
};
use crate::kernel::{NetnsId, sock_diag::Family};

impl Inventory {
    /// Takes in only the queues and drop counters of the listeners already known. One that has closed
    /// keeps its last state until the next sweep.
    pub fn enter_queues(&mut self, queues: Queues) {
        for (netns, sockets, unix_sockets) in queues.looks {
            for socket in sockets {
                if let Some(listener) = self.listeners.get_mut(&socket.id(netns)) {
                    listener.limit_changes += u32::from(listener.queue.limit != socket.queue.limit);
                    listener.queue = socket.queue;
                    listener.drops = socket.drops;
                }
            }
            for socket in unix_sockets {
                if let Some(listener) = self.unix_listeners.get_mut(&(netns, socket.inode)) {
                    listener.queue = socket.queue;
                }
            }
        }
    }

    /// Which queues a refresh has to look at.
    pub fn queues_to_look_at(&self) -> QueuesWanted {
        let tcp = self.listeners.keys().map(|id| (id.netns, id.inode)).collect();
        QueuesWanted { known: self.known(), tcp }
    }

    fn known(&self) -> BTreeMap<NetnsId, Known> {
        let mut known: BTreeMap<NetnsId, Known> = BTreeMap::new();
        for id in self.listeners.keys() {
            known.entry(id.netns).or_default().families.insert(Family::of(id.addr));
        }
        for (netns, _) in self.unix_listeners.keys() {
            known.entry(*netns).or_default().unix = true;
        }
        known
    }
}

#[cfg(test)]
mod tests {
    use std::{
        net::{TcpListener, TcpStream},
        os::unix::net::{UnixListener, UnixStream},
    };

    use super::{super::tests::own, *};

    #[test]
    fn a_refresh_sees_the_queues_and_keeps_the_rest() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("queue.sock");
        let sockets = ["127.0.0.1:0", "[::1]:0"].map(|addr| TcpListener::bind(addr).unwrap());
        let _unix = UnixListener::bind(&path).unwrap();
        let (here, mut inventory) = own();
        let addrs = sockets.map(|socket| (socket.local_addr().unwrap(), socket));
        let before = addrs.each_ref().map(|(addr, _)| inventory.candidates(*addr, None)[0].clone());
        let _waiting = addrs.each_ref().map(|(addr, _)| TcpStream::connect(addr).unwrap());
        let _unix_waiting = UnixStream::connect(&path).unwrap();
        inventory.enter_queues(Queues::of(&here, &inventory.queues_to_look_at()).unwrap());
        for before in before {
            let after = inventory.get(&before.id).unwrap();
            assert_eq!((before.queue.len, after.queue.len), (0, 1));
            assert_eq!(after.owners, before.owners);
        }
        let path = path.to_str().unwrap();
        let unix = inventory.unix_listeners().find(|unix| unix.path == path).unwrap();
        assert_eq!(unix.queue.len, 1);
    }
}
