//! Connections as they are established and end, by service and peer. kernel: tracepoint
//! `inet_sock_set_state(sk, oldstate, newstate)`.

use aya_ebpf::{
    helpers::generated::bpf_ktime_get_ns, macros::btf_tracepoint, programs::BtfTracePointContext,
};
use floodmark_common::{
    CountingMap,
    churn::{ChurnKey, ChurnTally, Connection},
};

use crate::{
    accept_queue::bucket_place,
    kernel::{Access, OFF_SK_NUM, OFF_SK_PROTOCOL, Typed},
    maps::{CHURN, CONNECTIONS, add, no_room, place},
    netns::netns_of,
    segment::requester,
};

const TCP_ESTABLISHED: u32 = 1;
const TCP_SYN_RECV: u32 = 3;
const TCP_FIN_WAIT1: u32 = 4;
const TCP_CLOSE_WAIT: u32 = 8;
const IPPROTO_TCP: u16 = 6;

/// Times each connection from its establishment to whatever ends that. Its socket's address tells
/// it from others; where the bounded table has lost it, it counts without a lifetime.
#[btf_tracepoint(function = "inet_sock_set_state")]
pub fn connection_changed(ctx: BtfTracePointContext) -> i32 {
    let (old, new): (u32, u32) = (ctx.arg(1), ctx.arg(2));
    if (old == TCP_ESTABLISHED) == (new == TCP_ESTABLISHED) {
        return 0;
    }
    let sk: *const u8 = ctx.arg(0);
    // SAFETY: `sk` is a program argument of type `struct sock *`.
    if unsafe { Typed::field::<u16>(sk, OFF_SK_PROTOCOL) } != IPPROTO_TCP {
        return 0;
    }
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    if new == TCP_ESTABLISHED {
        let is_local = u64::from(old == TCP_SYN_RECV);
        let _ = CONNECTIONS.insert(sk as u64, Connection { at_ns: now, is_local }, 0);
        if let Some(tally) = tally_of(sk, is_local != 0) {
            // SAFETY: an element of the map.
            unsafe { add(&raw mut (*tally).opened, 1) };
        }
    } else {
        ended(sk, new, now);
    }
    0
}

#[inline(always)]
fn ended(sk: *const u8, new: u32, now: u64) {
    // SAFETY: plain numbers; nobody else changes a connection's entry.
    let Some(connection) = (unsafe { CONNECTIONS.get(sk as u64) }).copied() else { return };
    let _ = CONNECTIONS.remove(sk as u64);
    let Some(tally) = tally_of(sk, connection.is_local != 0) else { return };
    let bucket = bucket_place(now.saturating_sub(connection.at_ns));
    // SAFETY: an element of the map.
    unsafe {
        match new {
            TCP_FIN_WAIT1 => add(&raw mut (*tally).closed_here, 1),
            TCP_CLOSE_WAIT => add(&raw mut (*tally).closed_there, 1),
            _ => add(&raw mut (*tally).aborted, 1),
        }
        add(&raw mut (*tally).lifetimes[bucket], 1);
    }
}

/// A tally at zero, to insert without taking up the stack.
static BLANK: ChurnTally = ChurnTally::BLANK;

/// The place in the map for the service and the peer of `sk`, made if missing.
#[inline(always)]
fn tally_of(sk: *const u8, is_local: bool) -> Option<*mut ChurnTally> {
    // A socket and a request begin alike, and both have the other side's address there.
    let peer = requester::<Typed>(sk);
    // SAFETY: `sk` is a `struct sock *`.
    let local = unsafe { Typed::field::<u16>(sk, OFF_SK_NUM) };
    let key = ChurnKey {
        netns: netns_of::<Typed>(sk),
        port: if is_local { local } else { peer.port },
        is_local: u8::from(is_local),
        family: peer.family as u8,
        peer: peer.addr,
        reserved: 0,
    };
    let tally = place(&CHURN, &key, &BLANK);
    if tally.is_none() {
        no_room(CountingMap::Churn);
    }
    tally
}
