//! Reads of kernel structures. Offsets are load-time constants that the agent takes from the
//! running kernel's BTF (`agent/src/kernel/layout.rs` names structs and members).

use aya_ebpf::{Global, helpers::bpf_probe_read_kernel};
use floodmark_common::ABSENT;

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
    /// `socket.file`
    OFF_SOCKET_FILE,
    /// `file.f_inode`
    OFF_FILE_INODE,
    /// `inode.i_ino`
    OFF_INODE_INO,
    /// `net.ns.inum`
    OFF_NET_INUM,
    /// `net.mib.net_statistics`
    OFF_NET_STATISTICS,
    /// `net.ipv4.sysctl_tcp_abort_on_overflow`; one byte, on older kernels four (little-endian)
    OFF_NET_ABORT_ON_OVERFLOW,
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
    /// `LINUX_MIB_LISTENOVERFLOWS`; the agent checks that `LINUX_MIB_LISTENDROPS` follows it
    MIB_LISTEN_OVERFLOWS,
    /// `LINUX_MIB_TCPREQQFULLDROP`
    MIB_REQ_Q_FULL_DROP,
    /// `SKB_DROP_REASON_TCP_LISTEN_OVERFLOW`
    REASON_LISTEN_OVERFLOW,
}

/// Reads a member of a structure the verifier knows the type of: one load, no helper call. A
/// pointer read this way keeps its type for the next hop.
///
/// # Safety
///
/// `base` must come from a program argument or from such a read, so that the verifier checks type
/// and bounds at load; a fault at run time (the object went away) reads as zero (`PROBE_MEM`).
/// Volatile, because the kernel writes concurrently.
#[inline(always)]
pub unsafe fn field<T: Copy>(base: *const u8, offset: &Global<u64>) -> T {
    // SAFETY: the caller's promise above.
    unsafe { base.add(offset.load() as usize).cast::<T>().read_volatile() }
}

/// Reads kernel memory at a plain address, as a helper call that fails instead of faulting.
#[inline(always)]
pub fn read_at<T: Copy>(address: u64) -> Option<T> {
    // SAFETY: bpf_probe_read_kernel tolerates any address.
    unsafe { bpf_probe_read_kernel(address as *const T) }.ok()
}
