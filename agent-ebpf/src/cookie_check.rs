//! An ACK that may answer a SYN cookie. kernel: net/ipv4/syncookies.c `cookie_v4_check(sk, skb)` and
//! net/ipv6/syncookies.c `cookie_v6_check(sk, skb)`: the cookie is good (SyncookiesRecv) or bad
//! (SyncookiesFailed); after a good one the accept queue may be full, or the child not be made.

use aya_ebpf::{
    macros::{fentry, fexit, kprobe, kretprobe},
    programs::{FEntryContext, FExitContext, ProbeContext, RetProbeContext},
};
use floodmark_common::Class;

use crate::{
    bracket::{Bracket, Failure, Site, close, close_any, open},
    kernel::{Access, Probed, Typed},
    listener::{count, record},
    segment::sender,
};

/// An ACK to an IPv4 listener may carry a cookie.
#[fentry(function = "cookie_v4_check")]
pub fn cookie_v4_entered(ctx: FEntryContext) -> i32 {
    entered::<Typed>(ctx.arg(0), ctx.arg(1));
    0
}

/// It was checked.
#[fexit(function = "cookie_v4_check")]
pub fn cookie_v4_left(ctx: FExitContext) -> i32 {
    left(&ctx);
    0
}

/// An ACK to an IPv6 listener may carry a cookie.
#[fentry(function = "cookie_v6_check")]
pub fn cookie_v6_entered(ctx: FEntryContext) -> i32 {
    entered::<Typed>(ctx.arg(0), ctx.arg(1));
    0
}

/// It was checked.
#[fexit(function = "cookie_v6_check")]
pub fn cookie_v6_left(ctx: FExitContext) -> i32 {
    left(&ctx);
    0
}

/// The same by kprobe, for both functions.
#[kprobe]
pub fn cookie_entered_kprobe(ctx: ProbeContext) -> u32 {
    if let (Some(sk), Some(skb)) = (ctx.arg(0), ctx.arg(1)) {
        entered::<Probed>(sk, skb);
    }
    0
}

/// The same by kretprobe, for both functions.
#[kretprobe]
pub fn cookie_left_kprobe(_: RetProbeContext) -> u32 {
    if let Some((sk, bracket)) = close_any(Site::CookieCheck) {
        settle::<Probed>(bracket, sk);
    }
    0
}

/// From 6.10 on the function itself frees a segment it drops, so the sender is noted beforehand.
#[inline(always)]
fn entered<A: Access>(sk: *const u8, skb: *const u8) {
    if let Some(bracket) = open::<A>(Site::CookieCheck, sk) {
        bracket.peer = sender::<A>(skb);
    }
}

#[inline(always)]
fn left(ctx: &FExitContext) {
    let sk: *const u8 = ctx.arg(0);
    if let Some(bracket) = close(Site::CookieCheck, sk) {
        settle::<Typed>(bracket, sk);
    }
}

/// Tells from the counters what became of the ACK.
#[inline(always)]
fn settle<A: Access>(bracket: &mut Bracket, sk: *const u8) {
    let Some(listen) = bracket.listen::<A>(sk) else { return };
    let Some(cookies) = bracket.cookies() else { return };
    if cookies.received > 0 {
        count::<A>(sk, Class::CookieReceived, cookies.received);
    }
    if cookies.failed > 0 {
        count::<A>(sk, Class::CookieFailed, cookies.failed);
    }
    if listen.drops > 0 {
        let class = if listen.overflows > 0 {
            Class::CookieAcceptQueueFull
        } else if bracket.failed(Failure::PortInheritance) {
            Class::CookiePortInheritance
        } else {
            Class::CookieChildFailed
        };
        let peer = bracket.peer;
        record::<A>(sk, class, listen.drops, &peer);
    }
}
