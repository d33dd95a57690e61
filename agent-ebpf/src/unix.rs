//! Unix connects that are refused: EAGAIN where the listener's queue is full and the client will not
//! wait, ECONNREFUSED where nobody listens.

use core::mem::MaybeUninit;

use aya_ebpf::{
    EbpfContext,
    helpers::{
        bpf_get_current_task,
        generated::{
            bpf_probe_read_kernel, bpf_probe_read_kernel_str, bpf_probe_read_user,
            bpf_probe_read_user_str,
        },
    },
    macros::{btf_tracepoint, fexit},
    programs::{BtfTracePointContext, FExitContext},
};
use aya_log_ebpf::warn;
use floodmark_common::{
    CountingMap, NetnsKey,
    churn::{UNIX_PATH, UnixRefusal},
};

use crate::{
    kernel::{
        OFF_NSPROXY_NET, OFF_REGS_DX, OFF_REGS_ORIG_AX, OFF_REGS_SI, OFF_TASK_NSPROXY, Open,
        Probed, read_or_zero,
    },
    maps::{UNIX_REFUSED, add, place, totals},
    netns::key_of,
    task::register,
};

const EAGAIN: i64 = 11;
const ECONNREFUSED: i64 = 111;
const AF_UNIX: u16 = 1;
/// `connect(2)` on x86-64.
const SYS_CONNECT: u64 = 42;

/// kernel: net/unix/af_unix.c `unix_stream_connect(sock, uaddr, addr_len, flags)`.
#[fexit(function = "unix_stream_connect")]
pub fn unix_connected(ctx: FExitContext) -> i32 {
    let error = -i64::from(ctx.arg::<u64>(4) as i32);
    if error == EAGAIN || error == ECONNREFUSED {
        refused::<Kernel>(&ctx, error, ctx.arg(1), ctx.arg(2));
    }
    0
}

/// Lowest rung. kernel: tracepoint `sys_exit(regs, ret)`, with the arguments still in the registers.
#[btf_tracepoint(function = "sys_exit")]
pub fn connect_returned(ctx: BtfTracePointContext) -> i32 {
    let (regs, ret): (*const u8, i64) = (ctx.arg(0), ctx.arg(1));
    if ret != -EAGAIN && ret != -ECONNREFUSED {
        return 0;
    }
    if register::<Probed>(regs, OFF_REGS_ORIG_AX) != SYS_CONNECT {
        return 0;
    }
    let (address, length) =
        (register::<Probed>(regs, OFF_REGS_SI), register::<Probed>(regs, OFF_REGS_DX));
    let mut family = 0_u16;
    User::read(&mut family as *mut u16 as *mut u8, 2, address);
    if family == AF_UNIX {
        refused::<User>(&ctx, -ret, address, length);
    }
    0
}

/// Where an address lies.
trait Memory {
    fn read(to: *mut u8, length: u32, from: u64);
    fn read_text(to: *mut u8, length: u32, from: u64);
}

struct Kernel;
struct User;

impl Memory for Kernel {
    #[inline(always)]
    fn read(to: *mut u8, length: u32, from: u64) {
        // SAFETY: the callers pass a buffer of that length.
        unsafe { bpf_probe_read_kernel(to.cast(), length, from as *const _) };
    }

    #[inline(always)]
    fn read_text(to: *mut u8, length: u32, from: u64) {
        // SAFETY: as above.
        unsafe { bpf_probe_read_kernel_str(to.cast(), length, from as *const _) };
    }
}

impl Memory for User {
    #[inline(always)]
    fn read(to: *mut u8, length: u32, from: u64) {
        // SAFETY: as above.
        unsafe { bpf_probe_read_user(to.cast(), length, from as *const _) };
    }

    #[inline(always)]
    fn read_text(to: *mut u8, length: u32, from: u64) {
        // SAFETY: as above.
        unsafe { bpf_probe_read_user_str(to.cast(), length, from as *const _) };
    }
}

/// Counts a refusal by the address of a `struct sockaddr_un` and its length.
#[inline(always)]
fn refused<M: Memory>(ctx: &impl EbpfContext, error: i64, address: u64, length: u64) {
    let mut key = MaybeUninit::<UnixRefusal>::uninit();
    // Word by word, volatile, lest the compiler call memset (see `program.rs`).
    for word in 0..size_of::<UnixRefusal>() / size_of::<u32>() {
        // SAFETY: a word of the key, which is aligned to words.
        unsafe { key.as_mut_ptr().cast::<u32>().add(word).write_volatile(0) };
    }
    // SAFETY: zeros make a key.
    let key = unsafe { key.assume_init_mut() };
    key.netns = own_netns();
    key.errno = error as u32;
    let path = address + 2;
    M::read_text(key.path.as_mut_ptr(), UNIX_PATH as u32, path);
    if key.path[0] == 0 {
        // An abstract name is as long as the address says, zeros included.
        let length = length.wrapping_sub(2) & 0x7f;
        if length as usize <= UNIX_PATH {
            M::read(key.path.as_mut_ptr(), length as u32, path);
        }
    }
    match place(&UNIX_REFUSED, key, &0) {
        // SAFETY: an element of the map.
        Some(count) => unsafe { add(count, 1) },
        None => {
            let mut is_first = false;
            totals(|t| {
                let refused = &mut t.map_full[CountingMap::UnixRefused as usize];
                *refused += 1;
                is_first = *refused == 1;
            });
            if is_first {
                warn!(ctx, "no room to count refused Unix connects: too many paths");
            }
        }
    }
}

/// The network namespace of the current task: `task->nsproxy->net_ns`.
#[inline(always)]
fn own_netns() -> NetnsKey {
    // SAFETY: a helper without arguments.
    let task = unsafe { bpf_get_current_task() };
    let nsproxy: u64 = read_or_zero(task + OFF_TASK_NSPROXY.load());
    let net: u64 = read_or_zero(nsproxy + OFF_NSPROXY_NET.load());
    key_of::<Probed>(net as *const u8)
}
