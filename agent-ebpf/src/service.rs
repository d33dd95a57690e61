//! Counting what became of connections, by service and side.

use aya_ebpf::bindings::BPF_NOEXIST;
use floodmark_common::{SERVICE_CLASSES, ServiceClass, ServiceKey, ServiceTally};

use crate::{
    kernel::{Access, OFF_SK_DPORT, OFF_SK_NUM},
    listener::netns_of,
    maps::{SERVICES, totals},
};

/// A tally at zero, to insert without taking up the stack.
static BLANK: ServiceTally = ServiceTally { counts: [0; SERVICE_CLASSES] };

/// Counts for the service of `sk`: a `struct sock *`, or anything else that begins with a `struct
/// sock_common`.
#[inline(always)]
pub fn count<A: Access>(sk: *const u8, class: ServiceClass) {
    // SAFETY: both members are of `struct sock_common`.
    let (local, remote) =
        unsafe { (A::field::<u16>(sk, &OFF_SK_NUM), A::field::<u16>(sk, &OFF_SK_DPORT)) };
    count_between(netns_of::<A>(sk), local, u16::from_be(remote), class);
}

/// Where ephemeral ports begin by default (`net.ipv4.ip_local_port_range`).
const EPHEMERAL: u16 = 32768;

/// Counts for the service between two ports. The lower one is taken for the service's, unless both
/// are ephemeral: then nobody knows, and keys by client would fill the map; port 0 stands for those.
#[inline(always)]
pub fn count_between(netns: u32, local: u16, remote: u16, class: ServiceClass) {
    totals(|t| t.service_counts[class as usize] += 1);
    let lower = local.min(remote);
    let port = if lower < EPHEMERAL { lower } else { 0 };
    let key = ServiceKey { netns, port, is_local: u16::from(local <= remote) };
    let known = SERVICES.get_ptr_mut(key);
    let tally = known.or_else(|| {
        let _ = SERVICES.insert(key, &BLANK, u64::from(BPF_NOEXIST));
        SERVICES.get_ptr_mut(key)
    });
    match tally {
        // SAFETY: this CPU's slot of a per-CPU map.
        Some(tally) => unsafe { (*tally).counts[class as usize] += 1 },
        None => totals(|t| t.map_full += 1),
    }
}
