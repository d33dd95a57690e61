//! A SYN that is not meant for one host. kernel: net/ipv4/tcp_ipv4.c `tcp_v4_conn_request(sk, skb)`,
//! net/ipv6/tcp_ipv6.c `tcp_v6_conn_request(sk, skb)`, and their twins for MPTCP in
//! net/mptcp/subflow.c, drop one that came to a broadcast, multicast or anycast address (ListenDrops)
//! and ask `tcp_conn_request` about every other. They run for each SYN, so the agent attaches these
//! programs only while something is dropped that nothing else explains.

use aya_ebpf::{macros::fexit, programs::FExitContext};
use floodmark_common::{AF_INET, Class};

use crate::{
    bracket::was_asked,
    kernel::Typed,
    listener::record,
    segment::{is_mapped, sender},
};

/// A SYN by IPv4 was handled.
#[fexit(function = "tcp_v4_conn_request")]
pub fn syn_taken(ctx: FExitContext) -> i32 {
    taken(ctx.arg(0), ctx.arg(1));
    0
}

/// The same for MPTCP.
#[fexit(function = "subflow_v4_conn_request")]
pub fn subflow_syn_taken(ctx: FExitContext) -> i32 {
    taken(ctx.arg(0), ctx.arg(1));
    0
}

/// A SYN to an IPv6 listener was handled.
#[fexit(function = "tcp_v6_conn_request")]
pub fn syn6_taken(ctx: FExitContext) -> i32 {
    taken6(ctx.arg(0), ctx.arg(1));
    0
}

/// The same for MPTCP.
#[fexit(function = "subflow_v6_conn_request")]
pub fn subflow_syn6_taken(ctx: FExitContext) -> i32 {
    taken6(ctx.arg(0), ctx.arg(1));
    0
}

#[inline(always)]
fn taken(sk: *const u8, skb: *const u8) {
    if !was_asked(skb) {
        record::<Typed>(sk, Class::SynNotUnicast, 1, &sender::<Typed>(skb));
    }
}

/// A dual-stack listener's SYN by IPv4 is handed to the other function, which has told of it. One from
/// an IPv4-mapped address is none at all (Ip6InHdrErrors).
#[inline(always)]
fn taken6(sk: *const u8, skb: *const u8) {
    let peer = sender::<Typed>(skb);
    if peer.family != AF_INET && !was_asked(skb) && !is_mapped(&peer.addr) {
        record::<Typed>(sk, Class::SynNotUnicast, 1, &peer);
    }
}
