//! The maps shared with the agent.
//!
//! Those that count losses are preallocated, and all CPUs count in one place: the kernel has no memory
//! at hand when a hundred listeners come into trouble at once (`bpf_mem_alloc`, for per-CPU values
//! above all), and a count for each CPU of so many listeners would be too much to have in reserve.

use core::arch::asm;

use aya_ebpf::{
    bindings::{BPF_F_NO_PREALLOC, BPF_NOEXIST},
    macros::map,
    maps::{Array, HashMap, LruHashMap, PerCpuArray, PerCpuHashMap, RingBuf},
};
use floodmark_common::{
    CountingMap, ListenerKey, ListenerTally, NoPortKey, NoPortTally, RecentServices, ServiceKey,
    ServiceTally, Totals,
    churn::{ChurnKey, ChurnTally, Connection, UnixRefusal},
    queue::{ListenCall, QueueTally, SocketKey},
};

/// Totals of this CPU; preallocated, so counting in it never fails.
#[map]
pub static TOTALS: PerCpuArray<Totals> = PerCpuArray::with_max_entries(1, 0);

/// Losses by listener.
#[map]
pub static LISTENERS: HashMap<ListenerKey, ListenerTally> = HashMap::with_max_entries(4096, 0);

/// Number of places in [`LOSERS`]; a power of two.
pub const LOSERS_PLACES: u32 = 8192;

/// Connections that lost a segment not long ago, each by a hash of its addresses at the place that
/// the hash gives it: tells a connection's first loss from those that follow. One that comes to a
/// place taken takes it over, so memory is bounded; the other's next loss counts as a first.
#[map]
pub static LOSERS: Array<u64> = Array::with_max_entries(LOSERS_PLACES, 0);

/// What became of connections lately, for the services that this CPU meets most: `service.rs`.
#[map]
pub static RECENT_SERVICES: PerCpuArray<RecentServices> = PerCpuArray::with_max_entries(1, 0);

/// What became of connections, by service, but for what is in [`RECENT_SERVICES`].
#[map]
pub static SERVICES: HashMap<ServiceKey, ServiceTally> = HashMap::with_max_entries(4096, 0);

/// Connects that found no local port, by destination and process.
#[map]
pub static NO_PORT: HashMap<NoPortKey, NoPortTally> = HashMap::with_max_entries(1024, 0);

/// Accept queues by listener, on each CPU, since a maximum cannot be had by adding. Only listeners that
/// take connections take memory; while the kernel has none at hand, a queue's first connections are not
/// in it.
#[map]
pub static QUEUES: PerCpuHashMap<ListenerKey, QueueTally> =
    PerCpuHashMap::with_max_entries(8192, BPF_F_NO_PREALLOC);

/// The number of the agent's current look at the queues.
#[map]
pub static EPOCH: Array<u32> = Array::with_max_entries(1, 0);

/// The listener on which a thread is in `inet_csk_accept`; used by the kprobe rung alone.
#[map]
pub static ACCEPTING: LruHashMap<u64, u64> = LruHashMap::with_max_entries(4096, 0);

/// The last `listen(2)` on each socket.
#[map]
pub static LISTENS: LruHashMap<SocketKey, ListenCall> = LruHashMap::with_max_entries(8192, 0);

/// Number of sockets that began or ceased to listen.
#[map]
pub static LISTEN_CHANGES: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// Connections under way, by the address of their `struct sock`; the longest unused gives way.
#[map]
pub static CONNECTIONS: LruHashMap<u64, Connection> = LruHashMap::with_max_entries(16384, 0);

/// How connections come and go, by service and peer.
#[map]
pub static CHURN: HashMap<ChurnKey, ChurnTally> = HashMap::with_max_entries(2048, 0);

/// Unix connects refused.
#[map]
pub static UNIX_REFUSED: HashMap<UnixRefusal, u64> = HashMap::with_max_entries(512, 0);

/// Detail events; the agent sets the size.
#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(256 * 1024, 0);

/// Applies `change` to this CPU's totals.
#[inline(always)]
pub fn totals(change: impl FnOnce(&mut Totals)) {
    if let Some(totals) = TOTALS.get_ptr_mut(0) {
        // SAFETY: a per-CPU slot, written by programs that do not interrupt one another; see
        // bracket.rs for the one exception and what it costs.
        change(unsafe { &mut *totals });
    }
}

/// The place of `key` in `map`, made if missing; `None` where there is no room. What is `blank` is a
/// static, lest it take up the stack.
#[inline(always)]
pub fn place<K, V>(map: &HashMap<K, V>, key: &K, blank: &V) -> Option<*mut V> {
    if let Some(place) = map.get_ptr_mut(key) {
        return Some(place);
    }
    // Another CPU may insert first; then that is the place.
    let _ = map.insert(key, blank, u64::from(BPF_NOEXIST));
    map.get_ptr_mut(key)
}

/// Notes that a count found no room in `map`.
#[inline(always)]
pub fn no_room(map: CountingMap) {
    totals(|t| t.map_full[map as usize] += 1);
}

/// Adds to a count that other CPUs add to at the same time (`BPF_ATOMIC | BPF_ADD`, which every kernel
/// has as long as nobody asks what the sum was).
///
/// # Safety
///
/// `count` must point to a `u64` in a map's value.
#[inline(always)]
pub unsafe fn add(count: *mut u64, more: u64) {
    // By hand: for Rust a BPF target has no atomics but loads and stores.
    // SAFETY: the caller's promise; values of maps are aligned to eight bytes.
    unsafe { asm!("lock *(u64 *)({0} + 0) += {1}", in(reg) count, in(reg) more) };
}
