//! Lower rung for the final ACK: the segment was freed with reason TCP_LISTEN_OVERFLOW (Linux 6.15
//! and later). kernel: net/core/skbuff.c `trace_kfree_skb(skb, location, reason, rx_sk)`.
//!
//! `tcp_check_req` sets that reason whenever no child came about, most often because the accept
//! queue was full. SYNs never come by here: they end in `consume_skb`.

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use floodmark_common::Class;

use crate::{
    kernel::{Open, REASON_LISTEN_OVERFLOW, Typed},
    listener::record,
    segment::sender,
};

/// `rx_sk` is the listener, and may be missing.
#[btf_tracepoint(function = "kfree_skb")]
pub fn segment_freed(ctx: BtfTracePointContext) -> i32 {
    if u64::from(ctx.arg::<u32>(2)) != REASON_LISTEN_OVERFLOW.load() {
        return 0;
    }
    let sk: *const u8 = ctx.arg(3);
    if sk.is_null() {
        return 0;
    }
    let (class, peer) = (Class::AckAcceptQueueFull, sender::<Typed>(ctx.arg(0)));
    record::<Typed>(sk, class, 1, &peer);
    0
}
