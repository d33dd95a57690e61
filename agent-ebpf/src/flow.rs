//! When connections came to an accept queue, slot by slot, and when this host's own clients opened
//! and closed theirs: what the agent replays to say which backlog, and how much keepalive, it takes.

use aya_ebpf::{
    EbpfContext,
    bindings::{BPF_F_NO_PREALLOC, BPF_RB_NO_WAKEUP},
    helpers::generated::bpf_ktime_get_ns,
    macros::{btf_tracepoint, map},
    maps::{HashMap, LruHashMap, PerCpuArray, RingBuf},
    programs::BtfTracePointContext,
};
use floodmark_common::{
    ListenerKey,
    flow::{
        Arrivals, CLIENT_CLOSED, CLIENT_FAILED, CLIENT_OPENED, Client, ClientRecord, SLOT_NS, SLOTS,
    },
};

use crate::{
    kernel::{Access, OFF_SK_PROTOCOL, Typed},
    maps::place,
    netns::{inode_of, netns_of},
    segment::requester,
};

/// The latest arrivals by listener. Those of which there is no room for are not replayed.
#[map]
static ARRIVALS: HashMap<ListenerKey, Arrivals> = HashMap::with_max_entries(256, BPF_F_NO_PREALLOC);

/// Connections that this host made; the longest unused gives way.
#[map]
static CLIENTS: LruHashMap<u64, Client> = LruHashMap::with_max_entries(16384, 0);

/// What they do.
#[map]
static CLIENT_EVENTS: RingBuf = RingBuf::with_byte_size(512 * 1024, 0);

/// Of them those for which the ring had no room.
#[map]
static CLIENT_EVENTS_LOST: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// A listener without arrivals, to insert without taking up the stack.
static BLANK: Arrivals = Arrivals::BLANK;

/// Takes in that a connection entered the queue of `listener`, which then was `depth` deep. Two CPUs
/// that come to one slot at once may count one for two: an estimate is made of it, not a balance.
#[inline(always)]
pub fn arrived(listener: &ListenerKey, depth: u32) {
    // SAFETY: a helper without arguments.
    let number = (unsafe { bpf_ktime_get_ns() } / SLOT_NS) as u32;
    let Some(arrivals) = place(&ARRIVALS, listener, &BLANK) else { return };
    // SAFETY: a value of the map, which lives on while the program runs.
    let slot = unsafe { &mut (*arrivals).slots[number as usize & (SLOTS - 1)] };
    if slot.number != number {
        slot.number = number;
        slot.enqueued = 0;
    }
    slot.enqueued += 1;
    slot.depth = depth;
}

const TCP_ESTABLISHED: u32 = 1;
const TCP_SYN_SENT: u32 = 2;
const TCP_FIN_WAIT1: u32 = 4;
const TCP_CLOSE: u32 = 7;
const TCP_CLOSE_WAIT: u32 = 8;
const TCP_LAST_ACK: u32 = 9;
const IPPROTO_TCP: u16 = 6;

/// kernel: tracepoint `inet_sock_set_state(sk, oldstate, newstate)`. A connect begins in the process
/// that makes it; it ends for that process when either side is through with it, wherever that is
/// noticed.
#[btf_tracepoint(function = "inet_sock_set_state")]
pub fn client_changed(ctx: BtfTracePointContext) -> i32 {
    let (old, new): (u32, u32) = (ctx.arg(1), ctx.arg(2));
    let sk: *const u8 = ctx.arg(0);
    let begins = old == TCP_CLOSE && new == TCP_SYN_SENT;
    let was_under_way = matches!(old, TCP_SYN_SENT | TCP_ESTABLISHED | TCP_CLOSE_WAIT);
    let ends = was_under_way && matches!(new, TCP_CLOSE | TCP_FIN_WAIT1 | TCP_LAST_ACK);
    if !begins && !ends {
        return 0;
    }
    // SAFETY: `sk` is a program argument of type `struct sock *`.
    if unsafe { Typed::field::<u16>(sk, OFF_SK_PROTOCOL) } != IPPROTO_TCP {
        return 0;
    }
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    let (client, what) = if begins {
        let client = Client { at_ns: now, pid: ctx.tgid(), reserved: 0 };
        let _ = CLIENTS.insert(sk as u64, client, 0);
        (client, CLIENT_OPENED)
    } else {
        // SAFETY: plain numbers; nobody else changes a connection's entry.
        let Some(client) = (unsafe { CLIENTS.get(sk as u64) }).copied() else { return 0 };
        let _ = CLIENTS.remove(sk as u64);
        (client, if old == TCP_SYN_SENT { CLIENT_FAILED } else { CLIENT_CLOSED })
    };
    tell(sk, now, &client, what);
    0
}

#[inline(always)]
fn tell(sk: *const u8, now: u64, client: &Client, what: u8) {
    // A socket and a request begin alike, and both have the other side's address there.
    let peer = requester::<Typed>(sk);
    let record = ClientRecord {
        at_ns: now,
        opened_ns: client.at_ns,
        netns: netns_of::<Typed>(sk),
        netns_inode: inode_of::<Typed>(sk),
        pid: client.pid,
        addr: peer.addr,
        port: peer.port,
        family: peer.family as u8,
        what,
        reserved: 0,
    };
    // The agent looks once a tick; to be woken would cost an interrupt.
    if CLIENT_EVENTS.output::<ClientRecord>(&record, u64::from(BPF_RB_NO_WAKEUP)).is_err()
        && let Some(lost) = CLIENT_EVENTS_LOST.get_ptr_mut(0)
    {
        // SAFETY: this CPU's slot of a per-CPU map.
        unsafe { *lost += 1 };
    }
}
