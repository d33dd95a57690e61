//! This host as a client: connects without a local port.

use aya_ebpf::{
    EbpfContext,
    bindings::BPF_NOEXIST,
    macros::{fexit, kprobe, kretprobe},
    programs::{FExitContext, ProbeContext, RetProbeContext},
};
use floodmark_common::{AF_INET, CountingMap, NoPortKey, NoPortTally, RawAddr};

use crate::{
    calls,
    kernel::{
        Access, OFF_SK_DADDR, OFF_SK_DPORT, OFF_SK_FAMILY, OFF_SK_NUM, OFF_SK_V6_DADDR, Probed,
        Typed,
    },
    maps::{NO_PORT, add, no_room},
    netns::netns_of,
    segment::in6_addr,
    task::command,
};

const EADDRNOTAVAIL: i32 = 99;

/// kernel: net/ipv4/inet_hashtables.c `inet_hash_connect(death_row, sk)`.
#[fexit(function = "inet_hash_connect")]
pub fn connect_hashed(ctx: FExitContext) -> i32 {
    settle::<Typed>(&ctx, ctx.arg(1), ctx.arg(2));
    0
}

/// kernel: net/ipv6/inet6_hashtables.c `inet6_hash_connect(death_row, sk)`.
#[fexit(function = "inet6_hash_connect")]
pub fn connect6_hashed(ctx: FExitContext) -> i32 {
    settle::<Typed>(&ctx, ctx.arg(1), ctx.arg(2));
    0
}

/// Both by kprobe.
#[kprobe]
pub fn connect_begun_kprobe(ctx: ProbeContext) -> u32 {
    calls::entered(&ctx, 1);
    0
}

/// Both by kretprobe.
#[kretprobe]
pub fn connect_hashed_kprobe(ctx: RetProbeContext) -> u32 {
    if let Some(sk) = calls::left(&ctx) {
        settle::<Probed>(&ctx, sk, ctx.ret());
    }
    0
}

/// No port was found if the call failed so and the socket is still without: one that was bound
/// beforehand fails alike where its own pair of ports is taken.
#[inline(always)]
fn settle<A: Access>(ctx: &impl EbpfContext, sk: *const u8, result: u64) {
    if result as i32 != -EADDRNOTAVAIL {
        return;
    }
    // SAFETY: `sk` is a `struct sock *`.
    let key = unsafe {
        if A::field::<u16>(sk, OFF_SK_NUM) != 0 {
            return;
        }
        let family = A::field::<u16>(sk, OFF_SK_FAMILY);
        let mut addr = RawAddr::default();
        if family == AF_INET {
            addr[0] = A::field(sk, OFF_SK_DADDR);
        } else {
            addr = in6_addr::<A>(sk, OFF_SK_V6_DADDR);
        }
        NoPortKey {
            netns: netns_of::<A>(sk),
            pid: ctx.tgid(),
            addr,
            port: u16::from_be(A::field(sk, OFF_SK_DPORT)),
            family,
        }
    };
    if NO_PORT.get_ptr(key).is_none() {
        let tally = NoPortTally { failures: 0, command: command() };
        let _ = NO_PORT.insert(key, tally, u64::from(BPF_NOEXIST));
    }
    match NO_PORT.get_ptr_mut(key) {
        // SAFETY: an element of the map.
        Some(tally) => unsafe { add(&raw mut (*tally).failures, 1) },
        None => no_room(CountingMap::NoPort),
    }
}
