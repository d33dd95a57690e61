//! An ACK that answers a SYN cookie. kernel: net/ipv4/syncookies.c `cookie_v4_check(sk, skb)` and
//! net/ipv6/syncookies.c `cookie_v6_check(sk, skb)`: the cookie was good, but the accept queue is
//! full, or the child could not be made.

use aya_ebpf::{
    macros::{fentry, fexit},
    programs::{FEntryContext, FExitContext},
};
use floodmark_common::{EVENT_COOKIE_OVERFLOW, EVENT_OTHER_DROP};

use crate::{
    bracket::{Site, close, open},
    listener::record,
    segment::sender,
};

/// An ACK to an IPv4 listener may carry a cookie.
#[fentry(function = "cookie_v4_check")]
pub fn cookie_v4_entered(ctx: FEntryContext) -> i32 {
    entered(ctx.arg(0), ctx.arg(1))
}

/// It was checked.
#[fexit(function = "cookie_v4_check")]
pub fn cookie_v4_left(ctx: FExitContext) -> i32 {
    left(&ctx)
}

/// An ACK to an IPv6 listener may carry a cookie.
#[fentry(function = "cookie_v6_check")]
pub fn cookie_v6_entered(ctx: FEntryContext) -> i32 {
    entered(ctx.arg(0), ctx.arg(1))
}

/// It was checked.
#[fexit(function = "cookie_v6_check")]
pub fn cookie_v6_left(ctx: FExitContext) -> i32 {
    left(&ctx)
}

/// From 6.10 on the function itself frees a segment it drops, so the sender is noted beforehand.
#[inline(always)]
fn entered(sk: *const u8, skb: *const u8) -> i32 {
    if let Some(bracket) = open(Site::CookieCheck, sk) {
        bracket.peer = sender(skb);
    }
    0
}

#[inline(always)]
fn left(ctx: &FExitContext) -> i32 {
    let sk: *const u8 = ctx.arg(0);
    if let Some((growth, bracket)) = close(Site::CookieCheck, sk) {
        let kind = if growth.overflows > 0 { EVENT_COOKIE_OVERFLOW } else { EVENT_OTHER_DROP };
        record(ctx, sk, &bracket.peer, kind, |tally| {
            tally.cookie_overflow += growth.overflows;
            tally.other_drops += growth.drops.saturating_sub(growth.overflows);
        });
    }
    0
}
