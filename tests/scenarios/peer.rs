//! A crafted client on the far side of the TUN device: it sends what it is told and nothing else.

use std::{
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
};

use anyhow::{Context, Result, ensure};
use etherparse::{
    Icmpv4Type, Icmpv6Type, IpHeaders, IpNumber, IpSlice, PacketBuilder, PacketBuilderStep,
    TcpOptionElement, TcpSlice, icmpv4, icmpv6,
};

use crate::tun::Tun;

const WINDOW: u16 = 64_000;
const TTL: u8 = 64;
const FIRST_PORT: u16 = 20_000;

/// A client and what it knows of its handshake.
pub struct Peer<'a> {
    tun: &'a Tun,
    from: SocketAddr,
    to: SocketAddr,
    /// Its first sequence number.
    isn: u32,
    /// The listener's first sequence number, known from its SYN/ACK.
    theirs: u32,
}

/// A TCP segment that came for a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    pub syn: bool,
    pub ack: bool,
    pub rst: bool,
    sequence: u32,
}

impl<'a> Peer<'a> {
    /// A client of the listener at `to`; each number is an address of its own.
    pub fn new(tun: &'a Tun, number: u16, to: SocketAddr) -> Self {
        Self::from(tun, Tun::peer(number, to.ip()), to)
    }

    /// A client with any address.
    pub fn from(tun: &'a Tun, address: IpAddr, to: SocketAddr) -> Self {
        Self { tun, from: SocketAddr::new(address, FIRST_PORT), to, isn: 0x1000_0000, theirs: 0 }
    }

    /// Clients with these numbers.
    pub fn several(tun: &'a Tun, numbers: RangeInclusive<u16>, to: SocketAddr) -> Vec<Self> {
        numbers.map(|number| Self::new(tun, number, to)).collect()
    }

    /// Clients in the network that [`Tun::open_with_unreachable`] knows no way to.
    pub fn unreachables(tun: &'a Tun, count: u8, to: SocketAddr) -> Vec<Self> {
        let addresses = (1..=count).map(|number| Tun::unreachable_peer(number, to.ip()));
        addresses.map(|address| Self::from(tun, address, to)).collect()
    }

    /// Several that have each had a SYN/ACK.
    pub fn half_open(
        tun: &'a Tun,
        numbers: RangeInclusive<u16>,
        to: SocketAddr,
    ) -> Result<Vec<Self>> {
        let mut peers = Self::several(tun, numbers, to);
        for peer in &mut peers {
            peer.knock()?;
        }
        Ok(peers)
    }

    /// Its own address.
    pub fn address(&self) -> SocketAddr {
        self.from
    }

    /// Sends its SYN.
    pub fn syn(&self) -> Result<()> {
        self.syn_with(&[])
    }

    /// Sends its SYN with data in it (RFC 7413).
    pub fn syn_with(&self, data: &[u8]) -> Result<()> {
        let options = [TcpOptionElement::MaximumSegmentSize(1460)];
        let segment = ip(self.from.ip(), self.to.ip())
            .tcp(self.from.port(), self.to.port(), self.isn, WINDOW)
            .syn()
            .options(&options)?;
        let mut packet = Vec::new();
        segment.write(&mut packet, data)?;
        self.tun.send(&packet)
    }

    /// Sends its SYN with data and a Fast Open cookie (RFC 7413, kind 34) that nobody has given it.
    pub fn syn_with_cookie(&self, data: &[u8]) -> Result<()> {
        let mut options = vec![2, 4, 5, 180, 34, 10];
        options.extend([0x5a; 8]);
        options.extend([1, 1]);
        let segment = ip(self.from.ip(), self.to.ip())
            .tcp(self.from.port(), self.to.port(), self.isn, WINDOW)
            .syn()
            .options_raw(&options)?;
        let mut packet = Vec::new();
        segment.write(&mut packet, data)?;
        self.tun.send(&packet)
    }

    /// Sends its SYN and keeps what the SYN/ACK says.
    pub fn knock(&mut self) -> Result<()> {
        self.syn()?;
        let answer = self.answer()?.with_context(|| format!("{}: no SYN/ACK", self.from))?;
        ensure!(answer.syn && answer.ack, "{}: {answer:?} to a SYN", self.from);
        self.theirs = answer.sequence;
        Ok(())
    }

    /// Sends the ACK that completes the handshake.
    pub fn ack(&self) -> Result<()> {
        self.acknowledge(self.theirs.wrapping_add(1))
    }

    /// Sends an ACK of something that was never sent.
    pub fn ack_of_nothing(&self) -> Result<()> {
        self.acknowledge(self.theirs.wrapping_add(0x0100_0000))
    }

    /// Resets its handshake.
    pub fn rst(&self) -> Result<()> {
        let segment = ip(self.from.ip(), self.to.ip())
            .tcp(self.from.port(), self.to.port(), self.isn.wrapping_add(1), WINDOW)
            .rst();
        let mut packet = Vec::new();
        segment.write(&mut packet, &[])?;
        self.tun.send(&packet)
    }

    /// An ICMP error about the listener's SYN/ACK, of a kind that ends a request (`tcp_v4_err`,
    /// `tcp_v6_err`).
    pub fn unreachable(&self) -> Result<()> {
        let mut refused = Vec::new();
        ip(self.to.ip(), self.from.ip())
            .tcp(self.to.port(), self.from.port(), self.theirs, WINDOW)
            .syn()
            .ack(self.isn.wrapping_add(1))
            .write(&mut refused, &[])?;
        let mut packet = Vec::new();
        let header = ip(self.from.ip(), self.to.ip());
        if self.to.is_ipv4() {
            let host = icmpv4::DestUnreachableHeader::Host;
            let kind = Icmpv4Type::DestinationUnreachable(host);
            header.icmpv4(kind).write(&mut packet, &refused)?;
        } else {
            let port = icmpv6::DestUnreachableCode::Port;
            let kind = Icmpv6Type::DestinationUnreachable(port);
            header.icmpv6(kind).write(&mut packet, &refused)?;
        }
        self.tun.send(&packet)
    }

    /// The next segment that comes for this peer; what comes for others is thrown away. `None` when
    /// none comes.
    pub fn answer(&self) -> Result<Option<Answer>> {
        while let Some(packet) = self.tun.receive()? {
            if let Some(answer) = self.read(&packet) {
                return Ok(Some(answer));
            }
        }
        Ok(None)
    }

    fn acknowledge(&self, number: u32) -> Result<()> {
        let segment = ip(self.from.ip(), self.to.ip())
            .tcp(self.from.port(), self.to.port(), self.isn.wrapping_add(1), WINDOW)
            .ack(number);
        let mut packet = Vec::new();
        segment.write(&mut packet, &[])?;
        self.tun.send(&packet)
    }

    fn read(&self, packet: &[u8]) -> Option<Answer> {
        let packet = IpSlice::from_slice(packet).ok()?;
        let payload = packet.payload();
        if payload.ip_number != IpNumber::TCP {
            return None;
        }
        let tcp = TcpSlice::from_slice(payload.payload).ok()?;
        let to = SocketAddr::new(packet.destination_addr(), tcp.destination_port());
        (to == self.from).then(|| Answer {
            syn: tcp.syn(),
            ack: tcp.ack(),
            rst: tcp.rst(),
            sequence: tcp.sequence_number(),
        })
    }
}

fn ip(from: IpAddr, to: IpAddr) -> PacketBuilderStep<IpHeaders> {
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => PacketBuilder::ipv4(from.octets(), to.octets(), TTL),
        (from, to) => PacketBuilder::ipv6(v6(from), v6(to), TTL),
    }
}

fn v6(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}
