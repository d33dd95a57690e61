//! Sockets that begin to listen, listen anew with another backlog, or stop.

use aya_ebpf::{
    EbpfContext,
    helpers::generated::bpf_ktime_get_ns,
    macros::{btf_tracepoint, fentry, fexit},
    programs::{BtfTracePointContext, FEntryContext, FExitContext},
};
use floodmark_common::queue::{ListenCall, SocketKey};

use crate::{
    kernel::{
        Access, OFF_NET_SOMAXCONN, OFF_REGS_ORIG_AX, OFF_REGS_SI, OFF_SK_NET, OFF_SK_PROTOCOL,
        Probed, Typed,
    },
    listener::key_of,
    maps::{LISTEN_CHANGES, LISTENS},
    task::{register, registers, socket_of_fd},
};

const TCP_CLOSE: u32 = 7;
const TCP_LISTEN: u32 = 10;
const IPPROTO_TCP: u16 = 6;
/// `listen(2)` on x86-64.
const SYS_LISTEN: u64 = 50;

/// kernel: net/socket.c `__sys_listen(fd, backlog)`: the backlog as the process gave it, before it
/// is cut to somaxconn. Called again for a socket that listens already, it changes the limit.
#[fexit(function = "__sys_listen")]
pub fn listen_left(ctx: FExitContext) -> i32 {
    if ctx.arg::<u64>(2) as i32 == 0 {
        let sk = socket_of_fd(ctx.arg::<u64>(0)) as *const u8;
        if !sk.is_null() {
            note::<Probed>(&ctx, sk, ctx.arg::<u64>(1) as i32);
        }
    }
    0
}

/// Lower rung. kernel: `inet_csk_listen_start` -> tracepoint `inet_sock_set_state`, with the
/// process's system call still in its registers. Counts changes as well, so that one program will do.
#[btf_tracepoint(function = "inet_sock_set_state")]
pub fn listen_started(ctx: BtfTracePointContext) -> i32 {
    if !count_change(&ctx) || ctx.arg::<u32>(2) != TCP_LISTEN {
        return 0;
    }
    let regs = registers();
    // A 32-bit process or an io_uring has other registers: nothing is known then.
    if register::<Typed>(regs, OFF_REGS_ORIG_AX) == SYS_LISTEN {
        note::<Typed>(&ctx, ctx.arg(0), register::<Typed>(regs, OFF_REGS_SI) as i32);
    }
    0
}

#[inline(always)]
fn note<A: Access>(ctx: &impl EbpfContext, sk: *const u8, backlog: i32) {
    let listener = key_of::<A>(sk);
    // SAFETY: `sk` is a `struct sock *`, its `skc_net` a `struct net *`, and the helper has no
    // arguments.
    let call = unsafe {
        let net: *const u8 = A::field(sk, OFF_SK_NET);
        ListenCall {
            at_ns: bpf_ktime_get_ns(),
            backlog,
            somaxconn: A::field(net, OFF_NET_SOMAXCONN),
            pid: ctx.tgid(),
            reserved: 0,
        }
    };
    let key = SocketKey { netns: listener.netns, inode: listener.inode, reserved: 0 };
    let _ = LISTENS.insert(key, call, 0);
}

/// What makes the agent look again. kernel: net/ipv4/inet_connection_sock.c `inet_csk_listen_start(sk)`; at
/// its exit, since only then the socket is to be seen among those that listen.
#[fexit(function = "inet_csk_listen_start")]
pub fn listening_began(_: FExitContext) -> i32 {
    note_change();
    0
}

/// The same. kernel: `inet_csk_listen_stop(sk)`, which `tcp_close` and `tcp_disconnect` call once the socket
/// is no longer to be seen.
#[fentry(function = "inet_csk_listen_stop")]
pub fn listening_ended(_: FEntryContext) -> i32 {
    note_change();
    0
}

/// Lower rung, at the price of running for every change of every socket.
#[btf_tracepoint(function = "inet_sock_set_state")]
pub fn listeners_changed(ctx: BtfTracePointContext) -> i32 {
    count_change(&ctx);
    0
}

/// Counts a TCP socket that begins or ceases to listen; false for any other change. kernel:
/// tracepoint `inet_sock_set_state(sk, oldstate, newstate)`; a child's first change, from its copy
/// of LISTEN to SYN_RECV, is none.
#[inline(always)]
fn count_change(ctx: &BtfTracePointContext) -> bool {
    let (old, new): (u32, u32) = (ctx.arg(1), ctx.arg(2));
    if new != TCP_LISTEN && !(old == TCP_LISTEN && new == TCP_CLOSE) {
        return false;
    }
    let sk: *const u8 = ctx.arg(0);
    // SAFETY: `sk` is a program argument of type `struct sock *`.
    if unsafe { Typed::field::<u16>(sk, OFF_SK_PROTOCOL) } != IPPROTO_TCP {
        return false;
    }
    note_change();
    true
}

#[inline(always)]
fn note_change() {
    if let Some(changes) = LISTEN_CHANGES.get_ptr_mut(0) {
        // SAFETY: this CPU's slot of a per-CPU map.
        unsafe { *changes += 1 };
    }
}
