//! The sender of a TCP segment, from its headers.

use floodmark_common::{AF_INET, AF_INET6, RawAddr};

use crate::kernel::{
    Access, OFF_SK_DADDR, OFF_SK_DPORT, OFF_SK_FAMILY, OFF_SK_V6_DADDR, OFF_SKB_HEAD,
    OFF_SKB_NETWORK_HEADER, OFF_SKB_PROTOCOL, OFF_SKB_TRANSPORT_HEADER, Open, TYPE_IPHDR,
    TYPE_IPV6HDR, TYPE_TCPHDR, read_row,
};

/// The client's side of a handshake. Aligned, so that the address is read in two loads.
#[repr(C, align(8))]
#[derive(Clone, Copy, Default)]
pub struct Peer {
    pub addr: RawAddr,
    pub port: u16,
    pub family: u16,
    /// No padding: verifiers before Linux 6.3 refuse to copy bytes that nobody wrote.
    pub reserved: u32,
}

/// Offset of `saddr` in `struct iphdr` (RFC 791) and `struct ipv6hdr` (RFC 8200).
const IPV4_SADDR: u64 = 12;
const IPV6_SADDR: u64 = 8;
/// `ETH_P_IP` as it stands in `skb->protocol`, which is in network byte order.
const ETH_P_IP_BE: u16 = 0x0800_u16.to_be();

/// The sender of `skb`. The family is the packet's, not the socket's: a dual-stack listener is
/// AF_INET6 and takes IPv4 packets.
#[inline(always)]
pub fn sender<A: Access>(skb: *const u8) -> Peer {
    // SAFETY: `skb` is a `struct sk_buff *`.
    let (head, network, transport, protocol) = unsafe {
        (
            A::field::<u64>(skb, OFF_SKB_HEAD),
            A::field::<u16>(skb, OFF_SKB_NETWORK_HEADER),
            A::field::<u16>(skb, OFF_SKB_TRANSPORT_HEADER),
            A::field::<u16>(skb, OFF_SKB_PROTOCOL),
        )
    };
    let network = head + u64::from(network);
    let [port] = read_row(TYPE_TCPHDR, head + u64::from(transport), 0).unwrap_or([0_u16]);
    let mut peer = Peer { port: u16::from_be(port), ..Peer::default() };
    if protocol == ETH_P_IP_BE {
        peer.family = AF_INET;
        [peer.addr[0]] = read_row(TYPE_IPHDR, network, IPV4_SADDR).unwrap_or([0]);
    } else {
        peer.family = AF_INET6;
        peer.addr = read_row(TYPE_IPV6HDR, network, IPV6_SADDR).unwrap_or([0; 4]);
    }
    peer
}

/// Whether this is an IPv4-mapped IPv6 address (`::ffff:0:0/96`, RFC 4291).
#[inline(always)]
pub fn is_mapped(addr: &RawAddr) -> bool {
    addr[0] | addr[1] == 0 && addr[2] == 0xffff_u32.to_be()
}

/// The client of a request. `struct request_sock` begins with the same `sock_common` as a socket.
#[inline(always)]
pub fn requester<A: Access>(req: *const u8) -> Peer {
    // SAFETY: `req` is a `struct request_sock *`.
    unsafe {
        let mut peer = Peer {
            port: u16::from_be(A::field::<u16>(req, OFF_SK_DPORT)),
            family: A::field::<u16>(req, OFF_SK_FAMILY),
            ..Peer::default()
        };
        if peer.family == AF_INET {
            peer.addr[0] = A::field(req, OFF_SK_DADDR);
        } else {
            peer.addr = in6_addr::<A>(req, OFF_SK_V6_DADDR);
        }
        peer
    }
}

/// Reads a `struct in6_addr` member as four words, the widest unit the verifier lets pass.
///
/// # Safety
///
/// As for [`Access::field`].
#[inline(always)]
pub unsafe fn in6_addr<A: Access>(base: *const u8, offset: impl Open) -> RawAddr {
    // SAFETY: the caller's promise.
    let word = |i: usize| unsafe { A::field::<u32>(base.wrapping_add(4 * i), offset) };
    [word(0), word(1), word(2), word(3)]
}
