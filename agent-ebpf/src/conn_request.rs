//! A SYN reaches a listener. kernel: net/ipv4/tcp_input.c
//! `tcp_conn_request(rsk_ops, af_ops, sk, skb)`: the accept queue is full (ListenOverflows), the
//! SYN queue is full without cookies (TCPReqQFullDrop), no memory, no route, refused by an LSM;
//! each of them also ListenDrops.

use aya_ebpf::{
    macros::{fentry, fexit},
    programs::{FEntryContext, FExitContext},
};
use floodmark_common::{EVENT_OTHER_DROP, EVENT_SYN_OVERFLOW};

use crate::{
    bracket::{Site, close, open},
    listener::record,
    segment::sender,
};

/// A SYN is about to be handled.
#[fentry(function = "tcp_conn_request")]
pub fn syn_entered(ctx: FEntryContext) -> i32 {
    open(Site::ConnRequest, ctx.arg(2));
    0
}

/// The SYN was handled: answered, or dropped and counted. It is freed later, by
/// `tcp_rcv_state_process`, so its headers can still be read.
#[fexit(function = "tcp_conn_request")]
pub fn syn_left(ctx: FExitContext) -> i32 {
    let sk: *const u8 = ctx.arg(2);
    if let Some((growth, _)) = close(Site::ConnRequest, sk) {
        let kind = if growth.overflows > 0 { EVENT_SYN_OVERFLOW } else { EVENT_OTHER_DROP };
        record(&ctx, sk, &sender(ctx.arg(3)), kind, |tally| {
            tally.syn_overflow += growth.overflows;
            tally.other_drops += growth.drops.saturating_sub(growth.overflows);
            tally.syn_queue_full += growth.req_q_full;
        });
    }
    0
}
