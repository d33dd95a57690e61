//! The programs of `time_wait` once more, by kprobe and kretprobe.

use aya_ebpf::{
    macros::{kprobe, kretprobe},
    programs::{ProbeContext, RetProbeContext},
};
use floodmark_common::ServiceClass;

use crate::{
    calls,
    kernel::Probed,
    service::count,
    time_wait::{TCP_TW_SYN, entered, expired, waits_for_fin},
};

/// kernel: `inet_twsk_hashdance_schedule(tw, sk, hashinfo, timeo)`, Linux 6.11 and later.
#[kprobe]
pub fn time_wait_hashed_kprobe(ctx: ProbeContext) -> u32 {
    if let (Some(tw), Some(timeout)) = (ctx.arg(0), ctx.arg(3)) {
        entered::<Probed>(tw, timeout);
    }
    0
}

/// kernel: `__inet_twsk_schedule(tw, timeo, rearm)`, Linux 5.18 to 6.10.
#[kprobe]
pub fn time_wait_scheduled_kprobe(ctx: ProbeContext) -> u32 {
    if let (Some(tw), Some(timeout), Some(rearm)) = (ctx.arg(0), ctx.arg(1), ctx.arg::<u64>(2))
        && rearm & 0xff == 0
    {
        entered::<Probed>(tw, timeout);
    }
    0
}

/// kernel: `inet_twsk_alloc(sk, dr, state)`.
#[kprobe]
pub fn time_wait_wanted_kprobe(ctx: ProbeContext) -> u32 {
    calls::entered(&ctx, 0);
    0
}

/// NULL: the table is full.
#[kretprobe]
pub fn time_wait_refused_kprobe(ctx: RetProbeContext) -> u32 {
    if let Some(sk) = calls::left(&ctx)
        && ctx.ret::<u64>() == 0
    {
        count::<Probed>(sk, ServiceClass::TimeWaitTableFull);
    }
    0
}

/// The same before Linux 5.18, where this is the place to see an entry: the state that the mini-socket
/// is to begin in.
#[kretprobe]
pub fn time_wait_allocated_kprobe(ctx: RetProbeContext) -> u32 {
    if let Some(sk) = calls::left(&ctx) {
        let tw: *const u8 = ctx.ret();
        let class = if tw.is_null() {
            ServiceClass::TimeWaitTableFull
        } else if waits_for_fin::<Probed>(tw) {
            ServiceClass::FinWait2
        } else {
            ServiceClass::TimeWait
        };
        count::<Probed>(sk, class);
    }
    0
}

/// kernel: `tw_timer_handler(timer)`, before Linux 5.18.
#[kprobe]
pub fn time_wait_expired_kprobe(ctx: ProbeContext) -> u32 {
    if let Some(timer) = ctx.arg(0) {
        expired(timer);
    }
    0
}

/// kernel: `tcp_twsk_unique(sk, sktw, twp)`.
#[kprobe]
pub fn time_wait_wanted_back_kprobe(ctx: ProbeContext) -> u32 {
    calls::entered(&ctx, 1);
    0
}

/// 1: `connect(2)` takes the port over.
#[kretprobe]
pub fn time_wait_reused_kprobe(ctx: RetProbeContext) -> u32 {
    if let Some(tw) = calls::left(&ctx)
        && ctx.ret::<u64>() as u32 == 1
    {
        count::<Probed>(tw, ServiceClass::TimeWaitReused);
    }
    0
}

/// kernel: `tcp_timewait_state_process(tw, …)`.
#[kprobe]
pub fn time_wait_asked_kprobe(ctx: ProbeContext) -> u32 {
    calls::entered(&ctx, 0);
    0
}

/// A SYN reopens the connection.
#[kretprobe]
pub fn time_wait_answered_kprobe(ctx: RetProbeContext) -> u32 {
    if let Some(tw) = calls::left(&ctx)
        && ctx.ret::<u64>() & 0xffff_ffff == TCP_TW_SYN
    {
        count::<Probed>(tw, ServiceClass::TimeWaitReopened);
    }
    0
}
