//! A SYN reaches a listener. kernel: net/ipv4/tcp_input.c
//! `tcp_conn_request(rsk_ops, af_ops, sk, skb)`: the accept queue is full (ListenOverflows), the
//! SYN queue is full without cookies (TCPReqQFullDrop), the last quarter is kept for proven peers,
//! no memory, no route, refused by an LSM; each of them also ListenDrops. Or it is answered, with a
//! cookie (SyncookiesSent) or without.

use aya_ebpf::{
    macros::{fentry, fexit, kprobe, kretprobe},
    programs::{FEntryContext, FExitContext, ProbeContext, RetProbeContext},
};
use floodmark_common::Class;

use crate::{
    bracket::{Bracket, Failure, Listen, Site, close, close_any, open_for_syn},
    kernel::{Access, Probed, Typed},
    listener::{count, record},
    segment::sender,
};

/// A SYN is about to be handled.
#[fentry(function = "tcp_conn_request")]
pub fn syn_entered(ctx: FEntryContext) -> i32 {
    open_for_syn::<Typed>(ctx.arg(2), ctx.arg(3));
    0
}

/// The SYN was handled: answered, or dropped and counted. It is freed later, by
/// `tcp_rcv_state_process`, so its headers can still be read.
#[fexit(function = "tcp_conn_request")]
pub fn syn_left(ctx: FExitContext) -> i32 {
    let sk: *const u8 = ctx.arg(2);
    if let Some(bracket) = close(Site::ConnRequest, sk) {
        settle::<Typed>(bracket, sk, ctx.arg(3));
    }
    0
}

/// The same by kprobe.
#[kprobe]
pub fn syn_entered_kprobe(ctx: ProbeContext) -> u32 {
    if let (Some(sk), Some(skb)) = (ctx.arg(2), ctx.arg::<u64>(3))
        && let Some(bracket) = open_for_syn::<Probed>(sk, skb)
    {
        bracket.skb = skb;
    }
    0
}

/// The same by kretprobe.
#[kretprobe]
pub fn syn_left_kprobe(_: RetProbeContext) -> u32 {
    if let Some((sk, bracket)) = close_any(Site::ConnRequest) {
        let skb = bracket.skb as *const u8;
        settle::<Probed>(bracket, sk, skb);
    }
    0
}

/// Tells from the counters what became of the SYN.
#[inline(always)]
fn settle<A: Access>(bracket: &mut Bracket, sk: *const u8, skb: *const u8) {
    // One after the other: a tuple of options copies what a None leaves unset, which verifiers
    // before Linux 6.3 refuse.
    let Some(listen) = bracket.listen::<A>(sk) else { return };
    // A SYN that was dropped was not answered with a cookie.
    let cookies = if listen.drops == 0 { bracket.cookies_sent() } else { Some(0) };
    let Some(cookies) = cookies else { return };
    let Some(fast_open_failed) = bracket.fast_open_failed() else { return };
    // A SYN that was simply answered has moved none of them, and then no other either.
    if listen.drops == 0 && listen.overflows == 0 && cookies == 0 && fast_open_failed == 0 {
        return;
    }
    let Some(full) = bracket.req_q_full() else { return };
    if full.do_cookies > 0 {
        count::<A>(sk, Class::SynCookieWanted, full.do_cookies);
    }
    if cookies > 0 {
        count::<A>(sk, Class::SynCookieSent, cookies);
    }
    if listen.drops == 0 && fast_open_failed > 0 {
        count::<A>(sk, Class::FastOpenCookieInvalid, fast_open_failed);
    }
    if listen.drops > 0 {
        let class = cause(bracket, &listen, full.drop, fast_open_failed > 0);
        let peer = sender::<A>(skb);
        record::<A>(sk, class, listen.drops, &peer);
    }
}

/// Why a SYN was dropped. `tcp_conn_request` drops it at most once.
#[inline(always)]
fn cause(bracket: &Bracket, listen: &Listen, queue_full: u64, fast_open: bool) -> Class {
    // Whatever went wrong with a Fast Open child, the SYN goes on to be answered as any other.
    match (listen.overflows > 0, fast_open) {
        (true, true) => Class::FastOpenQueueFull,
        (true, false) => Class::SynAcceptQueueFull,
        (false, true) => Class::FastOpenChildFailed,
        (false, false) if queue_full > 0 => Class::SynQueueFull,
        (false, false) if bracket.failed(Failure::Unproven) => Class::SynLastQuarter,
        (false, false) if bracket.failed(Failure::NoMemory) => Class::SynNoMemory,
        (false, false) if bracket.failed(Failure::Policy) => Class::SynPolicy,
        (false, false) if bracket.failed(Failure::NoRoute) => Class::SynNoRoute,
        (false, false) => Class::SynOther,
    }
}
