//! A segment reaches a pending request, most often the final ACK. kernel: net/ipv4/tcp_minisocks.c
//! `tcp_check_req(sk, skb, req, fastopen, req_stolen, …)`: the accept queue is full
//! (ListenOverflows and ListenDrops in `tcp_v4_syn_recv_sock`), the child could not be made
//! (ListenDrops alone), the request was reset (EmbryonicRsts) or is deferred (TCPDeferAcceptDrop).

use aya_ebpf::{
    EbpfContext,
    macros::{fentry, fexit, kprobe, kretprobe},
    programs::{FEntryContext, FExitContext, ProbeContext, RetProbeContext},
};
use floodmark_common::Class;

use crate::{
    bracket::{Bracket, Failure, Listen, Site, close, close_any, open},
    kernel::{ARGS_CHECK_REQ, Access, OFF_REQ_LISTENER, Open, Probed, Typed},
    listener::{count, record},
    segment::sender,
};

/// A segment for a pending request is about to be checked. Calls for a Fast Open child
/// (`fastopen` set) may come from process context and concern no queue: left out.
#[fentry(function = "tcp_check_req")]
pub fn ack_entered(ctx: FEntryContext) -> i32 {
    if ctx.arg::<u64>(3) & 0xff == 0 {
        open::<Typed>(Site::CheckReq, ctx.arg(0));
    }
    0
}

/// The segment was checked. Where something was dropped the segment and the request are still
/// there: the caller discards them.
#[fexit(function = "tcp_check_req")]
pub fn ack_left(ctx: FExitContext) -> i32 {
    if ctx.arg::<u64>(3) & 0xff != 0 {
        return 0;
    }
    let sk: *const u8 = ctx.arg(0);
    if let Some(bracket) = close(Site::CheckReq, sk)
        && result(&ctx) == 0
    {
        settle::<Typed>(bracket, sk, ctx.arg(1), ctx.arg(2));
    }
    0
}

/// The socket returned: the child, or null where none came about. It stands behind the arguments, of
/// which there are five or six; the verifier drops the branch not taken.
#[inline(always)]
fn result(ctx: &FExitContext) -> u64 {
    if ARGS_CHECK_REQ.load() == 6 {
        return ctx.arg(6);
    }
    // Volatile unlike the other, lest the compiler make one load at a variable offset of the two,
    // which no verifier accepts on a context.
    // SAFETY: the kernel provides five arguments and the result.
    unsafe { ctx.as_ptr().cast::<u64>().add(5).read_volatile() }
}

/// The same by kprobe.
#[kprobe]
pub fn ack_entered_kprobe(ctx: ProbeContext) -> u32 {
    if let (Some(sk), Some(skb), Some(req), Some(fastopen)) =
        (ctx.arg(0), ctx.arg::<u64>(1), ctx.arg::<u64>(2), ctx.arg::<u64>(3))
        && fastopen & 0xff == 0
        && let Some(bracket) = open::<Probed>(Site::CheckReq, sk)
    {
        bracket.skb = skb;
        bracket.req = req;
    }
    0
}

/// The same by kretprobe.
#[kretprobe]
pub fn ack_left_kprobe(ctx: RetProbeContext) -> u32 {
    if let Some((sk, bracket)) = close_any(Site::CheckReq)
        && ctx.ret::<u64>() == 0
    {
        let (skb, req) = (bracket.skb as *const u8, bracket.req as *const u8);
        settle::<Probed>(bracket, sk, skb, req);
    }
    0
}

/// Tells from the counters why no child came about.
#[inline(always)]
fn settle<A: Access>(bracket: &mut Bracket, sk: *const u8, skb: *const u8, req: *const u8) {
    let Some(listen) = bracket.listen::<A>(sk) else { return };
    let Some(resets) = bracket.embryonic_resets() else { return };
    let Some(deferred) = bracket.deferred() else { return };
    if resets > 0 {
        count::<A>(sk, Class::RequestReset, resets);
    }
    if deferred > 0 {
        count::<A>(sk, Class::AckDeferred, deferred);
    }
    if listen.drops > 0 {
        let class = cause::<A>(bracket, &listen, resets, sk, req);
        let peer = sender::<A>(skb);
        record::<A>(sk, class, listen.drops, &peer);
    }
}

/// Why a segment was dropped. With `tcp_abort_on_overflow` the request goes with a reset; a request
/// that moved to this listener from one that closed fails as TCPMigrateReqFailure.
#[inline(always)]
fn cause<A: Access>(
    bracket: &Bracket,
    listen: &Listen,
    resets: u64,
    sk: *const u8,
    req: *const u8,
) -> Class {
    if listen.overflows > 0 {
        return if resets > 0 { Class::AckAcceptQueueFullReset } else { Class::AckAcceptQueueFull };
    }
    if bracket.failed(Failure::PortInheritance) {
        return Class::AckPortInheritance;
    }
    // SAFETY: `req` is a `struct request_sock *`.
    let listener: *const u8 = unsafe { A::field(req, OFF_REQ_LISTENER) };
    if listener == sk { Class::AckChildFailed } else { Class::AckMigrationFailed }
}
