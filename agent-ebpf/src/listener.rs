//! Whose queue it was: the listener's identity, its tally, and the detail event.

use aya_ebpf::{EbpfContext, bindings::BPF_NOEXIST, helpers::generated::bpf_ktime_get_ns};
use aya_log_ebpf::warn;
use floodmark_common::{
    ABSENT, AF_INET, EVENTS_PER_SECOND, EventRecord, ListenerKey, ListenerTally, RawAddr,
};

use crate::{
    kernel::{
        OFF_FILE_INODE, OFF_INODE_INO, OFF_NET_ABORT_ON_OVERFLOW, OFF_NET_INUM, OFF_SK_ACK_BACKLOG,
        OFF_SK_FAMILY, OFF_SK_MAX_ACK_BACKLOG, OFF_SK_NET, OFF_SK_NUM, OFF_SK_RCV_SADDR,
        OFF_SK_SOCKET, OFF_SK_V6_RCV_SADDR, OFF_SOCKET_FILE, field,
    },
    maps::{EVENTS, LISTENERS, totals},
    segment::{Peer, in6_addr},
};

/// Inode number of the network namespace of `sk`.
#[inline(always)]
pub fn netns_of(sk: *const u8) -> u32 {
    // SAFETY: `sk` is a program argument of type `struct sock *`; `skc_net` is a `struct net *`.
    unsafe { field(field::<*const u8>(sk, &OFF_SK_NET), &OFF_NET_INUM) }
}

/// Whether `net.ipv4.tcp_abort_on_overflow` is set where `sk` lives: the overflow is then answered
/// by a reset (`tcp_check_req`, label `listen_overflow`).
#[inline(always)]
pub fn aborts_on_overflow(sk: *const u8) -> bool {
    if OFF_NET_ABORT_ON_OVERFLOW.load() == ABSENT {
        return false;
    }
    // SAFETY: as in `netns_of`. The low byte tells, whether the sysctl is an int or a u8.
    unsafe { field::<u8>(field::<*const u8>(sk, &OFF_SK_NET), &OFF_NET_ABORT_ON_OVERFLOW) != 0 }
}

/// Identity of the listening socket `sk`.
#[inline(always)]
pub fn key_of(sk: *const u8) -> ListenerKey {
    // SAFETY: `sk` is a program argument of type `struct sock *`; each hop keeps its type, and a
    // socket already released reads as inode 0.
    unsafe {
        let socket: *const u8 = field(sk, &OFF_SK_SOCKET);
        let file: *const u8 = field(socket, &OFF_SOCKET_FILE);
        let inode: *const u8 = field(file, &OFF_FILE_INODE);
        let family = field::<u16>(sk, &OFF_SK_FAMILY);
        let mut addr = RawAddr::default();
        if family == AF_INET {
            let word: u32 = field(sk, &OFF_SK_RCV_SADDR);
            addr[..4].copy_from_slice(&word.to_ne_bytes());
        } else {
            addr = in6_addr(sk, &OFF_SK_V6_RCV_SADDR);
        }
        ListenerKey {
            netns: netns_of(sk),
            inode: field::<u64>(inode, &OFF_INODE_INO) as u32,
            addr,
            port: field(sk, &OFF_SK_NUM),
            family,
        }
    }
}

/// Counts something at listener `sk`, and tells of it in detail unless the listener's rate is
/// used up. `kind` is one of the `EVENT_*` constants.
#[inline(always)]
pub fn record(
    ctx: &impl EbpfContext,
    sk: *const u8,
    peer: &Peer,
    kind: u32,
    count: impl FnOnce(&mut ListenerTally),
) {
    let key = key_of(sk);
    let Some(tally) = tally_of(&key) else {
        totals(|t| {
            t.map_full += 1;
            if t.map_full == 1 {
                warn!(ctx, "no room to count for port {}: too many listeners", key.port);
            }
        });
        return;
    };
    // SAFETY: this CPU's slot of a per-CPU map.
    let tally = unsafe { &mut *tally };
    count(tally);
    // SAFETY: as in `key_of`.
    let (len, limit) = unsafe {
        (field::<u32>(sk, &OFF_SK_ACK_BACKLOG), field::<u32>(sk, &OFF_SK_MAX_ACK_BACKLOG))
    };
    tally.queue_high = tally.queue_high.max(len);
    tally.queue_limit = limit;
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
        kind,
        queue_len: len,
        queue_limit: limit,
        reserved: 0,
    };
    if EVENTS.output::<EventRecord>(&event, 0).is_err() {
        totals(|t| t.ring_full += 1);
    }
}

/// This CPU's slot for the listener, made if missing.
#[inline(always)]
fn tally_of(key: &ListenerKey) -> Option<*mut ListenerTally> {
    if let Some(tally) = LISTENERS.get_ptr_mut(key) {
        return Some(tally);
    }
    // Another CPU may insert first; then its slot for this CPU is there, zeroed.
    let _ = LISTENERS.insert(key, ListenerTally::default(), u64::from(BPF_NOEXIST));
    LISTENERS.get_ptr_mut(key)
}

/// Whether one more detail event fits into the current second of this CPU and listener.
#[inline(always)]
fn within_rate(tally: &mut ListenerTally, now_ns: u64) -> bool {
    if now_ns - tally.limit_since_ns >= 1_000_000_000 {
        tally.limit_since_ns = now_ns;
        tally.limit_sent = 0;
    }
    if tally.limit_sent >= EVENTS_PER_SECOND {
        tally.events_withheld += 1;
        return false;
    }
    tally.limit_sent += 1;
    true
}
