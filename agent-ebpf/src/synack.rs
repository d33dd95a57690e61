//! A SYN/ACK was sent again. kernel: net/ipv4/tcp_output.c `tcp_rtx_synack` ->
//! `trace_tcp_retransmit_synack(sk, req)`, one for one with the SYN/ACK part of TCPSynRetrans.

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use floodmark_common::EVENT_SYNACK_RETRANSMIT;

use crate::{listener::record, maps::totals, segment::requester};

/// `sk` is the listener (for a Fast Open request its child, which has the listener's address).
#[btf_tracepoint(function = "tcp_retransmit_synack")]
pub fn synack_retransmitted(ctx: BtfTracePointContext) -> i32 {
    totals(|t| t.synack_retransmits += 1);
    record(&ctx, ctx.arg(0), &requester(ctx.arg(1)), EVENT_SYNACK_RETRANSMIT, |tally| {
        tally.synack_retransmits += 1;
    });
    0
}
