//! SYNs sent again by full sockets: the part of TCPSynRetrans that is no SYN/ACK of a request.
//!
//! kernel: net/ipv4/tcp_output.c `__tcp_retransmit_skb` counts a segment with the SYN flag there and in
//! `tcp_sock.total_retrans`, under the socket's lock and before it is sent: whatever then becomes of it,
//! `total_retrans` grew. What fails earlier (no route, a segment still in the queue of the device) moves
//! neither.

use aya_ebpf::{
    macros::{btf_tracepoint, fentry, fexit, kprobe, kretprobe, map},
    maps::LruHashMap,
    programs::{BtfTracePointContext, FEntryContext, FExitContext, ProbeContext, RetProbeContext},
};
use floodmark_common::ServiceClass;

use crate::{
    calls,
    kernel::{
        Access, OFF_SKB_CB, OFF_TCB_FLAGS, OFF_TCB_SEQ, OFF_TP_TOTAL_RETRANS, Open, Probed, Typed,
        read_or_zero,
    },
    service::count_times,
};

const SYN: u8 = 0x02;

/// What a socket had sent again when last looked at.
#[repr(C)]
#[derive(Clone, Copy)]
struct Sent {
    /// Sequence number of its SYN, by which a later socket at the same address is known.
    seq: u32,
    total: u32,
}

/// By the address of the `struct sock`.
#[map]
static SYN_RETRANSMITS: LruHashMap<u64, Sent> = LruHashMap::with_max_entries(4096, 0);

/// kernel: `tcp_retransmit_skb(sk, skb, segs)`.
#[fentry(function = "tcp_retransmit_skb")]
pub fn retransmit_entered(ctx: FEntryContext) -> i32 {
    note(ctx.arg(0), ctx.arg(1));
    0
}

/// Its end.
#[fexit(function = "tcp_retransmit_skb")]
pub fn retransmit_left(ctx: FExitContext) -> i32 {
    settle::<Typed>(ctx.arg(0));
    0
}

/// The same by kprobe.
#[kprobe]
pub fn retransmit_entered_kprobe(ctx: ProbeContext) -> u32 {
    if let (Some(sk), Some(skb)) = (ctx.arg::<*const u8>(0), ctx.arg::<*const u8>(1))
        && note(sk, skb)
    {
        calls::entered(&ctx, 0);
    }
    0
}

/// The same by kretprobe.
#[kretprobe]
pub fn retransmit_left_kprobe(ctx: RetProbeContext) -> u32 {
    if let Some(sk) = calls::left(&ctx) {
        settle::<Probed>(sk);
    }
    0
}

/// Lower rung. kernel: `trace_tcp_retransmit_skb(sk, skb, err)` at the end of `__tcp_retransmit_skb`;
/// before Linux 6.17 only where the segment was sent.
#[btf_tracepoint(function = "tcp_retransmit_skb")]
pub fn segment_retransmitted(ctx: BtfTracePointContext) -> i32 {
    let (sk, skb): (*const u8, *const u8) = (ctx.arg(0), ctx.arg(1));
    if !is_syn(skb) {
        return 0;
    }
    let now = sent(sk, skb);
    let before = last(sk).filter(|before| before.seq == now.seq);
    let grown = match before {
        Some(before) => now.total.wrapping_sub(before.total),
        // Nobody knows what a socket has sent again that is older than the agent.
        None if now.total == 0 => 0,
        None => 1,
    };
    let _ = SYN_RETRANSMITS.insert(sk as u64, now, 0);
    if grown > 0 {
        count_times::<Typed>(sk, ServiceClass::SynRepeated, u64::from(grown));
    }
    0
}

/// Notes what the socket has sent again so far; false where it is no SYN that is about to be.
#[inline(always)]
fn note(sk: *const u8, skb: *const u8) -> bool {
    is_syn(skb) && SYN_RETRANSMITS.insert(sk as u64, sent(sk, skb), 0).is_ok()
}

/// Counts what was sent again since.
#[inline(always)]
fn settle<A: Access>(sk: *const u8) {
    let Some(before) = last(sk) else { return };
    let _ = SYN_RETRANSMITS.remove(sk as u64);
    if total_of(sk) != before.total {
        count_times::<A>(sk, ServiceClass::SynRepeated, 1);
    }
}

#[inline(always)]
fn last(sk: *const u8) -> Option<Sent> {
    // SAFETY: plain numbers; the socket is locked, so that nobody else changes its entry.
    unsafe { SYN_RETRANSMITS.get(sk as u64) }.copied()
}

#[inline(always)]
fn sent(sk: *const u8, skb: *const u8) -> Sent {
    let seq = read_or_zero(skb as u64 + OFF_SKB_CB.load() + OFF_TCB_SEQ.load());
    Sent { seq, total: total_of(sk) }
}

/// Beyond `struct sock`, which is as far as the verifier lets a typed load go.
#[inline(always)]
fn total_of(sk: *const u8) -> u32 {
    read_or_zero(sk as u64 + OFF_TP_TOTAL_RETRANS.load())
}

#[inline(always)]
fn is_syn(skb: *const u8) -> bool {
    let flags: u8 = read_or_zero(skb as u64 + OFF_SKB_CB.load() + OFF_TCB_FLAGS.load());
    flags & SYN != 0
}
