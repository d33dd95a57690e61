//! What nginx does with its peers, by uprobes in its workers: an object of its own, loaded only where
//! somebody asks for it.
//!
//! Offsets into nginx's structures are the same from 1.12 to 1.31 (LP64), for all of them lie before
//! any member that a build option moves. The agent compares what is read with what it must look like,
//! and lets go of a binary that does not.

#![no_std]
#![no_main]

mod program;

use aya_ebpf::{
    EbpfContext, Global,
    bindings::BPF_RB_NO_WAKEUP,
    helpers::{
        bpf_get_current_task, bpf_ktime_get_ns, bpf_probe_read_kernel, bpf_probe_read_user,
        bpf_probe_read_user_buf, generated::bpf_get_attach_cookie,
    },
    macros::{map, uprobe, uretprobe},
    maps::{Array, LruHashMap, RingBuf},
    programs::{ProbeContext, RetProbeContext},
};
use floodmark_common::{ABSENT, NGINX_NAME, NginxKind, NginxRecord};

/// Room for 4096 records; what does not fit is counted in [`NGINX_LOST`].
#[map]
static NGINX_EVENTS: RingBuf = RingBuf::with_byte_size(1 << 20, 0);

/// Records the ring buffer had no room for.
#[map]
static NGINX_LOST: Array<u64> = Array::with_max_entries(1, 0);

/// The peer connection that a thread is about to connect, from entry to return.
#[map]
static CONNECTING: LruHashMap<u64, u64> = LruHashMap::with_max_entries(1024, 0);

macro_rules! constants {
    ($($name:ident),*) => {
        $(#[unsafe(no_mangle)] static $name: Global<u64> = Global::new(ABSENT);)*
    };
}
constants!(
    OFF_TASK_FILES,
    OFF_FILES_FDT,
    OFF_FDT_FD,
    OFF_FILE_PRIVATE,
    OFF_SOCKET_SK,
    OFF_INET_SPORT,
    OFF_SK_STATE
);

/// `ngx_peer_connection_t`.
const PC_CONNECTION: u64 = 0;
const PC_SOCKADDR: u64 = 8;
const PC_SOCKLEN: u64 = 16;
const PC_NAME: u64 = 24;
/// `ngx_connection_t`.
const CONNECTION_FD: u64 = 24;
/// `ngx_http_upstream_rr_peer_data_t`, and its twin in the stream module.
const DATA_PEERS: u64 = 8;
const DATA_CURRENT: u64 = 16;
/// `ngx_http_upstream_rr_peer_t`, and its twin.
const PEER_SOCKADDR: u64 = 0;
const PEER_FAILS: u64 = 88;
const PEER_MAX_FAILS: u64 = 112;
/// `NGX_PEER_FAILED`.
const FAILED: u64 = 4;
/// `NGX_BUSY`.
const BUSY: i64 = -3;

/// `ngx_http_upstream_free_round_robin_peer(pc, data, state)`, `…_locked` where that is there, and
/// the stream module's.
#[uprobe]
pub fn nginx_free_peer(ctx: ProbeContext) -> u32 {
    let (Some(pc), Some(data), Some(state)) =
        (ctx.arg::<u64>(0), ctx.arg::<u64>(1), ctx.arg::<u64>(2))
    else {
        return 0;
    };
    if state & FAILED == 0 {
        return 0;
    }
    let (peers, peer): (u64, u64) = (user(data + DATA_PEERS), user(data + DATA_CURRENT));
    let max_fails: u64 = user(peer + PEER_MAX_FAILS);
    let fails: u64 = user::<u64>(peer + PEER_FAILS).saturating_add(1);
    // The cookie is the offset of `peers->single`: a group of one is never marked.
    // SAFETY: the context is this program's own.
    let cookie = unsafe { bpf_get_attach_cookie(ctx.as_ptr()) };
    let is_single = user::<u8>(peers + cookie) & 1 != 0;
    let is_marked = !is_single && max_fails > 0 && fails >= max_fails;
    let kind = if is_marked { NginxKind::Marked } else { NginxKind::Failed };
    tell(pc, kind, fails, max_fails, user(peer + PEER_SOCKADDR));
    0
}

/// `ngx_event_connect_peer(pc)`.
#[uprobe]
pub fn nginx_connect_peer(ctx: ProbeContext) -> u32 {
    if let Some(pc) = ctx.arg::<u64>(0) {
        let _ = CONNECTING.insert(aya_ebpf::helpers::bpf_get_current_pid_tgid(), pc, 0);
    }
    0
}

/// Its return: `NGX_BUSY` where the group has no live peer.
#[uretprobe]
pub fn nginx_connect_peer_returns(ctx: RetProbeContext) -> u32 {
    if ctx.ret::<u64>() as i64 != BUSY {
        return 0;
    }
    let thread = aya_ebpf::helpers::bpf_get_current_pid_tgid();
    // SAFETY: a plain number, copied at once.
    if let Some(pc) = unsafe { CONNECTING.get(thread) }.copied() {
        tell(pc, NginxKind::NoLivePeers, 0, 0, 0);
    }
    0
}

/// Sends a record of what became of `pc`.
#[inline(always)]
fn tell(pc: u64, kind: NginxKind, fails: u64, max_fails: u64, peer_sockaddr: u64) {
    let Some(mut entry) = NGINX_EVENTS.reserve::<NginxRecord>(0) else {
        if let Some(lost) = NGINX_LOST.get_ptr_mut(0) {
            // SAFETY: a slot of an array; the count may miss one where two CPUs meet.
            unsafe { *lost += 1 };
        }
        return;
    };
    let name: u64 = user(pc + PC_NAME);
    let (length, text): (u64, u64) = (user(name), user(name + 8));
    let sk = socket_of(user(pc + PC_CONNECTION));
    let mut record = NginxRecord {
        // SAFETY: takes no argument.
        at_ns: unsafe { bpf_ktime_get_ns() },
        fails,
        max_fails,
        pid: (aya_ebpf::helpers::bpf_get_current_pid_tgid() >> 32) as u32,
        kind: kind as u32,
        socklen: user(pc + PC_SOCKLEN),
        name_len: length.min(NGINX_NAME as u64) as u32,
        // Stays there when the kernel gives the port back (`inet_put_port`).
        local_port: u16::from_be(kernel(sk, &OFF_INET_SPORT)),
        is_same_peer: u16::from(user::<u64>(pc + PC_SOCKADDR) == peer_sockaddr),
        state: u32::from(kernel::<u8>(sk, &OFF_SK_STATE)),
        sockaddr: user(user(pc + PC_SOCKADDR)),
        name: [0; NGINX_NAME],
    };
    let kept = record.name_len as usize;
    if kept <= NGINX_NAME
        && let Some(room) = record.name.get_mut(..kept)
    {
        // SAFETY: the helper tolerates any address.
        let _ = unsafe { bpf_probe_read_user_buf(text as *const u8, room) };
    }
    entry.write(record);
    // The agent looks ten times a second; to be woken would cost an interrupt.
    entry.submit(u64::from(BPF_RB_NO_WAKEUP));
}

/// The kernel's socket behind `connection->fd`; 0 where it has been closed.
#[inline(always)]
fn socket_of(connection: u64) -> u64 {
    if connection == 0 {
        return 0;
    }
    let fd: i32 = user(connection + CONNECTION_FD);
    // SAFETY: takes no argument.
    let task = unsafe { bpf_get_current_task() };
    let files: u64 = kernel(task, &OFF_TASK_FILES);
    let table: u64 = kernel(files, &OFF_FILES_FDT);
    let entries: u64 = kernel(table, &OFF_FDT_FD);
    if fd < 0 || entries == 0 {
        return 0;
    }
    let file: u64 = read_kernel(entries + 8 * fd as u64);
    let socket: u64 = kernel(file, &OFF_FILE_PRIVATE);
    kernel(socket, &OFF_SOCKET_SK)
}

#[inline(always)]
fn kernel<T: Copy + Default>(base: u64, offset: &Global<u64>) -> T {
    if base == 0 || offset.load() == ABSENT {
        return T::default();
    }
    read_kernel(base.wrapping_add(offset.load()))
}

#[inline(always)]
fn read_kernel<T: Copy + Default>(address: u64) -> T {
    // SAFETY: the helper tolerates any address.
    unsafe { bpf_probe_read_kernel(address as *const T) }.unwrap_or_default()
}

/// Reads nginx's memory; zero where there is nothing to read.
#[inline(always)]
fn user<T: Copy + Default>(address: u64) -> T {
    // SAFETY: the helper tolerates any address.
    unsafe { bpf_probe_read_user(address as *const T) }.unwrap_or_default()
}
