//! The bracket: how much this CPU's own MIB counters grew between a function's entry and its exit.
//!
//! The handshake functions run in softirq with bottom halves disabled, on one CPU, and the MIBs
//! (`net->mib.net_statistics`) are per-CPU counters of the listener's namespace. So the growth
//! between entry and exit is what this segment did to this listener: independent of inlining, of
//! `>` against `>=` in the queue check, and of races with `accept(2)`.
//!
//! The bracketed functions never nest in one another, so one open bracket per CPU suffices. An exit
//! without its entry (attached in between) is counted and ignored; an entry always starts afresh,
//! so a missed exit costs that one segment and nothing after it.

use aya_ebpf::{macros::map, maps::PerCpuArray};

use crate::{
    kernel::{
        MIB_LISTEN_OVERFLOWS, MIB_REQ_Q_FULL_DROP, OFF_BPF_ARRAY_PPTRS, OFF_NET_STATISTICS,
        OFF_SK_NET, field, read_at,
    },
    maps::totals,
    segment::Peer,
};

/// The function a bracket is around.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Site {
    ConnRequest = 1,
    CheckReq = 2,
    CookieCheck = 3,
}

/// ListenOverflows and ListenDrops: neighbours in `enum LINUX_MIB_*` on every kernel (the agent
/// checks), so one read fetches both.
#[repr(C)]
#[derive(Clone, Copy)]
struct Counters {
    overflows: u64,
    drops: u64,
}

/// The open bracket of this CPU.
#[repr(C)]
pub struct Bracket {
    /// Distance from a per-CPU pointer to this CPU's instance; valid once `washed` is set.
    percpu_offset: u64,
    /// A pointer written here reads back as a plain number, on which arithmetic is allowed.
    washed: u64,
    /// Address of this CPU's MIB counters of the namespace.
    mibs: u64,
    sk: u64,
    site: u32,
    reserved: u32,
    before: Counters,
    req_q_full_before: u64,
    /// Who sent the segment, where the segment may be gone at the exit.
    pub peer: Peer,
}

/// What the bracketed call did.
#[derive(Clone, Copy)]
pub struct Growth {
    pub overflows: u64,
    pub drops: u64,
    pub req_q_full: u64,
}

#[map]
static BRACKETS: PerCpuArray<Bracket> = PerCpuArray::with_max_entries(1, 0);

/// Opens the bracket of `site` for a segment to listener `sk`.
#[inline(always)]
pub fn open(site: Site, sk: *const u8) -> Option<&'static mut Bracket> {
    let slot = BRACKETS.get_ptr_mut(0)?;
    // SAFETY: this CPU's slot; the bracketed functions do not nest (see above).
    let bracket = unsafe { &mut *slot };
    if bracket.site != 0 {
        totals(|t| t.nested += 1);
    }
    bracket.site = 0;
    let offset = percpu_offset(bracket)?;
    // SAFETY: `sk` is a program argument of type `struct sock *`, `skc_net` a `struct net *`.
    let statistics: *const u8 =
        unsafe { field(field::<*const u8>(sk, &OFF_SK_NET), &OFF_NET_STATISTICS) };
    bracket.mibs = wash(bracket, statistics as u64).wrapping_add(offset);
    bracket.before = read_at(bracket.mibs + 8 * MIB_LISTEN_OVERFLOWS.load())?;
    if matches!(site, Site::ConnRequest) {
        bracket.req_q_full_before = read_at(bracket.mibs + 8 * MIB_REQ_Q_FULL_DROP.load())?;
    }
    bracket.sk = wash(bracket, sk as u64);
    bracket.site = site as u32;
    Some(bracket)
}

/// Closes the bracket of `site`; `None` where nothing was counted.
#[inline(always)]
pub fn close(site: Site, sk: *const u8) -> Option<(Growth, &'static mut Bracket)> {
    let slot = BRACKETS.get_ptr_mut(0)?;
    // SAFETY: as in `open`.
    let bracket = unsafe { &mut *slot };
    if bracket.site != site as u32 || bracket.sk != wash(bracket, sk as u64) {
        totals(|t| t.orphan_exits += 1);
        return None;
    }
    bracket.site = 0;
    let after: Counters = read_at(bracket.mibs + 8 * MIB_LISTEN_OVERFLOWS.load())?;
    let mut growth = Growth {
        overflows: after.overflows.wrapping_sub(bracket.before.overflows),
        drops: after.drops.wrapping_sub(bracket.before.drops),
        req_q_full: 0,
    };
    if growth.overflows == 0 && growth.drops == 0 {
        return None;
    }
    if matches!(site, Site::ConnRequest) {
        let after: u64 = read_at(bracket.mibs + 8 * MIB_REQ_Q_FULL_DROP.load())?;
        growth.req_q_full = after.wrapping_sub(bracket.req_q_full_before);
    }
    totals(|t| {
        t.overflows += growth.overflows;
        t.drops += growth.drops;
    });
    Some((growth, bracket))
}

/// Distance from a per-CPU pointer to this CPU's instance, found once per CPU: the address of this
/// map's own element (`bpf_map_lookup_elem` gives this CPU's) minus the per-CPU pointer the map
/// keeps for it (`struct bpf_array.pptrs[0]`). Needs no kallsyms.
#[inline(always)]
fn percpu_offset(bracket: &mut Bracket) -> Option<u64> {
    if bracket.percpu_offset != 0 {
        return Some(bracket.percpu_offset);
    }
    let element = core::ptr::from_mut(bracket) as u64;
    let element = wash(bracket, element);
    let map = wash(bracket, core::ptr::addr_of!(BRACKETS) as u64);
    let pptr: u64 = read_at(map + OFF_BPF_ARRAY_PPTRS.load())?;
    bracket.percpu_offset = element.wrapping_sub(pptr);
    Some(bracket.percpu_offset)
}

/// Turns a pointer into a number the verifier allows arithmetic on.
#[inline(always)]
fn wash(bracket: &mut Bracket, pointer: u64) -> u64 {
    let slot = core::ptr::addr_of_mut!(bracket.washed);
    // SAFETY: a field of a map element.
    unsafe {
        slot.write_volatile(pointer);
        slot.read_volatile()
    }
}
