//! The accept queue: how deep it is after each enqueue, and how long each connection waited in it.
//!
//! No map remembers when a connection was enqueued: its socket does. `tcp_init_buffer_space` stores
//! the time in `tcp_sock.rcvq_space.time` as the handshake completes, and nothing but the
//! application's own reading changes it later. So nothing leaks where a connection dies unaccepted.

use core::hint::black_box;

use aya_ebpf::{
    EbpfContext,
    bindings::BPF_NOEXIST,
    helpers::generated::bpf_ktime_get_ns,
    macros::{btf_tracepoint, fexit, kprobe, kretprobe},
    programs::{BtfTracePointContext, FExitContext, ProbeContext, RetProbeContext},
};
use floodmark_common::{
    CountingMap, ListenerKey,
    queue::{QueueTally, WAIT_BUCKETS, wait_bucket},
};

use crate::{
    flow::arrived,
    kernel::{
        Access, OFF_CSK_QLEN, OFF_REGS_DI, OFF_REGS_ORIG_AX, OFF_SK_ACK_BACKLOG, OFF_SK_PROTOCOL,
        OFF_TP_RCVQ_TIME, Open, Probed, Typed, read_or_zero,
    },
    listener::key_of,
    maps::{ACCEPTING, EPOCH, QUEUES, no_room},
    task::{register, socket_of_fd},
};

const TCP_SYN_RECV: u32 = 3;
const TCP_LISTEN: u32 = 10;
const IPPROTO_TCP: u16 = 6;

/// kernel: net/ipv4/inet_connection_sock.c
/// `inet_csk_complete_hashdance(sk, child, req, own_req)`: the child where it was enqueued. It has
/// `inet_csk_reqsk_queue_add` inlined from Linux 6.1 on; where it has not, one enqueue is seen
/// twice, which its depth does not suffer from.
#[fexit(function = "inet_csk_complete_hashdance")]
pub fn handshake_completed(ctx: FExitContext) -> i32 {
    if ctx.arg::<u64>(4) != 0 {
        enqueued::<Typed>(ctx.arg(0), 0);
    }
    0
}

/// kernel: `inet_csk_reqsk_queue_add(sk, req, child)`: connections by SYN cookie and Fast Open.
#[fexit(function = "inet_csk_reqsk_queue_add")]
pub fn connection_queued(ctx: FExitContext) -> i32 {
    if ctx.arg::<u64>(3) != 0 {
        enqueued::<Typed>(ctx.arg(0), 0);
    }
    0
}

/// The first by kprobe, at entry: the connection is about to be enqueued.
#[kprobe]
pub fn handshake_completed_kprobe(ctx: ProbeContext) -> u32 {
    if let Some(sk) = ctx.arg::<*const u8>(0) {
        enqueued::<Probed>(sk, 1);
    }
    0
}

/// The second by kprobe.
#[kprobe]
pub fn connection_queued_kprobe(ctx: ProbeContext) -> u32 {
    if let Some(sk) = ctx.arg::<*const u8>(0) {
        enqueued::<Probed>(sk, 1);
    }
    0
}

/// Lower rung. kernel: `inet_csk_clone_lock` copies the listener and makes the copy's state
/// SYN_RECV before it changes anything else, so that the copy shows the listener's address and the
/// queue it is about to enter. Only which socket of a SO_REUSEPORT group it was is not to be seen.
#[btf_tracepoint(function = "inet_sock_set_state")]
pub fn child_cloned(ctx: BtfTracePointContext) -> i32 {
    if ctx.arg::<u32>(1) == TCP_LISTEN && ctx.arg::<u32>(2) == TCP_SYN_RECV {
        let sk: *const u8 = ctx.arg(0);
        // SAFETY: `sk` is a program argument of type `struct sock *`.
        if unsafe { Typed::field::<u16>(sk, OFF_SK_PROTOCOL) } == IPPROTO_TCP {
            enqueued::<Typed>(sk, 1);
        }
    }
    0
}

/// Takes in the depth of the queue of `sk`, of which `more` are still to be enqueued.
#[inline(always)]
fn enqueued<A: Access>(sk: *const u8, more: u32) {
    // SAFETY: `sk` is a `struct sock *`.
    let depth = unsafe { A::field::<u32>(sk, OFF_SK_ACK_BACKLOG) } + more;
    let epoch = EPOCH.get(0).copied().unwrap_or(0);
    // The accept queue is a member of `struct inet_connection_sock`, beyond `struct sock`.
    let syn_queue: u32 = read_or_zero(sk as u64 + OFF_CSK_QLEN.load());
    let listener = key_of::<A>(sk);
    arrived(&listener, depth);
    if let Some(tally) = tally_of(&listener) {
        // SAFETY: this CPU's slot of a per-CPU map.
        let tally = unsafe { &mut *tally };
        tally.deepen(epoch, depth);
        tally.enqueued += 1;
        if syn_queue > tally.syn_queue_high {
            tally.syn_queue_high = syn_queue;
        }
    }
}

/// kernel: net/ipv4/inet_connection_sock.c `inet_csk_accept(sk, arg)`, Linux 6.10 and later. One
/// program for each number of arguments, behind which the result stands.
#[fexit(function = "inet_csk_accept")]
pub fn accepted_2(ctx: FExitContext) -> i32 {
    accepted(&key_of::<Typed>(ctx.arg(0)), ctx.arg(2));
    0
}

/// kernel: `inet_csk_accept(sk, flags, err, kern)`.
#[fexit(function = "inet_csk_accept")]
pub fn accepted_4(ctx: FExitContext) -> i32 {
    accepted(&key_of::<Typed>(ctx.arg(0)), ctx.arg(4));
    0
}

/// By kprobe, a task's listener is remembered until it leaves.
#[kprobe]
pub fn accepting_kprobe(ctx: ProbeContext) -> u32 {
    if let Some(sk) = ctx.arg::<u64>(0) {
        let _ = ACCEPTING.insert(thread(&ctx), sk, 0);
    }
    0
}

/// As above.
#[kretprobe]
pub fn accepted_kprobe(ctx: RetProbeContext) -> u32 {
    let thread = thread(&ctx);
    // SAFETY: a plain number, which only this thread writes.
    let sk = unsafe { ACCEPTING.get(thread) }.copied().unwrap_or(0);
    let _ = ACCEPTING.remove(thread);
    if sk != 0 {
        accepted(&key_of::<Probed>(sk as *const u8), ctx.ret::<u64>());
    }
    0
}

#[inline(always)]
fn thread(ctx: &impl EbpfContext) -> u64 {
    u64::from(ctx.tgid()) << 32 | u64::from(ctx.pid())
}

/// System calls of x86-64 that return an accepted connection.
const SYS_ACCEPT: u64 = 43;
const SYS_ACCEPT4: u64 = 288;

/// Lowest rung. kernel: tracepoint `sys_exit(regs, ret)`: `accept(2)` returns a descriptor, and its
/// first argument, still in the registers, is the listener's.
#[btf_tracepoint(function = "sys_exit")]
pub fn accept_returned(ctx: BtfTracePointContext) -> i32 {
    let (regs, ret): (*const u8, i64) = (ctx.arg(0), ctx.arg(1));
    let call = register::<Typed>(regs, OFF_REGS_ORIG_AX);
    if (call != SYS_ACCEPT && call != SYS_ACCEPT4) || ret < 0 {
        return 0;
    }
    let child = socket_of_fd(ret as u64);
    let listener = socket_of_fd(register::<Typed>(regs, OFF_REGS_DI));
    if child == 0 || listener == 0 {
        return 0;
    }
    // SAFETY: both are `struct sock *`, though without a type for the verifier.
    if unsafe { Probed::field::<u16>(child as *const u8, OFF_SK_PROTOCOL) } == IPPROTO_TCP {
        accepted(&key_of::<Probed>(listener as *const u8), child);
    }
    0
}

/// Counts the time that `child`, a `struct sock *` or 0, had been waiting.
#[inline(always)]
fn accepted(listener: &ListenerKey, child: u64) {
    if child == 0 {
        return;
    }
    let since_us: u64 = read_or_zero(child + OFF_TP_RCVQ_TIME.load());
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    // The time is 0 where the connection was accepted before its handshake was quite completed.
    let waited = if since_us == 0 { 0 } else { now.saturating_sub(since_us.wrapping_mul(1000)) };
    if let Some(tally) = tally_of(listener) {
        // SAFETY: this CPU's slot of a per-CPU map.
        let tally = unsafe { &mut *tally };
        tally.waits[bucket_place(waited)] += 1;
        tally.waited_ns += waited;
    }
}

/// The bucket of a time, bounded in a way that verifiers on Linux 5.10 follow, which lose track
/// of what the search for it implies.
#[inline(always)]
pub fn bucket_place(ns: u64) -> usize {
    const { assert!(WAIT_BUCKETS.is_power_of_two()) };
    black_box(wait_bucket(ns)) & (WAIT_BUCKETS - 1)
}

/// A tally at zero, to insert without taking up the stack.
static BLANK: QueueTally = QueueTally::BLANK;

/// This CPU's slot for the listener, made if missing.
#[inline(always)]
fn tally_of(key: &ListenerKey) -> Option<*mut QueueTally> {
    if let Some(tally) = QUEUES.get_ptr_mut(key) {
        return Some(tally);
    }
    let _ = QUEUES.insert(key, &BLANK, u64::from(BPF_NOEXIST));
    let tally = QUEUES.get_ptr_mut(key);
    if tally.is_none() {
        no_room(CountingMap::Queues);
    }
    tally
}
