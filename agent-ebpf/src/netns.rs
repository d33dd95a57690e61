//! Which network namespace it is. Its inode number goes to the next namespace as soon as it is free;
//! what the maps are keyed by never does ([`NetnsKey`]).

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    macros::{fexit, map},
    maps::HashMap,
    programs::FExitContext,
};
use floodmark_common::NetnsKey;

use crate::kernel::{Access, OFF_NET_COOKIE, OFF_NET_INUM, OFF_SK_NET, Probed, is_known};

/// Before Linux 5.14: how many namespaces have been made with an inode number. The agent reads it too.
#[map]
static NETNS_LIVES: HashMap<u32, u32> = HashMap::with_max_entries(16384, BPF_F_NO_PREALLOC);

/// The namespace of `sk`.
#[inline(always)]
pub fn netns_of<A: Access>(sk: *const u8) -> NetnsKey {
    // SAFETY: `sk` is a `struct sock *`, whose `skc_net` is a `struct net *`.
    key_of::<A>(unsafe { A::field::<*const u8>(sk, OFF_SK_NET) })
}

/// The inode number of the namespace of `sk`.
#[inline(always)]
pub fn inode_of<A: Access>(sk: *const u8) -> u32 {
    // SAFETY: as above.
    unsafe { A::field(A::field::<*const u8>(sk, OFF_SK_NET), OFF_NET_INUM) }
}

/// The namespace `net`, a `struct net *`.
#[inline(always)]
pub fn key_of<A: Access>(net: *const u8) -> NetnsKey {
    if is_known(OFF_NET_COOKIE) {
        // SAFETY: the caller's `net`.
        return unsafe { A::field(net, OFF_NET_COOKIE) };
    }
    // SAFETY: as above.
    let inode: u32 = unsafe { A::field(net, OFF_NET_INUM) };
    u64::from(lives(inode)) << 32 | u64::from(inode)
}

#[inline(always)]
fn lives(inode: u32) -> u32 {
    match NETNS_LIVES.get_ptr(inode) {
        // SAFETY: an element of the map, which changes only while no namespace has this inode number.
        Some(lives) => unsafe { lives.read_volatile() },
        None => 0,
    }
}

const CLONE_NEWNET: u64 = 0x4000_0000;

/// kernel: net/core/net_namespace.c `copy_net_ns(flags, user_ns, old_net)`: the namespace made, or an
/// error, or the old one where nobody asked for another. Nobody is in the new one yet.
#[fexit(function = "copy_net_ns")]
pub fn namespace_made(ctx: FExitContext) -> i32 {
    let made: u64 = ctx.arg(3);
    let is_error = (made as i64) < 0 && (made as i64) >= -4095;
    if ctx.arg::<u64>(0) & CLONE_NEWNET == 0 || is_error {
        return 0;
    }
    // SAFETY: a `struct net *`.
    let inode: u32 = unsafe { Probed::field(made as *const u8, OFF_NET_INUM) };
    let _ = NETNS_LIVES.insert(inode, lives(inode).wrapping_add(1), 0);
    0
}
