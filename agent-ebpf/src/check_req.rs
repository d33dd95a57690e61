//! A segment reaches a pending request, most often the final ACK. kernel: net/ipv4/tcp_minisocks.c
//! `tcp_check_req(sk, skb, req, fastopen, req_stolen, …)`: the accept queue is full
//! (ListenOverflows and ListenDrops in `tcp_v4_syn_recv_sock`), or the child could not be made
//! (ListenDrops alone).

use aya_ebpf::{
    macros::{fentry, fexit},
    programs::{FEntryContext, FExitContext},
};
use floodmark_common::{EVENT_ACK_OVERFLOW, EVENT_OTHER_DROP};

use crate::{
    bracket::{Site, close, open},
    listener::{aborts_on_overflow, record},
    segment::sender,
};

/// A segment for a pending request is about to be checked. Calls for a Fast Open child
/// (`fastopen` set) may come from process context and concern no queue: left out.
#[fentry(function = "tcp_check_req")]
pub fn ack_entered(ctx: FEntryContext) -> i32 {
    if ctx.arg::<u64>(3) & 0xff == 0 {
        open(Site::CheckReq, ctx.arg(0));
    }
    0
}

/// The segment was checked. Where something was dropped the segment is still there: the caller
/// discards it.
#[fexit(function = "tcp_check_req")]
pub fn ack_left(ctx: FExitContext) -> i32 {
    if ctx.arg::<u64>(3) & 0xff != 0 {
        return 0;
    }
    let sk: *const u8 = ctx.arg(0);
    if let Some((growth, _)) = close(Site::CheckReq, sk) {
        let kind = if growth.overflows > 0 { EVENT_ACK_OVERFLOW } else { EVENT_OTHER_DROP };
        let reset = growth.overflows > 0 && aborts_on_overflow(sk);
        record(&ctx, sk, &sender(ctx.arg(1)), kind, |tally| {
            tally.ack_overflow += growth.overflows;
            tally.other_drops += growth.drops.saturating_sub(growth.overflows);
            tally.resets += u64::from(reset);
        });
    }
    0
}
