//! The hooks that watch queues, `listen(2)`, connections and Unix connects.

use super::{Attach, Hook, connection::CONNECT, handshake::LISTENER, hook};

const QUEUE: &[&str] = &["OFF_CSK_QLEN"];
const WAITS: &[&str] = &["OFF_TP_RCVQ_TIME", "OFF_SK_PROTOCOL"];
const DESCRIPTOR: &[&str] = &[
    "OFF_TASK_FILES",
    "OFF_FILES_FDT",
    "OFF_FDT_FD",
    "OFF_FILE_INODE",
    "OFF_FILE_PRIVATE",
    "OFF_INODE_MODE",
    "OFF_SOCKET_SK",
];
const REGISTERS: &[&str] = &["OFF_REGS_ORIG_AX", "OFF_REGS_DI", "OFF_REGS_SI", "OFF_REGS_DX"];
const UNIX: &[&str] = &["OFF_TASK_NSPROXY", "OFF_NSPROXY_NET", "OFF_NET_INUM"];

const fn exit_of(
    program: &'static str,
    target: &'static str,
    args: &'static [&'static str],
    arg_count: usize,
    needs: &'static [&'static [&'static str]],
) -> Hook {
    Hook { program, attach: Attach::Exit, target, args, arg_count: Some(arg_count), needs }
}

const fn tracepoint(
    program: &'static str,
    target: &'static str,
    args: &'static [&'static str],
    needs: &'static [&'static [&'static str]],
) -> Hook {
    Hook { program, attach: Attach::Tracepoint, target, args, arg_count: None, needs }
}

const STATE: &[&str] = &["sock", "int", "int"];
const SYSCALL: &[&str] = &["pt_regs", "long int"];

/// The accept queue after each enqueue.
pub const ENQUEUES: &[Hook] = &[
    exit_of(
        "handshake_completed",
        "inet_csk_complete_hashdance",
        &["sock", "sock", "request_sock", "bool"],
        4,
        &[LISTENER, QUEUE],
    ),
    exit_of(
        "connection_queued",
        "inet_csk_reqsk_queue_add",
        &["sock", "request_sock", "sock"],
        3,
        &[LISTENER, QUEUE],
    ),
];

/// The same by kprobe.
pub const ENQUEUES_KPROBE: &[Hook] = &[
    hook(
        "handshake_completed_kprobe",
        Attach::KprobeEntry,
        "inet_csk_complete_hashdance",
        &["sock", "sock", "request_sock", "bool"],
        &[LISTENER, QUEUE],
    ),
    hook(
        "connection_queued_kprobe",
        Attach::KprobeEntry,
        "inet_csk_reqsk_queue_add",
        &["sock", "request_sock", "sock"],
        &[LISTENER, QUEUE],
    ),
];

/// The same by the copy that is made of the listener for each connection.
pub const ENQUEUES_CLONED: &[Hook] =
    &[tracepoint("child_cloned", "inet_sock_set_state", STATE, &[LISTENER, QUEUE, WAITS])];

/// Accepted connections from Linux 6.10 on.
pub const ACCEPTS_2: &[Hook] = &[exit_of(
    "accepted_2",
    "inet_csk_accept",
    &["sock", "proto_accept_arg"],
    2,
    &[LISTENER, WAITS],
)];

/// Accepted connections before Linux 6.10.
pub const ACCEPTS_4: &[Hook] = &[exit_of(
    "accepted_4",
    "inet_csk_accept",
    &["sock", "int", "int", "bool"],
    4,
    &[LISTENER, WAITS],
)];

/// The same by kprobe.
pub const ACCEPTS_KPROBE: &[Hook] = &[
    hook("accepted_kprobe", Attach::KprobeExit, "inet_csk_accept", &["sock"], &[LISTENER, WAITS]),
    hook("accepting_kprobe", Attach::KprobeEntry, "inet_csk_accept", &["sock"], &[LISTENER, WAITS]),
];

/// The same by system call.
pub const ACCEPTS_SYSCALL: &[Hook] = &[tracepoint(
    "accept_returned",
    super::SYSTEM_CALLS,
    SYSCALL,
    &[LISTENER, WAITS, DESCRIPTOR, REGISTERS],
)];

/// Calls of `listen(2)`, and that a socket begins or ceases to listen.
pub const LISTEN_CALLS: &[Hook] = &[
    exit_of(
        "listen_left",
        "__sys_listen",
        &["int", "int"],
        2,
        &[LISTENER, DESCRIPTOR, &["OFF_NET_SOMAXCONN"]],
    ),
    hook("listening_began", Attach::Exit, "inet_csk_listen_start", &["sock"], &[]),
    hook("listening_ended", Attach::Entry, "inet_csk_listen_stop", &["sock"], &[]),
];

/// The first `listen(2)` of each socket.
pub const LISTENS_STARTED: &[Hook] = &[tracepoint(
    "listen_started",
    "inet_sock_set_state",
    STATE,
    &[LISTENER, REGISTERS, &["OFF_NET_SOMAXCONN", "OFF_SK_PROTOCOL"]],
)];

/// That a socket begins or ceases to listen.
pub const LISTENERS_CHANGED: &[Hook] =
    &[tracepoint("listeners_changed", "inet_sock_set_state", STATE, &[&["OFF_SK_PROTOCOL"]])];

/// Connections as they come and go.
pub const CHURN: &[Hook] = &[tracepoint(
    "connection_changed",
    "inet_sock_set_state",
    STATE,
    &[CONNECT, &["OFF_SK_PROTOCOL"]],
)];

/// This host's own connects, as they begin and end.
pub const CLIENTS: &[Hook] =
    &[tracepoint("client_changed", "inet_sock_set_state", STATE, &[CONNECT, &["OFF_SK_PROTOCOL"]])];

/// Unix connects refused.
pub const UNIX_CONNECTS: &[Hook] =
    &[exit_of("unix_connected", "unix_stream_connect", &["socket", "", "int", "int"], 4, &[UNIX])];

/// The same by system call.
pub const UNIX_CONNECTS_SYSCALL: &[Hook] =
    &[tracepoint("connect_returned", super::SYSTEM_CALLS, SYSCALL, &[UNIX, REGISTERS])];
