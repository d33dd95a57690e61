//! Connections enter TIME_WAIT, or FIN_WAIT2 as mini-sockets, and leave it.
//!
//! TW and TWKilled are counted at entry since Linux 5.18, at expiry before; which of the two it is
//! the agent tells from `inet_timewait_sock.tw_kill`, and attaches accordingly.

use aya_ebpf::{
    macros::{btf_tracepoint, fentry, fexit},
    programs::{BtfTracePointContext, FEntryContext, FExitContext},
};
use floodmark_common::ServiceClass;

use crate::{
    kernel::{
        Access, BIT_TW_KILL, OFF_INET_SPORT, OFF_SK_DPORT, OFF_SK_PROTOCOL, OFF_TW_KILL,
        OFF_TW_SUBSTATE, OFF_TW_TIMER, Open, Probed, SHORT_TIMEOUT, Typed, read_or_zero,
    },
    netns::netns_of,
    service::{count, count_between},
};

const TCP_FIN_WAIT2: u32 = 5;
const TCP_CLOSE: u32 = 7;
const TCP_CLOSING: u32 = 11;
const IPPROTO_TCP: u16 = 6;
/// `enum tcp_tw_status`.
pub const TCP_TW_SYN: u64 = 3;

/// kernel: net/ipv4/inet_timewait_sock.c
/// `inet_twsk_hashdance_schedule(tw, sk, hashinfo, timeo)`, Linux 6.11 and later.
#[fentry(function = "inet_twsk_hashdance_schedule")]
pub fn time_wait_hashed(ctx: FEntryContext) -> i32 {
    entered::<Typed>(ctx.arg(0), ctx.arg(3));
    0
}

/// kernel: `__inet_twsk_schedule(tw, timeo, rearm)`, Linux 5.18 to 6.10. Arming anew is no entry.
#[fentry(function = "__inet_twsk_schedule")]
pub fn time_wait_scheduled(ctx: FEntryContext) -> i32 {
    if ctx.arg::<u64>(2) & 0xff == 0 {
        entered::<Typed>(ctx.arg(0), ctx.arg(1));
    }
    0
}

/// By what it waits for and for how long: TWKilled is what stays for four seconds or less.
#[inline(always)]
pub fn entered<A: Access>(tw: *const u8, timeout: u64) {
    let class = if !waits_for_fin::<A>(tw) {
        ServiceClass::TimeWait
    } else if timeout as u32 <= SHORT_TIMEOUT.load() as u32 {
        ServiceClass::FinWait2Short
    } else {
        ServiceClass::FinWait2
    };
    count::<A>(tw, class);
}

/// Whether it is a FIN_WAIT2 mini-socket.
#[inline(always)]
pub fn waits_for_fin<A: Access>(tw: *const u8) -> bool {
    // SAFETY: `tw` is a `struct inet_timewait_sock *`.
    u32::from(unsafe { A::field::<u8>(tw, OFF_TW_SUBSTATE) }) == TCP_FIN_WAIT2
}

/// kernel: `inet_twsk_alloc(sk, dr, state)`; NULL means the table is full (TCPTimeWaitOverflow) and
/// the connection just closes.
#[fexit(function = "inet_twsk_alloc")]
pub fn time_wait_refused(ctx: FExitContext) -> i32 {
    if ctx.arg::<u64>(3) == 0 {
        count::<Typed>(ctx.arg(0), ServiceClass::TimeWaitTableFull);
    }
    0
}

/// The same before Linux 5.18, where no counter moves at an entry and this is the place to see it.
#[fexit(function = "inet_twsk_alloc")]
pub fn time_wait_allocated(ctx: FExitContext) -> i32 {
    let class = match (ctx.arg::<u64>(3), ctx.arg::<u64>(2) as u32) {
        (0, _) => ServiceClass::TimeWaitTableFull,
        (_, TCP_FIN_WAIT2) => ServiceClass::FinWait2,
        _ => ServiceClass::TimeWait,
    };
    count::<Typed>(ctx.arg(0), class);
    0
}

/// kernel: `tw_timer_handler(timer)` before Linux 5.18: TW, or TWKilled where `tw_kill` is set.
#[fentry(function = "tw_timer_handler")]
pub fn time_wait_expired(ctx: FEntryContext) -> i32 {
    expired(ctx.arg(0));
    0
}

#[inline(always)]
pub fn expired(timer: *const u8) {
    let tw = (timer as u64).wrapping_sub(OFF_TW_TIMER.load()) as *const u8;
    // SAFETY: the timer is a member of a `struct inet_timewait_sock`.
    let bits: u8 = unsafe { Probed::field(tw, OFF_TW_KILL) };
    let is_short = bits >> BIT_TW_KILL.load() & 1 == 1;
    let class =
        if is_short { ServiceClass::TimeWaitExpiredShort } else { ServiceClass::TimeWaitExpired };
    count::<Probed>(tw, class);
}

/// kernel: net/ipv4/tcp_ipv4.c `tcp_twsk_unique(sk, sktw, twp)`; 1 means that `connect(2)` takes the
/// port over (TWRecycled).
#[fexit(function = "tcp_twsk_unique")]
pub fn time_wait_reused(ctx: FExitContext) -> i32 {
    if ctx.arg::<u64>(3) as u32 == 1 {
        // The connecting socket has no port yet, the waiting one has.
        count::<Typed>(ctx.arg(1), ServiceClass::TimeWaitReused);
    }
    0
}

/// kernel: net/ipv4/tcp_minisocks.c `tcp_timewait_state_process(tw, skb, th, …)`: a SYN may reopen
/// the connection. One program for each number of arguments, behind which the result stands.
#[fexit(function = "tcp_timewait_state_process")]
pub fn time_wait_answered_3(ctx: FExitContext) -> i32 {
    answered(&ctx, ctx.arg(3))
}

/// As above.
#[fexit(function = "tcp_timewait_state_process")]
pub fn time_wait_answered_4(ctx: FExitContext) -> i32 {
    answered(&ctx, ctx.arg(4))
}

/// As above.
#[fexit(function = "tcp_timewait_state_process")]
pub fn time_wait_answered_5(ctx: FExitContext) -> i32 {
    answered(&ctx, ctx.arg(5))
}

#[inline(always)]
fn answered(ctx: &FExitContext, status: u64) -> i32 {
    if status & 0xffff_ffff == TCP_TW_SYN {
        count::<Typed>(ctx.arg(0), ServiceClass::TimeWaitReopened);
    }
    0
}

/// Lower rung. kernel: tracepoint `inet_sock_set_state(sk, oldstate, newstate)`. `tcp_time_wait`
/// replaces the socket by a small one and closes it, so the entry shows as FIN_WAIT2 or CLOSING to
/// CLOSE; so does a reset in those states, which is counted too.
#[btf_tracepoint(function = "inet_sock_set_state")]
pub fn state_changed(ctx: BtfTracePointContext) -> i32 {
    let (old, new): (u32, u32) = (ctx.arg(1), ctx.arg(2));
    if new != TCP_CLOSE || (old != TCP_FIN_WAIT2 && old != TCP_CLOSING) {
        return 0;
    }
    let sk: *const u8 = ctx.arg(0);
    // SAFETY: `sk` is a program argument of type `struct sock *`. The low 16 bits tell, also where
    // the member is a bit field of 8.
    let (protocol, remote) = unsafe {
        (Typed::field::<u16>(sk, OFF_SK_PROTOCOL), Typed::field::<u16>(sk, OFF_SK_DPORT))
    };
    if protocol == IPPROTO_TCP {
        // `inet_put_port` has cleared `skc_num` by now, and left `inet_sport`; that lies beyond
        // `struct sock`, which is as far as the verifier lets a typed load go.
        let local: u16 = read_or_zero(sk as u64 + OFF_INET_SPORT.load());
        let (local, remote) = (u16::from_be(local), u16::from_be(remote));
        count_between(netns_of::<Typed>(sk), local, remote, ServiceClass::TimeWait, 1);
    }
    0
}
