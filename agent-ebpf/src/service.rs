//! Counting what became of connections, by service and side.

use aya_ebpf::bindings::BPF_NOEXIST;
use floodmark_common::{SERVICE_CLASSES, ServiceClass, ServiceKey, ServiceTally};

use crate::{
    kernel::{Access, OFF_SK_PORTPAIR},
    listener::netns_of,
    maps::{SERVICES, totals},
};

/// A tally at zero, to insert without taking up the stack.
static BLANK: ServiceTally = ServiceTally { counts: [0; SERVICE_CLASSES] };

/// Counts for the service of `sk`: a `struct sock *`, or anything else that begins with a `struct
/// sock_common`.
#[inline(always)]
pub fn count<A: Access>(sk: *const u8, class: ServiceClass) {
    // `skc_dport` and `skc_num` in one load.
    // SAFETY: the pair is a member of `struct sock_common`.
    let ports: u32 = unsafe { A::field(sk, &OFF_SK_PORTPAIR) };
    let [d0, d1, n0, n1] = ports.to_ne_bytes();
    let (local, remote) = (u16::from_ne_bytes([n0, n1]), u16::from_be_bytes([d0, d1]));
    count_between(netns_of::<A>(sk), local, remote, class);
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
