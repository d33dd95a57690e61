//! Why a bracketed function failed, where its counters do not tell: what failed inside it.
//!
//! `tcp_peer_is_proven` is asked only under pressure. The others run for each SYN or each connection,
//! so the agent attaches them only while something is dropped that nothing else explains.

use aya_ebpf::{macros::fexit, programs::FExitContext};

use crate::bracket::{Failure, note};

/// kernel: net/ipv4/tcp_metrics.c `tcp_peer_is_proven(req, dst)`, asked only while the SYN queue
/// fills up and cookies are off; the answer "no" in the last quarter is a drop.
#[fexit(function = "tcp_peer_is_proven")]
pub fn peer_judged(ctx: FExitContext) -> i32 {
    if ctx.arg::<u64>(2) & 0xff == 0 {
        note(Failure::Unproven);
    }
    0
}

/// kernel: net/ipv4/tcp_input.c `inet_reqsk_alloc(ops, sk_listener, attach_listener)`; NULL where the
/// slab has no room.
#[fexit(function = "inet_reqsk_alloc")]
pub fn request_allocated(ctx: FExitContext) -> i32 {
    if ctx.arg::<u64>(3) == 0 {
        note(Failure::NoMemory);
    }
    0
}

/// kernel: security/security.c `security_inet_conn_request(sk, skb, req)`; what is not 0 refuses.
#[fexit(function = "security_inet_conn_request")]
pub fn request_permitted(ctx: FExitContext) -> i32 {
    if ctx.arg::<u64>(3) as i32 != 0 {
        note(Failure::Policy);
    }
    0
}

/// kernel: net/ipv4/inet_connection_sock.c `inet_csk_route_req(sk, fl4, req)`.
#[fexit(function = "inet_csk_route_req")]
pub fn request_routed(ctx: FExitContext) -> i32 {
    if ctx.arg::<u64>(3) == 0 {
        note(Failure::NoRoute);
    }
    0
}

/// kernel: net/ipv6/tcp_ipv6.c `tcp_v6_route_req(sk, skb, fl, req, tw_isn)`, Linux 6.11 and later; NULL
/// for what an LSM refused as well. `inet6_csk_route_req` that it calls is inlined into it on kernels
/// of late.
#[fexit(function = "tcp_v6_route_req")]
pub fn request_routed6(ctx: FExitContext) -> i32 {
    routed6(ctx.arg(5));
    0
}

/// The same without `tw_isn`, Linux 5.11 and later.
#[fexit(function = "tcp_v6_route_req")]
pub fn request_routed6_4(ctx: FExitContext) -> i32 {
    routed6(ctx.arg(4));
    0
}

/// The same without `skb` either.
#[fexit(function = "tcp_v6_route_req")]
pub fn request_routed6_3(ctx: FExitContext) -> i32 {
    routed6(ctx.arg(3));
    0
}

#[inline(always)]
fn routed6(route: u64) {
    if route == 0 {
        note(Failure::NoRoute);
    }
}

/// kernel: net/ipv4/inet_hashtables.c `__inet_inherit_port(sk, child)`; below 0 where the port's
/// bucket is gone with the listener, or no memory is left for another.
#[fexit(function = "__inet_inherit_port")]
pub fn port_inherited(ctx: FExitContext) -> i32 {
    if (ctx.arg::<u64>(2) as i32) < 0 {
        note(Failure::PortInheritance);
    }
    0
}
