//! Reads of kernel structures. Offsets are load-time constants that the agent takes from the
//! running kernel's BTF (`agent/src/kernel/layout.rs` names structs and members).

use core::mem::{MaybeUninit, transmute};

use aya_ebpf::{
    Global,
    helpers::{
        bpf_probe_read_kernel, generated::bpf_probe_read_kernel as bpf_probe_read_kernel_raw,
    },
};
use floodmark_common::{ABSENT, RDONLY_CAST};

macro_rules! constants {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        $($(#[$doc])* #[unsafe(no_mangle)] pub static $name: Global<u64> = Global::new(ABSENT);)*
    };
}

constants! {
    /// `sock.__sk_common.skc_family`
    OFF_SK_FAMILY,
    /// `sock.__sk_common.skc_num`: local port, host byte order
    OFF_SK_NUM,
    /// `sock.__sk_common.skc_dport`: remote port, network byte order
    OFF_SK_DPORT,
    /// `sock.__sk_common.skc_portpair`: `skc_dport` and `skc_num`
    OFF_SK_PORTPAIR,
    /// `sock.__sk_common.skc_daddr`
    OFF_SK_DADDR,
    /// `sock.__sk_common.skc_rcv_saddr`
    OFF_SK_RCV_SADDR,
    /// `sock.__sk_common.skc_v6_daddr`
    OFF_SK_V6_DADDR,
    /// `sock.__sk_common.skc_v6_rcv_saddr`
    OFF_SK_V6_RCV_SADDR,
    /// `sock.__sk_common.skc_net`
    OFF_SK_NET,
    /// `sock.sk_drops`
    OFF_SK_DROPS,
    /// `sock.sk_ack_backlog`
    OFF_SK_ACK_BACKLOG,
    /// `sock.sk_max_ack_backlog`
    OFF_SK_MAX_ACK_BACKLOG,
    /// `sock.sk_protocol`
    OFF_SK_PROTOCOL,
    /// `sock.sk_socket`
    OFF_SK_SOCKET,
    /// `inet_sock.inet_sport`: local port, network byte order
    OFF_INET_SPORT,
    /// `request_sock.__req_common.skc_listener`, called `rsk_listener`
    OFF_REQ_LISTENER,
    /// `request_sock.num_timeout`: the byte its bits begin in
    OFF_REQ_NUM_TIMEOUT,
    /// the lowest of its bits
    BIT_REQ_NUM_TIMEOUT,
    /// `inet_request_sock.acked`: the byte with its bit
    OFF_REQ_ACKED,
    /// that bit
    BIT_REQ_ACKED,
    /// `tcp_request_sock.snt_isn`
    OFF_REQ_SNT_ISN,
    /// `inet_connection_sock.icsk_accept_queue.rskq_defer_accept`
    OFF_CSK_DEFER_ACCEPT,
    /// `inet_connection_sock.icsk_syn_retries`
    OFF_CSK_SYN_RETRIES,
    /// `sock.__sk_common.skc_state`
    OFF_SK_STATE,
    /// `inet_timewait_sock.tw_substate`
    OFF_TW_SUBSTATE,
    /// `inet_timewait_sock.tw_timer`
    OFF_TW_TIMER,
    /// `inet_timewait_sock.tw_kill`, before Linux 5.18: the byte with its bit
    OFF_TW_KILL,
    /// that bit
    BIT_TW_KILL,
    /// Four seconds in jiffies, the limit between TW and TWKilled
    SHORT_TIMEOUT,
    /// `socket_alloc.vfs_inode.i_ino`: inode number of the `struct socket` that a `socket_alloc` begins with
    OFF_SOCKET_INO,
    /// `file.f_inode`
    OFF_FILE_INODE,
    /// `net.ns.inum`
    OFF_NET_INUM,
    /// `net.mib.net_statistics`
    OFF_NET_STATISTICS,
    /// `net.net_cookie`: never used twice, unlike `inum`; 0 on kernels that assign it on demand
    OFF_NET_COOKIE,
    /// `net.ipv4.sysctl_tcp_synack_retries`; one byte, on older kernels four (little-endian)
    OFF_NET_SYNACK_RETRIES,
    /// `net.ipv4.sysctl_tcp_abort_on_overflow`; one byte, on older kernels four (little-endian)
    OFF_NET_ABORT_ON_OVERFLOW,
    /// `net.core.sysctl_somaxconn`
    OFF_NET_SOMAXCONN,
    /// `inet_connection_sock.icsk_accept_queue.qlen`: the SYN queue's length
    OFF_CSK_QLEN,
    /// `tcp_sock.rcvq_space.time`: microseconds of CLOCK_MONOTONIC
    OFF_TP_RCVQ_TIME,
    /// `socket.sk`
    OFF_SOCKET_SK,
    /// `file.private_data`: of a socket's file, its `struct socket`
    OFF_FILE_PRIVATE,
    /// `inode.i_mode`
    OFF_INODE_MODE,
    /// `task_struct.files`
    OFF_TASK_FILES,
    /// `task_struct.nsproxy`
    OFF_TASK_NSPROXY,
    /// `nsproxy.net_ns`
    OFF_NSPROXY_NET,
    /// `files_struct.fdt`
    OFF_FILES_FDT,
    /// `fdtable.fd`
    OFF_FDT_FD,
    /// `pt_regs.orig_ax`: the system call's number, x86-64
    OFF_REGS_ORIG_AX,
    /// `pt_regs.di`: its first argument
    OFF_REGS_DI,
    /// `pt_regs.si`: its second
    OFF_REGS_SI,
    /// `pt_regs.dx`: its third
    OFF_REGS_DX,
    /// `sk_buff.head`
    OFF_SKB_HEAD,
    /// `sk_buff.network_header`
    OFF_SKB_NETWORK_HEADER,
    /// `sk_buff.transport_header`
    OFF_SKB_TRANSPORT_HEADER,
    /// `sk_buff.protocol`
    OFF_SKB_PROTOCOL,
    /// `bpf_array.pptrs`
    OFF_BPF_ARRAY_PPTRS,
    /// Number of arguments of `tcp_check_req`, behind which a fexit program finds its result
    ARGS_CHECK_REQ,
    /// `LINUX_MIB_LISTENOVERFLOWS`; the agent checks that LISTENDROPS follows
    MIB_LISTEN_OVERFLOWS,
    /// `LINUX_MIB_SYNCOOKIESSENT`; the agent checks that RECV, FAILED and EMBRYONICRSTS follow
    MIB_SYNCOOKIES_SENT,
    /// `LINUX_MIB_TCPREQQFULLDOCOOKIES`; the agent checks that TCPREQQFULLDROP follows
    MIB_REQ_Q_FULL_DO_COOKIES,
    /// `LINUX_MIB_TCPDEFERACCEPTDROP`
    MIB_DEFER_ACCEPT_DROP,
    /// `LINUX_MIB_TCPFASTOPENPASSIVEFAIL`
    MIB_FASTOPEN_PASSIVE_FAIL,
    /// `SKB_DROP_REASON_TCP_LISTEN_OVERFLOW`
    REASON_LISTEN_OVERFLOW,
    /// Type of `struct linux_mib`, where the kernel has `bpf_rdonly_cast`; so with those below
    TYPE_LINUX_MIB,
    /// Type of `struct socket_alloc`
    TYPE_SOCKET_ALLOC,
    /// Type of `struct iphdr`
    TYPE_IPHDR,
    /// Type of `struct ipv6hdr`
    TYPE_IPV6HDR,
    /// Type of `struct tcphdr`
    TYPE_TCPHDR,
}

/// How a program reads members of kernel structures.
pub trait Access {
    /// Reads the member of `base` at `offset`.
    ///
    /// # Safety
    ///
    /// `base` must point to a structure that has a member of this type there.
    unsafe fn field<T: Copy>(base: *const u8, offset: &Global<u64>) -> T;
}

/// For programs whose arguments the verifier knows the types of (fentry, fexit, tp_btf): one load,
/// no helper call. A pointer read this way keeps its type for the next hop.
pub struct Typed;

impl Access for Typed {
    /// Volatile, because the kernel writes concurrently. A fault at run time (the object went away)
    /// reads as zero (`PROBE_MEM`).
    #[inline(always)]
    unsafe fn field<T: Copy>(base: *const u8, offset: &Global<u64>) -> T {
        // SAFETY: the caller's promise; the verifier checks type and bounds at load.
        unsafe { base.add(offset.load() as usize).cast::<T>().read_volatile() }
    }
}

/// For programs whose arguments are plain numbers (kprobe, kretprobe), and for pointers that lost
/// their type: a helper call. A fault reads as zero.
pub struct Probed;

impl Access for Probed {
    #[inline(always)]
    unsafe fn field<T: Copy>(base: *const u8, offset: &Global<u64>) -> T {
        read_or_zero((base as u64).wrapping_add(offset.load()))
    }
}

/// Reads kernel memory at a plain address; zeros where there is nothing to read. `T` is an integer,
/// an array of integers or a pointer.
#[inline(always)]
pub fn read_or_zero<T: Copy>(address: u64) -> T {
    let mut value = MaybeUninit::<T>::uninit();
    // SAFETY: zero is a value of T, and the helper fills with zeros what it cannot read. Its result
    // is not looked at: each branch on it would double the paths that the verifier walks.
    unsafe {
        bpf_probe_read_kernel_raw(
            value.as_mut_ptr().cast(),
            size_of::<T>() as u32,
            address as *const core::ffi::c_void,
        );
        value.assume_init()
    }
}

/// Reads kernel memory at a plain address, as a helper call that fails instead of faulting.
#[inline(always)]
pub fn read_at<T: Copy>(address: u64) -> Option<T> {
    // SAFETY: bpf_probe_read_kernel tolerates any address.
    unsafe { bpf_probe_read_kernel(address as *const T) }.ok()
}

/// Whether the kernel lends out `bpf_rdonly_cast` (Linux 6.2) to give a plain address the type `kind`.
#[inline(always)]
pub fn is_cast(kind: &Global<u64>) -> bool {
    kind.load() != ABSENT
}

/// Reads `N` numbers that lie in a row, from `offset` on, in the structure at `address`. Where that
/// can be given the type `kind` ([`is_cast`]) it is a load for each; elsewhere a helper call, which takes
/// some ten times as long.
#[inline(always)]
pub fn read_row<T: Copy + Default, const N: usize>(
    kind: &Global<u64>,
    address: u64,
    offset: u64,
) -> Option<[T; N]> {
    let kind = kind.load();
    if kind == ABSENT {
        return read_at(address + offset);
    }
    // SAFETY: the agent puts a call of `bpf_rdonly_cast(obj, btf_id)` in this one's place
    // (agent/src/kernel/cast.rs), or hands out no types.
    let cast: extern "C" fn(u64, u32) -> *const u8 = unsafe { transmute(RDONLY_CAST as usize) };
    let base = cast(address, kind as u32);
    let mut row = [T::default(); N];
    for (i, number) in row.iter_mut().enumerate() {
        // SAFETY: the verifier checks that the type has such members there; a fault at run time reads as
        // zero (`PROBE_MEM`).
        *number = unsafe { base.add(offset as usize).cast::<T>().add(i).read_volatile() };
    }
    Some(row)
}
