//! The maps shared with the agent.

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    macros::map,
    maps::{LruHashMap, PerCpuArray, PerCpuHashMap, RingBuf},
};
use floodmark_common::{ListenerKey, ListenerTally, TimeWaitKey, Totals};

/// Totals of this CPU; preallocated, so counting in it never fails.
#[map]
pub static TOTALS: PerCpuArray<Totals> = PerCpuArray::with_max_entries(1, 0);

/// Losses by listener. Not preallocated: only listeners in trouble take memory.
#[map]
pub static LISTENERS: PerCpuHashMap<ListenerKey, ListenerTally> =
    PerCpuHashMap::with_max_entries(4096, BPF_F_NO_PREALLOC);

/// Connections that lost a segment not long ago, by a hash of their addresses: tells a connection's
/// first loss from those that follow. The oldest make room, so memory is bounded.
#[map]
pub static LOSERS: LruHashMap<u64, u8> = LruHashMap::with_max_entries(4096, 0);

/// TIME_WAIT entries by service.
#[map]
pub static TIME_WAIT: PerCpuHashMap<TimeWaitKey, u64> =
    PerCpuHashMap::with_max_entries(4096, BPF_F_NO_PREALLOC);

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
