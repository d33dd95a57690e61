//! A connection enters TIME_WAIT.

use aya_ebpf::{
    bindings::BPF_NOEXIST,
    macros::{btf_tracepoint, fexit},
    programs::{BtfTracePointContext, FExitContext},
};
use floodmark_common::TimeWaitKey;

use crate::{
    kernel::{Access, OFF_INET_SPORT, OFF_SK_DPORT, OFF_SK_NUM, OFF_SK_PROTOCOL, Typed, read_at},
    listener::netns_of,
    maps::{TIME_WAIT, totals},
};

const TCP_FIN_WAIT2: u32 = 5;
const TCP_CLOSE: u32 = 7;
const TCP_CLOSING: u32 = 11;
const IPPROTO_TCP: u16 = 6;

/// kernel: net/ipv4/inet_timewait_sock.c `inet_twsk_alloc(sk, dr, state)`; NULL means the table is
/// full (TCPTimeWaitOverflow) and the connection just closes.
#[fexit(function = "inet_twsk_alloc")]
pub fn time_wait_allocated(ctx: FExitContext) -> i32 {
    if ctx.arg::<u64>(3) != 0 {
        let sk: *const u8 = ctx.arg(0);
        // SAFETY: `sk` is a program argument of type `struct sock *`.
        count(sk, unsafe { Typed::field(sk, &OFF_SK_NUM) });
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
    if unsafe { Typed::field::<u16>(sk, &OFF_SK_PROTOCOL) } == IPPROTO_TCP {
        // `inet_put_port` has cleared `skc_num` by now, and left `inet_sport`; that lies beyond
        // `struct sock`, which is as far as the verifier lets a typed load go.
        let port: u16 = read_at(sk as u64 + OFF_INET_SPORT.load()).unwrap_or(0);
        count(sk, u16::from_be(port));
    }
    0
}

/// Counts an entry for the service of `sk`. The lower port is taken for the service's, as
/// ephemeral ports start at 32768.
#[inline(always)]
fn count(sk: *const u8, local: u16) {
    totals(|t| t.time_wait += 1);
    // SAFETY: `sk` is a program argument of type `struct sock *`.
    let remote = u16::from_be(unsafe { Typed::field::<u16>(sk, &OFF_SK_DPORT) });
    let key = TimeWaitKey {
        netns: netns_of::<Typed>(sk),
        port: local.min(remote),
        by_service: u16::from(local <= remote),
    };
    if TIME_WAIT.get_ptr(key).is_none() {
        let _ = TIME_WAIT.insert(key, 0, u64::from(BPF_NOEXIST));
    }
    match TIME_WAIT.get_ptr_mut(key) {
        // SAFETY: this CPU's slot of a per-CPU map.
        Some(entries) => unsafe { *entries += 1 },
        None => totals(|t| t.map_full += 1),
    }
}
