//! The bracket: how much this CPU's own MIB counters grew between a function's entry and its exit.
//!
//! The handshake functions run in softirq with bottom halves disabled, on one CPU, and the MIBs
//! (`net->mib.net_statistics`) are per-CPU counters of the listener's namespace. So the growth
//! between entry and exit is what this segment did to this listener: independent of inlining, of
//! `>` against `>=` in the queue check, and of races with `accept(2)`.
//!
//! ListenOverflows and ListenDrops are also bumped elsewhere, so they are read at both ends; where
//! ListenDrops stands still nothing was lost, and that one read tells it. The other counters are
//! bumped in bracketed functions alone ([`Baseline`]), so what was read at the exit of the last
//! bracket still holds at the entry of the next, and where nothing happened they are not read at all.
//!
//! The bracketed functions never nest in one another, so one open bracket per CPU suffices. An exit
//! without its entry (attached in between) is counted and ignored; an entry always starts afresh,
//! so a missed exit costs that one segment and nothing after it.

use aya_ebpf::{macros::map, maps::PerCpuArray};
use floodmark_common::NetnsKey;

use crate::{
    kernel::{
        Access, OFF_BPF_ARRAY_PPTRS, OFF_MIB_DEFER_ACCEPT_DROP, OFF_MIB_EMBRYONIC_RSTS,
        OFF_MIB_FASTOPEN_PASSIVE_FAIL, OFF_MIB_LISTEN_DROPS, OFF_MIB_LISTEN_OVERFLOWS,
        OFF_MIB_REQ_Q_FULL_DO_COOKIES, OFF_MIB_SYNCOOKIES_RECV, OFF_MIB_SYNCOOKIES_SENT,
        OFF_NET_STATISTICS, OFF_SK_DROPS, OFF_SK_NET, Open, TYPE_LINUX_MIB, is_cast, read_at,
        read_member, read_pair,
    },
    maps::totals,
    netns::key_of,
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

/// Something that fails inside a bracket, and which the counters do not tell from others.
#[derive(Clone, Copy)]
#[repr(u32)]
pub enum Failure {
    /// `tcp_peer_is_proven`: the peer is not.
    Unproven = 1,
    /// `inet_reqsk_alloc`: no memory.
    NoMemory = 2,
    /// `security_inet_conn_request`: refused.
    Policy = 4,
    /// `inet_csk_route_req`, `inet6_csk_route_req`: no route.
    NoRoute = 8,
    /// `__inet_inherit_port`: the child gets no port.
    PortInheritance = 16,
}

/// ListenOverflows and ListenDrops: neighbours in `enum LINUX_MIB_*` on every kernel (the agent
/// checks), so one read fetches both.
#[derive(Clone, Copy)]
pub struct Listen {
    pub overflows: u64,
    pub drops: u64,
}

/// TCPReqQFullDoCookies and TCPReqQFullDrop, neighbours as well.
#[derive(Clone, Copy)]
pub struct ReqQFull {
    pub do_cookies: u64,
    pub drop: u64,
}

/// SyncookiesRecv and SyncookiesFailed, neighbours as well.
#[derive(Clone, Copy)]
pub struct Cookies {
    pub received: u64,
    pub failed: u64,
}

/// Counters of one namespace on this CPU that only bracketed functions bump, each as last read.
#[repr(C)]
struct Baseline {
    /// Whose: never the key of another, while the address of a `struct net` may go to a younger one. 0
    /// until a baseline was taken.
    netns: NetnsKey,
    cookies_sent: u64,
    cookies: [u64; 2],
    embryonic_resets: u64,
    req_q_full: [u64; 2],
    deferred: u64,
    fast_open_failed: u64,
}

/// The open bracket of this CPU.
#[repr(C)]
pub struct Bracket {
    /// Distance from a per-CPU pointer to this CPU's instance.
    percpu_offset: u64,
    /// A pointer written here reads back as a plain number, on which arithmetic is allowed.
    washed: u64,
    /// Address of this CPU's MIB counters of the baseline's namespace.
    mibs: u64,
    sk: u64,
    /// The function's other arguments, where its exit does not have them (kretprobe).
    pub skb: u64,
    pub req: u64,
    site: u32,
    /// What failed inside the bracket, as far as somebody watches: bits of [`Failure`].
    failures: u32,
    before: [u64; 2],
    /// The last SYN that `tcp_conn_request` was asked about, until its caller returns.
    syn: u64,
    /// `sk_drops` at the entry, where it spares a helper call ([`Bracket::is_unscathed`]).
    sk_drops: u32,
    reserved: u32,
    baseline: Baseline,
    /// Who sent the segment, where the segment may be gone at the exit.
    pub peer: Peer,
}

#[map]
static BRACKETS: PerCpuArray<Bracket> = PerCpuArray::with_max_entries(1, 0);

/// This CPU's slot, whether a bracket is open in it or not.
#[inline(always)]
fn slot() -> Option<&'static mut Bracket> {
    let slot = BRACKETS.get_ptr_mut(0)?;
    // SAFETY: this CPU's slot; the bracketed functions do not nest (see above).
    Some(unsafe { &mut *slot })
}

/// The bracket of `site`, if it is open on this CPU.
#[inline(always)]
pub fn current(site: Site) -> Option<&'static mut Bracket> {
    slot().filter(|bracket| bracket.site == site as u32)
}

/// Opens the bracket of `site` for a segment to listener `sk`.
#[inline(always)]
pub fn open<A: Access>(site: Site, sk: *const u8) -> Option<&'static mut Bracket> {
    open_in::<A>(slot()?, site, sk)
}

#[inline(always)]
fn open_in<A: Access>(
    bracket: &'static mut Bracket,
    site: Site,
    sk: *const u8,
) -> Option<&'static mut Bracket> {
    if bracket.site != 0 {
        totals(|t| t.nested += 1);
    }
    bracket.site = 0;
    enter_namespace::<A>(bracket, sk)?;
    bracket.before = bracket.two(OFF_MIB_LISTEN_OVERFLOWS)?;
    if !is_cast(TYPE_LINUX_MIB) {
        // SAFETY: `sk` is a `struct sock *`.
        bracket.sk_drops = unsafe { A::field(sk, OFF_SK_DROPS) };
    }
    bracket.failures = 0;
    keep(&raw mut bracket.sk, sk as u64);
    bracket.site = site as u32;
    Some(bracket)
}

/// Makes the counters of the namespace of `sk` the bracket's, if the last segment on this CPU was
/// another's.
#[inline(always)]
fn enter_namespace<A: Access>(bracket: &mut Bracket, sk: *const u8) -> Option<()> {
    // SAFETY: `sk` is a `struct sock *`.
    let net: *const u8 = unsafe { A::field(sk, OFF_SK_NET) };
    let netns = key_of::<A>(net);
    if bracket.baseline.netns == netns {
        return Some(());
    }
    // SAFETY: `net` is a `struct net *`.
    let statistics: u64 = unsafe { A::field::<*const u8>(net, OFF_NET_STATISTICS) } as u64;
    let offset = percpu_offset(bracket)?;
    bracket.mibs = wash(bracket, statistics).wrapping_add(offset);
    take_baseline(bracket)?;
    bracket.baseline.netns = netns;
    Some(())
}

/// Opens the bracket of `tcp_conn_request`, and notes which SYN it is asked about.
#[inline(always)]
pub fn open_for_syn<A: Access>(sk: *const u8, skb: u64) -> Option<&'static mut Bracket> {
    let bracket = slot()?;
    bracket.syn = skb;
    open_in::<A>(bracket, Site::ConnRequest, sk)
}

/// Whether `tcp_conn_request` was asked about SYN `skb` on this CPU; forgets it.
#[inline(always)]
pub fn was_asked(skb: *const u8) -> bool {
    slot().is_none_or(|bracket| {
        let asked = core::mem::replace(&mut bracket.syn, 0);
        asked == skb as u64
    })
}

/// Closes the bracket of `site`; `None` if it was not open for listener `sk`.
#[inline(always)]
pub fn close(site: Site, sk: *const u8) -> Option<&'static mut Bracket> {
    let bracket = slot()?;
    if bracket.site != site as u32 || bracket.sk != sk as u64 {
        totals(|t| t.orphan_exits += 1);
        return None;
    }
    bracket.site = 0;
    Some(bracket)
}

/// Closes the bracket of `site` where the exit does not know for whom it was opened, if it was: the
/// entry leaves some calls out.
#[inline(always)]
pub fn close_any(site: Site) -> Option<(*const u8, &'static mut Bracket)> {
    let bracket = current(site)?;
    bracket.site = 0;
    Some((bracket.sk as *const u8, bracket))
}

/// Notes that something failed, if a bracket is open on this CPU.
#[inline(always)]
pub fn note(failure: Failure) {
    if let Some(bracket) = slot().filter(|bracket| bracket.site != 0) {
        bracket.failures |= failure as u32;
    }
}

impl Bracket {
    /// Whether `failure` was noted since the entry.
    #[inline(always)]
    pub fn failed(&self, failure: Failure) -> bool {
        self.failures & failure as u32 != 0
    }

    /// Growth of ListenOverflows and ListenDrops since the entry. Whatever bumps the first here bumps
    /// the second too.
    #[inline(always)]
    pub fn listen<A: Access>(&self, sk: *const u8) -> Option<Listen> {
        if self.is_unscathed::<A>(sk) {
            return Some(Listen { overflows: 0, drops: 0 });
        }
        let drops = self.one(OFF_MIB_LISTEN_DROPS)?;
        if drops == self.before[1] {
            return Some(Listen { overflows: 0, drops: 0 });
        }
        let overflows = self.one(OFF_MIB_LISTEN_OVERFLOWS)?;
        Some(Listen {
            overflows: overflows.wrapping_sub(self.before[0]),
            drops: drops.wrapping_sub(self.before[1]),
        })
    }

    /// Whether it is known without reading a counter that nothing was dropped: `tcp_listendrop` bumps
    /// `sk_drops` of the listener before ListenDrops. That is one load; a counter is another where it
    /// can be cast, and else a helper call.
    #[inline(always)]
    fn is_unscathed<A: Access>(&self, sk: *const u8) -> bool {
        // SAFETY: `sk` is a `struct sock *`.
        !is_cast(TYPE_LINUX_MIB) && unsafe { A::field::<u32>(sk, OFF_SK_DROPS) } == self.sk_drops
    }

    /// Growth of SyncookiesSent.
    #[inline(always)]
    pub fn cookies_sent(&mut self) -> Option<u64> {
        let now = self.one(OFF_MIB_SYNCOOKIES_SENT)?;
        Some(advance(&mut self.baseline.cookies_sent, now))
    }

    /// Growth of SyncookiesRecv and SyncookiesFailed.
    #[inline(always)]
    pub fn cookies(&mut self) -> Option<Cookies> {
        let [received, failed] = self.two(OFF_MIB_SYNCOOKIES_RECV)?;
        let baseline = &mut self.baseline.cookies;
        Some(Cookies {
            received: advance(&mut baseline[0], received),
            failed: advance(&mut baseline[1], failed),
        })
    }

    /// Growth of EmbryonicRsts.
    #[inline(always)]
    pub fn embryonic_resets(&mut self) -> Option<u64> {
        let now = self.one(OFF_MIB_EMBRYONIC_RSTS)?;
        Some(advance(&mut self.baseline.embryonic_resets, now))
    }

    /// Growth of TCPReqQFullDoCookies and TCPReqQFullDrop.
    #[inline(always)]
    pub fn req_q_full(&mut self) -> Option<ReqQFull> {
        let [do_cookies, drop] = self.two(OFF_MIB_REQ_Q_FULL_DO_COOKIES)?;
        let baseline = &mut self.baseline.req_q_full;
        Some(ReqQFull {
            do_cookies: advance(&mut baseline[0], do_cookies),
            drop: advance(&mut baseline[1], drop),
        })
    }

    /// Growth of TCPDeferAcceptDrop.
    #[inline(always)]
    pub fn deferred(&mut self) -> Option<u64> {
        let now = self.one(OFF_MIB_DEFER_ACCEPT_DROP)?;
        Some(advance(&mut self.baseline.deferred, now))
    }

    /// Growth of TCPFastOpenPassiveFail.
    #[inline(always)]
    pub fn fast_open_failed(&mut self) -> Option<u64> {
        let now = self.one(OFF_MIB_FASTOPEN_PASSIVE_FAIL)?;
        Some(advance(&mut self.baseline.fast_open_failed, now))
    }

    /// Reads a counter.
    #[inline(always)]
    fn one(&self, counter: impl Open) -> Option<u64> {
        read_member(TYPE_LINUX_MIB, self.mibs, counter)
    }

    /// Reads a counter and the one that follows it.
    #[inline(always)]
    fn two(&self, first: impl Open) -> Option<[u64; 2]> {
        read_pair(TYPE_LINUX_MIB, self.mibs, first)
    }
}

/// Reads everything anew: another namespace than the last one on this CPU.
#[inline(always)]
fn take_baseline(bracket: &mut Bracket) -> Option<()> {
    bracket.baseline.netns = 0;
    bracket.baseline.cookies_sent = bracket.one(OFF_MIB_SYNCOOKIES_SENT)?;
    bracket.baseline.cookies = bracket.two(OFF_MIB_SYNCOOKIES_RECV)?;
    bracket.baseline.embryonic_resets = bracket.one(OFF_MIB_EMBRYONIC_RSTS)?;
    bracket.baseline.req_q_full = bracket.two(OFF_MIB_REQ_Q_FULL_DO_COOKIES)?;
    bracket.baseline.deferred = bracket.one(OFF_MIB_DEFER_ACCEPT_DROP)?;
    bracket.baseline.fast_open_failed = bracket.one(OFF_MIB_FASTOPEN_PASSIVE_FAIL)?;
    Some(())
}

/// Moves a counter on to `now` and returns by how much. One that went back belongs to a younger
/// namespace: all it holds is growth.
#[inline(always)]
fn advance(counter: &mut u64, now: u64) -> u64 {
    let growth = if now < *counter { now } else { now - *counter };
    *counter = now;
    growth
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
    let slot = &raw mut bracket.washed;
    keep(slot, pointer);
    // SAFETY: a field of a map element.
    unsafe { slot.read_volatile() }
}

/// Writes a pointer into a map element, from where it reads back as a number. Volatile, lest what is
/// read later be taken for the pointer itself.
#[inline(always)]
fn keep(slot: *mut u64, pointer: u64) {
    // SAFETY: the callers' slots are fields of a map element.
    unsafe { slot.write_volatile(pointer) }
}
