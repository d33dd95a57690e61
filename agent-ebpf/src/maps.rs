//! The maps shared with the agent.

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    macros::map,
    maps::{Array, PerCpuArray, PerCpuHashMap, RingBuf},
};
use floodmark_common::{
    ListenerKey, ListenerTally, NoPortKey, NoPortTally, ServiceKey, ServiceTally, Totals,
};

/// Totals of this CPU; preallocated, so counting in it never fails.
#[map]
pub static TOTALS: PerCpuArray<Totals> = PerCpuArray::with_max_entries(1, 0);

/// Losses by listener. Not preallocated: only listeners in trouble take memory.
#[map]
pub static LISTENERS: PerCpuHashMap<ListenerKey, ListenerTally> =
    PerCpuHashMap::with_max_entries(4096, BPF_F_NO_PREALLOC);

/// Number of places in [`LOSERS`]; a power of two.
pub const LOSERS_PLACES: u32 = 8192;

/// Connections that lost a segment not long ago, each by a hash of its addresses at the place that
/// the hash gives it: tells a connection's first loss from those that follow. One that comes to a
/// place taken takes it over, so memory is bounded; the other's next loss counts as a first.
#[map]
pub static LOSERS: Array<u64> = Array::with_max_entries(LOSERS_PLACES, 0);

/// What became of connections, by service.
#[map]
pub static SERVICES: PerCpuHashMap<ServiceKey, ServiceTally> =
    PerCpuHashMap::with_max_entries(4096, BPF_F_NO_PREALLOC);

/// Connects that found no local port, by destination and process.
#[map]
pub static NO_PORT: PerCpuHashMap<NoPortKey, NoPortTally> =
    PerCpuHashMap::with_max_entries(1024, BPF_F_NO_PREALLOC);

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
