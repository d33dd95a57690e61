//! A SYN that is not meant for one host. kernel: net/ipv4/tcp_ipv4.c `tcp_v4_conn_request(sk, skb)`,
//! net/ipv6/tcp_ipv6.c `tcp_v6_conn_request(sk, skb)`, and their twins for MPTCP in
//! net/mptcp/subflow.c, drop one that came to a broadcast, multicast or anycast address (ListenDrops)
//! and ask `tcp_conn_request` about every other. They run for each SYN, so the agent attaches these
//! programs only while something is dropped that nothing else explains.

use aya_ebpf::{
    macros::{fexit, kprobe, kretprobe, map},
    maps::PerCpuArray,
    programs::{FExitContext, ProbeContext, RetProbeContext},
};
use floodmark_common::{AF_INET, Class};

use crate::{
    bracket::was_asked,
    kernel::{Access, Probed, Typed},
    listener::record,
    segment::{Peer, is_mapped, sender},
};

/// The SYN that one of the functions was called with on this CPU, for kretprobes, which do not have it.
#[repr(C)]
struct Offered {
    sk: u64,
    skb: u64,
}

#[map]
static OFFERED: PerCpuArray<Offered> = PerCpuArray::with_max_entries(1, 0);

/// A SYN by IPv4 was handled.
#[fexit(function = "tcp_v4_conn_request")]
pub fn syn_taken(ctx: FExitContext) -> i32 {
    taken::<Typed>(ctx.arg(0), ctx.arg(1));
    0
}

/// The same for MPTCP.
#[fexit(function = "subflow_v4_conn_request")]
pub fn subflow_syn_taken(ctx: FExitContext) -> i32 {
    taken::<Typed>(ctx.arg(0), ctx.arg(1));
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

/// All of them by kprobe.
#[kprobe]
pub fn syn_offered_kprobe(ctx: ProbeContext) -> u32 {
    if let (Some(sk), Some(skb), Some(offered)) = (ctx.arg(0), ctx.arg(1), OFFERED.get_ptr_mut(0)) {
        // SAFETY: this CPU's slot, written in softirq alone.
        unsafe { *offered = Offered { sk, skb } };
    }
    0
}

/// All of them by kretprobe. Of a SYN by IPv4 to a dual-stack listener the inner function tells.
#[kretprobe]
pub fn syn_taken_kprobe(_: RetProbeContext) -> u32 {
    let Some(offered) = OFFERED.get_ptr_mut(0) else { return 0 };
    // SAFETY: this CPU's slot, written in softirq alone.
    let (sk, skb) = unsafe {
        let Offered { sk, skb } = *offered;
        (*offered).sk = 0;
        (sk, skb)
    };
    if sk != 0 {
        taken::<Probed>(sk as *const u8, skb as *const u8);
    }
    0
}

#[inline(always)]
fn taken<A: Access>(sk: *const u8, skb: *const u8) {
    if !was_asked(skb) {
        tell::<A>(sk, &sender::<A>(skb));
    }
}

/// A dual-stack listener's SYN by IPv4 is handed to the other function, which has told of it.
#[inline(always)]
fn taken6(sk: *const u8, skb: *const u8) {
    let peer = sender::<Typed>(skb);
    if peer.family != AF_INET && !was_asked(skb) {
        tell::<Typed>(sk, &peer);
    }
}

/// A SYN from an IPv4-mapped address is none at all (Ip6InHdrErrors).
#[inline(always)]
fn tell<A: Access>(sk: *const u8, peer: &Peer) {
    if peer.family == AF_INET || !is_mapped(&peer.addr) {
        record::<A>(sk, Class::SynNotUnicast, 1, peer);
    }
}
