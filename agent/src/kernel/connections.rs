//! The connections of a namespace, counted as netlink lists them: pending handshakes by listener's
//! address, ephemeral ports in use by destination.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use anyhow::Result;
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetResponse, StateFlags};

use super::sock_diag::{Family, each_inet};

/// From where to where: ports are unique per local address and destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Path {
    /// The local address.
    pub from: IpAddr,
    /// The destination.
    pub to: SocketAddr,
}

/// Counts of one namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Connections {
    /// Handshakes that wait for their final ACK, by local address.
    pub syn_queues: BTreeMap<SocketAddr, u32>,
    /// Local ports in use out of a range, by where they lead; TIME_WAIT holds its port too.
    pub ports: BTreeMap<Path, u32>,
}

const SYN_RECV: u8 = 3;

/// Counts the connections of the calling thread's namespace. `range` is that of the ephemeral ports.
/// Takes time in proportion to the host's connections: the kernel walks its whole table.
///
/// # Errors
///
/// As for [`listeners_here`](super::sock_diag::listeners_here).
pub fn count_here(range: Option<(u16, u16)>) -> Result<Connections> {
    let mut counts = Connections::default();
    let states = StateFlags::all().difference(StateFlags::LISTEN | StateFlags::CLOSE);
    each_inet(&Family::BOTH, states, ExtensionFlags::empty(), |socket| counts.add(socket, range))?;
    Ok(counts)
}

impl Connections {
    fn add(&mut self, socket: &InetResponse, range: Option<(u16, u16)>) {
        let id = &socket.header.socket_id;
        let from = id.source_address.to_canonical();
        if socket.header.state == SYN_RECV {
            *self.syn_queues.entry(SocketAddr::new(from, id.source_port)).or_default() += 1;
        } else if range.is_some_and(|(low, high)| (low..=high).contains(&id.source_port)) {
            let to = SocketAddr::new(id.destination_address.to_canonical(), id.destination_port);
            *self.ports.entry(Path { from, to }).or_default() += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use crate::kernel::settings::read_here;

    #[test]
    fn counts_the_ports_towards_a_destination() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = listener.local_addr().unwrap();
        let _clients: Vec<_> = (0..3).map(|_| TcpStream::connect(to).unwrap()).collect();
        let counts = count_here(read_here().port_range).unwrap();
        assert_eq!(counts.ports[&Path { from: to.ip(), to }], 3);
        assert!(counts.syn_queues.is_empty() || !counts.syn_queues.contains_key(&to));
    }
}
