//! What becomes of a pending request besides a segment of its client: SYN/ACKs sent again, the end
//! by its timer, the end by an ICMP error.

use aya_ebpf::{
    macros::{btf_tracepoint, fentry, kprobe},
    programs::{BtfTracePointContext, FEntryContext, ProbeContext},
};
use floodmark_common::Class;

use crate::{
    bracket::{Site, current},
    kernel::{
        Access, BIT_REQ_ACKED, BIT_REQ_NUM_TIMEOUT, OFF_CSK_DEFER_ACCEPT, OFF_CSK_SYN_RETRIES,
        OFF_NET_SYNACK_RETRIES, OFF_REQ_ACKED, OFF_REQ_LISTENER, OFF_REQ_NUM_TIMEOUT,
        OFF_REQ_SNT_ISN, OFF_SK_NET, OFF_SK_STATE, Open, Probed, Typed,
    },
    listener::record,
    segment::requester,
};

const TCP_LISTEN: u8 = 10;

/// kernel: net/ipv4/tcp_output.c `tcp_rtx_synack` -> `trace_tcp_retransmit_synack(sk, req)`, one for
/// one with the SYN/ACK part of TCPSynRetrans. The request's own listener is taken: for a Fast Open
/// request `sk` is its child.
#[btf_tracepoint(function = "tcp_retransmit_synack")]
pub fn synack_retransmitted(ctx: BtfTracePointContext) -> i32 {
    let req: *const u8 = ctx.arg(1);
    // Inside `tcp_check_req` it is the answer to a repeated SYN, else `reqsk_timer_handler` sends.
    let class = if current(Site::CheckReq).is_some() {
        Class::RetransmitClientRepeated
    } else {
        match standing(req) {
            Standing::Refused => Class::RetransmitOwnDrop,
            Standing::Deferred => Class::RetransmitDeferred,
            Standing::Silent => Class::RetransmitSilence,
        }
    };
    let peer = requester::<Typed>(req);
    // SAFETY: `req` is a program argument of type `struct request_sock *`. Its listener lies in a
    // union, behind which the verifier sees no type.
    let sk: *const u8 = unsafe { Probed::field(req, OFF_REQ_LISTENER) };
    record::<Probed>(sk, class, 1, &peer);
    0
}

/// kernel: net/ipv4/inet_connection_sock.c
/// `__inet_csk_reqsk_queue_drop(sk, req, from_timer)`.
#[fentry(function = "__inet_csk_reqsk_queue_drop")]
pub fn request_dropped(ctx: FEntryContext) -> i32 {
    if ctx.arg::<u64>(2) & 0xff == 0 {
        return 0;
    }
    let (sk, req): (*const u8, *const u8) = (ctx.arg(0), ctx.arg(1));
    let (class, peer) = (expiry::<Typed>(sk, req), requester::<Typed>(req));
    record::<Typed>(sk, class, 1, &peer);
    0
}

/// The same by kprobe.
#[kprobe]
pub fn request_dropped_kprobe(ctx: ProbeContext) -> u32 {
    if let (Some(sk), Some(req), Some(from_timer)) =
        (ctx.arg::<*const u8>(0), ctx.arg::<*const u8>(1), ctx.arg::<u64>(2))
        && from_timer & 0xff != 0
    {
        let (class, peer) = (expiry::<Probed>(sk, req), requester::<Probed>(req));
        record::<Probed>(sk, class, 1, &peer);
    }
    0
}

/// kernel: net/ipv4/tcp_ipv4.c `tcp_req_err(sk, seq, abort)`, where `sk` is the request: an ICMP
/// error about the SYN/ACK ends it with `tcp_listendrop`.
#[fentry(function = "tcp_req_err")]
pub fn request_refused(ctx: FEntryContext) -> i32 {
    icmp(ctx.arg(0), ctx.arg(1), ctx.arg(2));
    0
}

/// The same by kprobe.
#[kprobe]
pub fn request_refused_kprobe(ctx: ProbeContext) -> u32 {
    if let (Some(req), Some(seq), Some(abort)) = (ctx.arg(0), ctx.arg(1), ctx.arg(2)) {
        icmp(req, seq, abort);
    }
    0
}

/// By probing in both cases: the function takes the request for a `struct sock`.
#[inline(always)]
fn icmp(req: *const u8, seq: u64, abort: u64) {
    // SAFETY: `req` is a `struct tcp_request_sock *`.
    let isn: u32 = unsafe { Probed::field(req, OFF_REQ_SNT_ISN) };
    if abort & 0xff == 0 || seq as u32 != isn {
        return;
    }
    // SAFETY: as above.
    let sk: *const u8 = unsafe { Probed::field(req, OFF_REQ_LISTENER) };
    let peer = requester::<Probed>(req);
    record::<Probed>(sk, Class::IcmpRequestKilled, 1, &peer);
}

/// kernel: net/ipv4/inet_connection_sock.c `inet_child_forget(sk, req, child)`: the listener has
/// closed, and with it goes a connection that nobody had accepted.
#[fentry(function = "inet_child_forget")]
pub fn child_forgotten(ctx: FEntryContext) -> i32 {
    let (sk, req): (*const u8, *const u8) = (ctx.arg(0), ctx.arg(1));
    let peer = requester::<Typed>(req);
    record::<Typed>(sk, Class::UnacceptedListenerClosed, 1, &peer);
    0
}

/// The same by kprobe.
#[kprobe]
pub fn child_forgotten_kprobe(ctx: ProbeContext) -> u32 {
    if let (Some(sk), Some(req)) = (ctx.arg::<*const u8>(0), ctx.arg::<*const u8>(1)) {
        let peer = requester::<Probed>(req);
        record::<Probed>(sk, Class::UnacceptedListenerClosed, 1, &peer);
    }
    0
}

/// How far a pending request has come.
#[derive(PartialEq, Eq)]
enum Standing {
    /// Its final ACK came and was dropped by this host.
    Refused,
    /// Its bare ACK came and the application wants data first (TCP_DEFER_ACCEPT).
    Deferred,
    /// Nothing came.
    Silent,
}

/// `inet_rsk(req)->acked` is set by `tcp_check_req` when it drops the final ACK (label
/// `listen_overflow`) and when it defers a bare one. Bit fields and what lies beyond the declared
/// type of an argument are probed.
#[inline(always)]
fn standing(req: *const u8) -> Standing {
    // SAFETY: `req` is a `struct inet_request_sock *`, its listener a `struct inet_connection_sock *`.
    let (acked, deferring) = unsafe {
        let bits: u8 = Probed::field(req, OFF_REQ_ACKED);
        let listener: *const u8 = Probed::field(req, OFF_REQ_LISTENER);
        (bits >> BIT_REQ_ACKED.load() & 1, Probed::field::<u8>(listener, OFF_CSK_DEFER_ACCEPT))
    };
    match (acked, deferring) {
        (0, _) => Standing::Silent,
        (_, 0) => Standing::Refused,
        _ => Standing::Deferred,
    }
}

/// Why the timer gave a request up: `reqsk_timer_handler` does after as many SYN/ACKs as the
/// listener or its namespace allows, earlier where the SYN queue fills up, and at once where the
/// listener has closed and no other takes the request over.
#[inline(always)]
fn expiry<A: Access>(sk: *const u8, req: *const u8) -> Class {
    // SAFETY: `sk` is a `struct sock *`.
    if unsafe { A::field::<u8>(sk, OFF_SK_STATE) } != TCP_LISTEN {
        return Class::ExpiredListenerClosed;
    }
    if standing(req) == Standing::Refused {
        return Class::ExpiredOwnDrop;
    }
    // SAFETY: `sk` is a `struct inet_connection_sock *`, `req` a `struct request_sock *`.
    let (bits, own, common) = unsafe {
        let net: *const u8 = A::field(sk, OFF_SK_NET);
        (
            Probed::field::<u8>(req, OFF_REQ_NUM_TIMEOUT),
            Probed::field::<u8>(sk, OFF_CSK_SYN_RETRIES),
            A::field::<u8>(net, OFF_NET_SYNACK_RETRIES),
        )
    };
    let most = if own != 0 { own } else { common };
    // The timeouts stand in the byte's upper bits, above `syncookie`.
    if bits >> BIT_REQ_NUM_TIMEOUT.load() >= most {
        Class::ExpiredSilence
    } else {
        Class::ExpiredPruned
    }
}
