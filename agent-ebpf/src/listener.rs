//! Whose queue it was: the listener's identity, its tally, and the detail event.

use aya_ebpf::{bindings::BPF_RB_NO_WAKEUP, helpers::generated::bpf_ktime_get_ns};
use floodmark_common::{
    AF_INET, Class, CountingMap, EVENTS_PER_SECOND, EventRecord, ListenerKey, ListenerTally,
    RawAddr,
};

use crate::{
    kernel::{
        Access, OFF_SK_ACK_BACKLOG, OFF_SK_FAMILY, OFF_SK_MAX_ACK_BACKLOG, OFF_SK_NUM,
        OFF_SK_RCV_SADDR, OFF_SK_SOCKET, OFF_SK_V6_RCV_SADDR, OFF_SOCKET_INO, TYPE_SOCKET_ALLOC,
        member_or_zero,
    },
    maps::{EVENTS, LISTENERS, LOSERS, LOSERS_PLACES, add, no_room, place, totals},
    netns::{inode_of, netns_of},
    segment::{Peer, in6_addr},
};

/// A tally at zero, to insert without taking up the stack.
static BLANK: ListenerTally = ListenerTally::ZERO;

/// Identity of the listening socket `sk`.
#[inline(always)]
pub fn key_of<A: Access>(sk: *const u8) -> ListenerKey {
    // The inode lies right behind the `struct socket` (kernel: include/net/sock.h `SOCK_INODE`). A
    // socket already released reads as inode 0.
    // SAFETY: `sk` is a `struct sock *`, and each hop has the member read of it.
    unsafe {
        let socket: *const u8 = A::field(sk, OFF_SK_SOCKET);
        let inode: u64 = member_or_zero(TYPE_SOCKET_ALLOC, socket as u64, OFF_SOCKET_INO);
        let family = A::field::<u16>(sk, OFF_SK_FAMILY);
        let mut addr = RawAddr::default();
        if family == AF_INET {
            addr[0] = A::field(sk, OFF_SK_RCV_SADDR);
        } else {
            addr = in6_addr::<A>(sk, OFF_SK_V6_RCV_SADDR);
        }
        ListenerKey {
            netns: netns_of::<A>(sk),
            inode: inode as u32,
            addr,
            port: A::field(sk, OFF_SK_NUM),
            family,
        }
    }
}

/// Counts `times` of `class` at listener `sk`, totals first, and tells of it in detail unless the
/// listener's rate is used up.
#[inline(always)]
pub fn record<A: Access>(sk: *const u8, class: Class, times: u64, peer: &Peer) {
    totals(|t| t.counts[class as usize] += times);
    let key = key_of::<A>(sk);
    let Some(tally) = place(&LISTENERS, &key, &BLANK) else {
        no_room(CountingMap::Listeners);
        return;
    };
    let netns_inode = inode_of::<A>(sk);
    add_to(tally, class, times, netns_inode);
    // SAFETY: `sk` is a `struct sock *`.
    let (len, limit) = unsafe {
        (A::field::<u32>(sk, OFF_SK_ACK_BACKLOG), A::field::<u32>(sk, OFF_SK_MAX_ACK_BACKLOG))
    };
    // SAFETY: an element of the map. Other CPUs count in it too: of two depths seen at once the lesser
    // may stay, and both are of a full queue.
    unsafe {
        if len > (*tally).queue_high {
            (*tally).queue_high = len;
        }
        (*tally).queue_limit = limit;
        if class.is_loss() && is_first_loss(&key, peer) {
            add(&raw mut (*tally).connections, 1);
        }
    }
    // SAFETY: a helper without arguments.
    let at_ns = unsafe { bpf_ktime_get_ns() };
    if !within_rate(tally, at_ns) {
        return;
    }
    let event = EventRecord {
        at_ns,
        listener: key,
        peer: peer.addr,
        peer_port: peer.port,
        peer_family: peer.family,
        class: class as u32,
        queue_len: len,
        queue_limit: limit,
        netns_inode,
        reserved: 0,
    };
    // The agent looks once a tick; to be woken would cost an interrupt.
    if EVENTS.output::<EventRecord>(&event, u64::from(BPF_RB_NO_WAKEUP)).is_err() {
        totals(|t| t.ring_full += 1);
    }
}

/// Counts something that is no single segment's fate to be told of: totals and tally alone.
#[inline(always)]
pub fn count<A: Access>(sk: *const u8, class: Class, times: u64) {
    totals(|t| t.counts[class as usize] += times);
    match place(&LISTENERS, &key_of::<A>(sk), &BLANK) {
        Some(tally) => add_to(tally, class, times, inode_of::<A>(sk)),
        None => no_room(CountingMap::Listeners),
    }
}

#[inline(always)]
fn add_to(tally: *mut ListenerTally, class: Class, times: u64, netns_inode: u32) {
    // SAFETY: an element of the map; whoever else writes the number writes the same.
    unsafe {
        (*tally).netns_inode = netns_inode;
        add(&raw mut (*tally).counts[class as usize], times);
    }
}

/// Whether this is the first segment that the connection lost, as far as is remembered.
#[inline(always)]
fn is_first_loss(listener: &ListenerKey, peer: &Peer) -> bool {
    // Any odd constant spreads well enough for a table of some thousands.
    const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
    let half = |at: usize| u64::from(peer.addr[at]) | u64::from(peer.addr[at + 1]) << 32;
    let ports = u64::from(peer.port) << 48 | u64::from(listener.port) << 32;
    let mut hash = half(0).wrapping_mul(SPREAD) ^ half(2);
    hash = hash.wrapping_mul(SPREAD) ^ ports ^ listener.netns;
    hash = hash.wrapping_mul(SPREAD);
    let Some(loser) = LOSERS.get_ptr_mut((hash >> 32) as u32 & (LOSERS_PLACES - 1)) else {
        return true;
    };
    // SAFETY: an element of the map. Another CPU may write it at the same time, which costs no more
    // than a connection counted twice.
    unsafe {
        let is_known = loser.read_volatile() == hash;
        loser.write_volatile(hash);
        !is_known
    }
}

/// Whether one more detail event fits into the listener's current second. Several CPUs at once may send
/// a few more.
#[inline(always)]
fn within_rate(tally: *mut ListenerTally, now_ns: u64) -> bool {
    // SAFETY: an element of the map.
    unsafe {
        if now_ns.wrapping_sub((*tally).limit_since_ns) >= 1_000_000_000 {
            (*tally).limit_since_ns = now_ns;
            (*tally).limit_sent = 0;
        }
        if (*tally).limit_sent >= EVENTS_PER_SECOND {
            add(&raw mut (*tally).events_withheld, 1);
            return false;
        }
        (*tally).limit_sent += 1;
    }
    true
}
