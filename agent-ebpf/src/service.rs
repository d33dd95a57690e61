//! Counting what became of connections, by service and side.

use floodmark_common::{
    CountingMap, NetnsKey, RECENT_PLACES, RecentService, SERVICE_CLASSES, ServiceClass, ServiceKey,
    ServiceTally,
};

use crate::{
    kernel::{Access, OFF_SK_PORTPAIR},
    maps::{RECENT_SERVICES, SERVICES, add, no_room, place},
    netns::netns_of,
};

/// A tally at zero, to insert without taking up the stack.
static BLANK: ServiceTally = ServiceTally { counts: [0; SERVICE_CLASSES] };

/// Counts for the service of `sk`: a `struct sock *`, or anything else that begins with a `struct
/// sock_common`.
#[inline(always)]
pub fn count<A: Access>(sk: *const u8, class: ServiceClass) {
    count_times::<A>(sk, class, 1);
}

/// As above, so many at once.
#[inline(always)]
pub fn count_times<A: Access>(sk: *const u8, class: ServiceClass, times: u64) {
    // `skc_dport` and `skc_num` in one load.
    // SAFETY: the pair is a member of `struct sock_common`.
    let ports: u32 = unsafe { A::field(sk, OFF_SK_PORTPAIR) };
    let [d0, d1, n0, n1] = ports.to_ne_bytes();
    let (local, remote) = (u16::from_ne_bytes([n0, n1]), u16::from_be_bytes([d0, d1]));
    count_between(netns_of::<A>(sk), local, remote, class, times);
}

/// Where ephemeral ports begin by default (`net.ipv4.ip_local_port_range`).
const EPHEMERAL: u32 = 32768;

/// Counts for the service between two ports. The lower one is taken for the service's, unless both
/// are ephemeral: then nobody knows, and keys by client would fill the map; port 0 stands for those.
#[inline(always)]
pub fn count_between(netns: NetnsKey, local: u16, remote: u16, class: ServiceClass, times: u64) {
    let (lower, is_local) = if local <= remote { (local, 1) } else { (remote, 0) };
    let port = if u32::from(lower) < EPHEMERAL { lower } else { 0 };
    let key = ServiceKey { netns, port, is_local, reserved: 0 };
    if let Some(recent) = recent(&key) {
        recent.tally.counts[class as usize] += times;
        return;
    }
    match tally_of(key) {
        // SAFETY: an element of the map.
        Some(tally) => unsafe { add(&raw mut (*tally).counts[class as usize], times) },
        None => no_room(CountingMap::Services),
    }
}

/// How many others may pass by a service's place before one takes it over. Each time that the service
/// itself comes by, they begin anew: of two that share a place, the busier keeps it.
const PATIENCE: u64 = 8;

/// This CPU's place for the service, if it has it or may take it over. A busy service is counted
/// there: an array costs about a sixth of what a look into the map costs.
#[inline(always)]
fn recent(key: &ServiceKey) -> Option<&'static mut RecentService> {
    // Any odd constant spreads well enough for some dozens of places.
    const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
    let number = u64::from(key.port) | u64::from(key.is_local) << 16;
    let place = (key.netns ^ number << 32).wrapping_mul(SPREAD)
        >> (u64::BITS - RECENT_PLACES.trailing_zeros());
    // SAFETY: this CPU's slot of a per-CPU map.
    let recent = unsafe { &mut *RECENT_SERVICES.get_ptr_mut(0)? };
    let recent = &mut recent.places[place as usize & (RECENT_PLACES - 1)];
    // SAFETY: the key's sixteen bytes, of which the latter lie as in the number: two loads instead of
    // four.
    let owner = unsafe { (&raw const recent.key).cast::<[u64; 2]>().read() };
    if (owner[0] != key.netns || owner[1] != number) && !take_over(recent, *key) {
        return None;
    }
    recent.patience = PATIENCE;
    Some(recent)
}

/// Gives a place to another service, once those before it have used up its owner's patience; the
/// owner's counts go to the map. Its key goes first, so that who reads the places before and after the
/// map sees by the key that counts were on their way.
#[inline(always)]
fn take_over(recent: &mut RecentService, key: ServiceKey) -> bool {
    if recent.patience > 0 {
        recent.patience -= 1;
        return false;
    }
    // Whatever interrupts this program on its CPU leaves the place alone.
    recent.patience = PATIENCE;
    if recent.key != ServiceKey::default() {
        let Some(tally) = tally_of(recent.key) else { return false };
        let place = core::ptr::from_mut(recent);
        // SAFETY: this CPU's place, and an element of the map. Volatile, so that the key is written
        // before the counts move, and that no call of `memset` comes of them (see `program.rs`).
        unsafe {
            (&raw mut (*place).key).write_volatile(ServiceKey::default());
            for class in 0..SERVICE_CLASSES {
                let count = &raw mut (*place).tally.counts[class];
                add(&raw mut (*tally).counts[class], count.read_volatile());
                count.write_volatile(0);
            }
        }
    }
    recent.key = key;
    true
}

/// The service's place in the map, made if missing. By value: a key in memory costs the programs more.
#[inline(always)]
fn tally_of(key: ServiceKey) -> Option<*mut ServiceTally> {
    place(&SERVICES, &key, &BLANK)
}
