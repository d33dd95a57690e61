//! The numbers that the programs leave open and the agent writes into their instructions as it loads
//! them (`agent/src/kernel/link.rs`): where the running kernel keeps what they read, above all. An offset
//! in the instruction itself takes no time; one that is looked up takes four instructions.

/// Calls the macro named with all constants, each with its documentation.
#[macro_export]
macro_rules! kernel_constants {
    ($make:ident) => {
        $make! {
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
            /// `net.net_cookie`, where the kernel assigns one to each namespace as it is made and tells it
            /// to user space
            OFF_NET_COOKIE,
            /// `net.ipv4.sysctl_tcp_synack_retries`; one byte, on older kernels four (little-endian)
            OFF_NET_SYNACK_RETRIES,
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
            /// `sk_buff.cb`, in which TCP keeps a `struct tcp_skb_cb`
            OFF_SKB_CB,
            /// `tcp_skb_cb.seq`
            OFF_TCB_SEQ,
            /// `tcp_skb_cb.tcp_flags`: one byte, on later kernels two (little-endian)
            OFF_TCB_FLAGS,
            /// `tcp_sock.total_retrans`
            OFF_TP_TOTAL_RETRANS,
            /// `bpf_array.pptrs`
            OFF_BPF_ARRAY_PPTRS,
            /// Number of arguments of `tcp_check_req`, behind which a fexit program finds its result
            ARGS_CHECK_REQ,
            /// `linux_mib.mibs[LINUX_MIB_LISTENOVERFLOWS]`; the agent checks that LISTENDROPS follows
            OFF_MIB_LISTEN_OVERFLOWS,
            /// `linux_mib.mibs[LINUX_MIB_LISTENDROPS]`
            OFF_MIB_LISTEN_DROPS,
            /// `linux_mib.mibs[LINUX_MIB_SYNCOOKIESSENT]`
            OFF_MIB_SYNCOOKIES_SENT,
            /// `linux_mib.mibs[LINUX_MIB_SYNCOOKIESRECV]`; the agent checks that FAILED follows
            OFF_MIB_SYNCOOKIES_RECV,
            /// `linux_mib.mibs[LINUX_MIB_EMBRYONICRSTS]`
            OFF_MIB_EMBRYONIC_RSTS,
            /// `linux_mib.mibs[LINUX_MIB_TCPREQQFULLDOCOOKIES]`; the agent checks that TCPREQQFULLDROP follows
            OFF_MIB_REQ_Q_FULL_DO_COOKIES,
            /// `linux_mib.mibs[LINUX_MIB_TCPDEFERACCEPTDROP]`
            OFF_MIB_DEFER_ACCEPT_DROP,
            /// `linux_mib.mibs[LINUX_MIB_TCPFASTOPENPASSIVEFAIL]`
            OFF_MIB_FASTOPEN_PASSIVE_FAIL,
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
    };
}

macro_rules! names {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// The constants' names. A constant's number is its place here.
        pub const NAMES: &[&str] = &[$(stringify!($name)),*];
    };
}

kernel_constants!(names);

/// Offset in a load that stands for the member of constant number 0; that of the next one is
/// [`OPEN_STEP`] higher. What is added to it is added to the member's own. No program has a stack, context
/// or map value so large that its offsets could be taken for one.
pub const OPEN_OFFSET: i16 = 0x4000;
/// Room for what may be added.
pub const OPEN_STEP: i16 = 64;
/// Operand of a move that stands for the value of constant number 0; that of the next one is 1 higher.
pub const OPEN_NUMBER: i32 = 0x466c_6d00;

/// Stands for `bpf_rdonly_cast`, a kernel function that no number of a helper calls: the agent puts the
/// function's in the place of this one, which no helper will ever have.
pub const RDONLY_CAST: u32 = 0x7f1d_ca57;

const _: () = assert!((i16::MAX - OPEN_OFFSET) as usize / OPEN_STEP as usize > NAMES.len());
