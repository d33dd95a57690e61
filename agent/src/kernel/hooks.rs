//! The hooks: which program goes where, what it needs of the kernel, and which prototype it was
//! written for. A prototype that differs in the running kernel's BTF refuses the hook: better a
//! lower rung than a wrong argument.

use super::{
    btf::Btf,
    layout::{Layout, TW_AT_ENTRY},
};

/// How a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attach {
    /// At a function's entry, by BPF trampoline (fentry).
    Entry,
    /// At a function's exit, by BPF trampoline (fexit).
    Exit,
    /// At a function's entry, by breakpoint or ftrace (kprobe).
    KprobeEntry,
    /// At a function's exit (kretprobe).
    KprobeExit,
    /// At a tracepoint, with typed arguments (`tp_btf`).
    Tracepoint,
}

impl Attach {
    /// The kernel's word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Entry => "fentry",
            Self::Exit => "fexit",
            Self::KprobeEntry => "kprobe",
            Self::KprobeExit => "kretprobe",
            Self::Tracepoint => "tp_btf",
        }
    }
}

/// One program and its place.
#[derive(Debug)]
pub struct Hook {
    /// Name of the program in the object.
    pub program: &'static str,
    /// How it is attached.
    pub attach: Attach,
    /// Kernel function or tracepoint.
    pub target: &'static str,
    /// The leading arguments the program relies on: type names, pointers by what they point to.
    args: &'static [&'static str],
    /// Exact number of arguments, where the program reads the return value behind them.
    arg_count: Option<usize>,
    /// Load-time constants the program cannot do without.
    needs: &'static [&'static [&'static str]],
}

const LISTENER: &[&str] = &[
    "OFF_SK_FAMILY",
    "OFF_SK_NUM",
    "OFF_SK_RCV_SADDR",
    "OFF_SK_V6_RCV_SADDR",
    "OFF_SK_NET",
    "OFF_SK_ACK_BACKLOG",
    "OFF_SK_MAX_ACK_BACKLOG",
    "OFF_SK_SOCKET",
    "OFF_SOCKET_FILE",
    "OFF_FILE_INODE",
    "OFF_INODE_INO",
    "OFF_NET_INUM",
];
const SEGMENT: &[&str] =
    &["OFF_SKB_HEAD", "OFF_SKB_NETWORK_HEADER", "OFF_SKB_TRANSPORT_HEADER", "OFF_SKB_PROTOCOL"];
const REQUEST: &[&str] = &[
    "OFF_SK_FAMILY",
    "OFF_SK_DPORT",
    "OFF_SK_DADDR",
    "OFF_SK_V6_DADDR",
    "OFF_REQ_LISTENER",
    "OFF_REQ_ACKED",
    "BIT_REQ_ACKED",
    "OFF_CSK_DEFER_ACCEPT",
];
const EXPIRY: &[&str] = &[
    "OFF_SK_STATE",
    "OFF_REQ_NUM_TIMEOUT",
    "BIT_REQ_NUM_TIMEOUT",
    "OFF_CSK_SYN_RETRIES",
    "OFF_NET_SYNACK_RETRIES",
];
const BRACKET: &[&str] = &[
    "OFF_SK_DROPS",
    "OFF_SK_NET",
    "OFF_NET_STATISTICS",
    "OFF_NET_COOKIE",
    "OFF_BPF_ARRAY_PPTRS",
    "MIB_LISTEN_OVERFLOWS",
    "MIB_SYNCOOKIES_SENT",
    "MIB_REQ_Q_FULL_DO_COOKIES",
    "MIB_DEFER_ACCEPT_DROP",
    "MIB_FASTOPEN_PASSIVE_FAIL",
    "ARGS_CHECK_REQ",
];
const ICMP: &[&str] = &["OFF_REQ_SNT_ISN"];
const SERVICE: &[&str] = &["OFF_SK_NUM", "OFF_SK_DPORT", "OFF_SK_NET", "OFF_NET_INUM"];
const SUBSTATE: &[&str] = &["OFF_TW_SUBSTATE", "SHORT_TIMEOUT"];
const CONNECT: &[&str] = &[
    "OFF_SK_NUM",
    "OFF_SK_DPORT",
    "OFF_SK_FAMILY",
    "OFF_SK_DADDR",
    "OFF_SK_V6_DADDR",
    "OFF_SK_NET",
    "OFF_NET_INUM",
];
const REASON: &[&str] = &["REASON_LISTEN_OVERFLOW"];
const STATES: &[&str] = &["OFF_SK_PROTOCOL", "OFF_INET_SPORT"];

const CONN_REQUEST: &[&str] = &["request_sock_ops", "tcp_request_sock_ops", "sock", "sk_buff"];
const CHECK_REQ: &[&str] = &["sock", "sk_buff", "request_sock", "bool"];
const COOKIE_CHECK: &[&str] = &["sock", "sk_buff"];
const QUEUE_DROP: &[&str] = &["sock", "request_sock", "bool"];
const TWSK_ALLOC: &[&str] = &["sock", "inet_timewait_death_row", "int"];
const REQ_ERR: &[&str] = &["sock", "u32", "bool"];

const fn bracket(
    program: &'static str,
    attach: Attach,
    target: &'static str,
    args: &'static [&'static str],
) -> Hook {
    Hook { program, attach, target, args, arg_count: None, needs: &[BRACKET, LISTENER, SEGMENT] }
}

const fn hook(
    program: &'static str,
    attach: Attach,
    target: &'static str,
    args: &'static [&'static str],
    needs: &'static [&'static [&'static str]],
) -> Hook {
    Hook { program, attach, target, args, arg_count: None, needs }
}

// The exit comes first in each pair: an exit without its entry is ignored, an entry without its
// exit would leave a bracket open.

/// SYNs, exactly.
pub const SYN_BRACKET: &[Hook] = &[
    bracket("syn_left", Attach::Exit, "tcp_conn_request", CONN_REQUEST),
    bracket("syn_entered", Attach::Entry, "tcp_conn_request", CONN_REQUEST),
];

/// SYNs, by kprobe.
pub const SYN_BRACKET_KPROBE: &[Hook] = &[
    bracket("syn_left_kprobe", Attach::KprobeExit, "tcp_conn_request", CONN_REQUEST),
    bracket("syn_entered_kprobe", Attach::KprobeEntry, "tcp_conn_request", CONN_REQUEST),
];

const fn failure(
    program: &'static str,
    target: &'static str,
    args: &'static [&'static str],
    arg_count: usize,
) -> Hook {
    Hook { program, attach: Attach::Exit, target, args, arg_count: Some(arg_count), needs: &[] }
}

/// Tells the last-quarter rule from other reasons to drop a SYN. Runs only under pressure.
pub const LAST_QUARTER: &[Hook] =
    &[failure("peer_judged", "tcp_peer_is_proven", &["request_sock", "dst_entry"], 2)];

/// Tell the remaining reasons to drop a segment apart. They run for each SYN, or each connection.
pub const CAUSES: &[Hook] = &[
    failure("request_allocated", "inet_reqsk_alloc", &["request_sock_ops", "sock", "bool"], 3),
    failure(
        "request_permitted",
        "security_inet_conn_request",
        &["sock", "sk_buff", "request_sock"],
        3,
    ),
    failure("request_routed", "inet_csk_route_req", &["sock", "flowi4", "request_sock"], 3),
    failure("request_routed6", "inet6_csk_route_req", &["sock", "flowi6", "request_sock", "u8"], 4),
    failure("port_inherited", "__inet_inherit_port", &["sock", "sock"], 2),
];

/// Final ACKs, exactly.
pub const ACK_BRACKET: &[Hook] = &[
    bracket("ack_left", Attach::Exit, "tcp_check_req", CHECK_REQ),
    bracket("ack_entered", Attach::Entry, "tcp_check_req", CHECK_REQ),
];

/// Final ACKs, by kprobe.
pub const ACK_BRACKET_KPROBE: &[Hook] = &[
    bracket("ack_left_kprobe", Attach::KprobeExit, "tcp_check_req", CHECK_REQ),
    bracket("ack_entered_kprobe", Attach::KprobeEntry, "tcp_check_req", CHECK_REQ),
];

/// ACKs with a SYN cookie, exactly.
pub const COOKIE_BRACKET: &[Hook] = &[
    bracket("cookie_v4_left", Attach::Exit, "cookie_v4_check", COOKIE_CHECK),
    bracket("cookie_v4_entered", Attach::Entry, "cookie_v4_check", COOKIE_CHECK),
    bracket("cookie_v6_left", Attach::Exit, "cookie_v6_check", COOKIE_CHECK),
    bracket("cookie_v6_entered", Attach::Entry, "cookie_v6_check", COOKIE_CHECK),
];

/// ACKs with a SYN cookie, by kprobe.
pub const COOKIE_BRACKET_KPROBE: &[Hook] = &[
    bracket("cookie_left_kprobe", Attach::KprobeExit, "cookie_v4_check", COOKIE_CHECK),
    bracket("cookie_entered_kprobe", Attach::KprobeEntry, "cookie_v4_check", COOKIE_CHECK),
    bracket("cookie_left_kprobe", Attach::KprobeExit, "cookie_v6_check", COOKIE_CHECK),
    bracket("cookie_entered_kprobe", Attach::KprobeEntry, "cookie_v6_check", COOKIE_CHECK),
];

/// Requests given up by their timer.
pub const EXPIRED: &[Hook] = &[hook(
    "request_dropped",
    Attach::Entry,
    "__inet_csk_reqsk_queue_drop",
    QUEUE_DROP,
    &[REQUEST, EXPIRY, LISTENER],
)];

/// The same by kprobe.
pub const EXPIRED_KPROBE: &[Hook] = &[hook(
    "request_dropped_kprobe",
    Attach::KprobeEntry,
    "__inet_csk_reqsk_queue_drop",
    QUEUE_DROP,
    &[REQUEST, EXPIRY, LISTENER],
)];

const CHILD_FORGET: &[&str] = &["sock", "request_sock", "sock"];

/// Connections reset un-accepted because their listener closed.
pub const UNACCEPTED: &[Hook] = &[hook(
    "child_forgotten",
    Attach::Entry,
    "inet_child_forget",
    CHILD_FORGET,
    &[REQUEST, LISTENER],
)];

/// The same by kprobe.
pub const UNACCEPTED_KPROBE: &[Hook] = &[hook(
    "child_forgotten_kprobe",
    Attach::KprobeEntry,
    "inet_child_forget",
    CHILD_FORGET,
    &[REQUEST, LISTENER],
)];

/// Requests ended by an ICMP error.
pub const ICMP_ERROR: &[Hook] =
    &[hook("request_refused", Attach::Entry, "tcp_req_err", REQ_ERR, &[REQUEST, ICMP, LISTENER])];

/// The same by kprobe.
pub const ICMP_ERROR_KPROBE: &[Hook] = &[hook(
    "request_refused_kprobe",
    Attach::KprobeEntry,
    "tcp_req_err",
    REQ_ERR,
    &[REQUEST, ICMP, LISTENER],
)];

/// Final ACKs by the reason their segment was freed for.
pub const ACK_REASON: &[Hook] = &[Hook {
    program: "segment_freed",
    attach: Attach::Tracepoint,
    target: "kfree_skb",
    args: &["sk_buff", "", "skb_drop_reason", "sock"],
    arg_count: None,
    needs: &[REASON, LISTENER, SEGMENT],
}];

/// SYN/ACKs sent again.
pub const SYNACK_TRACEPOINT: &[Hook] = &[Hook {
    program: "synack_retransmitted",
    attach: Attach::Tracepoint,
    target: "tcp_retransmit_synack",
    args: &["sock", "request_sock"],
    arg_count: None,
    needs: &[REQUEST, LISTENER],
}];

const REFUSED: Hook = Hook {
    program: "time_wait_refused",
    attach: Attach::Exit,
    target: "inet_twsk_alloc",
    args: TWSK_ALLOC,
    arg_count: Some(3),
    needs: &[SERVICE],
};

/// TIME_WAIT entries from Linux 6.11 on.
pub const TIME_WAIT_HASHED: &[Hook] = &[
    hook(
        "time_wait_hashed",
        Attach::Entry,
        "inet_twsk_hashdance_schedule",
        &["inet_timewait_sock", "sock", "inet_hashinfo", "int"],
        &[SERVICE, SUBSTATE, &[TW_AT_ENTRY]],
    ),
    REFUSED,
];

/// TIME_WAIT entries from Linux 5.18 to 6.10.
pub const TIME_WAIT_SCHEDULED: &[Hook] = &[
    hook(
        "time_wait_scheduled",
        Attach::Entry,
        "__inet_twsk_schedule",
        &["inet_timewait_sock", "int", "bool"],
        &[SERVICE, SUBSTATE, &[TW_AT_ENTRY]],
    ),
    REFUSED,
];

/// TIME_WAIT entries before Linux 5.18, and what is counted at expiry there.
pub const TIME_WAIT_EXPIRED: &[Hook] = &[
    Hook {
        program: "time_wait_allocated",
        attach: Attach::Exit,
        target: "inet_twsk_alloc",
        args: TWSK_ALLOC,
        arg_count: Some(3),
        needs: &[SERVICE],
    },
    hook(
        "time_wait_expired",
        Attach::Entry,
        "tw_timer_handler",
        &["timer_list"],
        &[SERVICE, &["OFF_TW_TIMER", "OFF_TW_KILL", "BIT_TW_KILL"]],
    ),
];

const fn answered(program: &'static str, arg_count: usize) -> Hook {
    Hook {
        program,
        attach: Attach::Exit,
        target: "tcp_timewait_state_process",
        args: &["inet_timewait_sock", "sk_buff", "tcphdr"],
        arg_count: Some(arg_count),
        needs: &[SERVICE],
    }
}

/// How TIME_WAIT sockets end early: reused by `connect(2)`, reopened by a SYN.
pub const TIME_WAIT_ENDS: &[Hook] = &[
    Hook {
        program: "time_wait_reused",
        attach: Attach::Exit,
        target: "tcp_twsk_unique",
        args: &["sock", "sock", ""],
        arg_count: Some(3),
        needs: &[SERVICE],
    },
    answered("time_wait_answered_3", 3),
    answered("time_wait_answered_4", 4),
    answered("time_wait_answered_5", 5),
];

const fn connect(program: &'static str, target: &'static str) -> Hook {
    Hook {
        program,
        attach: Attach::Exit,
        target,
        args: &["inet_timewait_death_row", "sock"],
        arg_count: Some(2),
        needs: &[CONNECT],
    }
}

/// Connects that find no local port.
pub const NO_PORT: &[Hook] = &[
    connect("connect_hashed", "inet_hash_connect"),
    connect("connect6_hashed", "inet6_hash_connect"),
];

/// SYNs of this host's clients sent again.
pub const SYN_REPEATED: &[Hook] = &[hook(
    "segment_retransmitted",
    Attach::Tracepoint,
    "tcp_retransmit_skb",
    &["sock", "sk_buff"],
    &[SERVICE, &["OFF_SK_STATE"]],
)];

/// TIME_WAIT entries by the state changes around them.
pub const TIME_WAIT_STATES: &[Hook] = &[Hook {
    program: "state_changed",
    attach: Attach::Tracepoint,
    target: "inet_sock_set_state",
    args: &["sock", "int", "int"],
    arg_count: None,
    needs: &[STATES, SERVICE],
}];

impl Hook {
    /// Why this hook cannot serve on the kernel that `btf` and `layout` describe; `None` if it can,
    /// as far as can be told without trying.
    pub fn objection(&self, btf: &Btf, layout: &Layout) -> Option<String> {
        let Self { target, attach, .. } = self;
        let actual = match attach {
            Attach::Tracepoint => btf.tracepoint(target),
            _ => btf.function(target).map(|params| params.into_iter().map(|(_, t)| t).collect()),
        };
        let Some(actual) = actual else {
            return Some(format!("{target} is not in this kernel"));
        };
        let alike = actual.len() >= self.args.len()
            && self.args.iter().zip(&actual).all(|(want, have)| want.is_empty() || want == have);
        if !alike || self.arg_count.is_some_and(|count| count != actual.len()) {
            return Some(format!("{target} has other arguments here: ({})", actual.join(", ")));
        }
        self.needs.iter().find_map(|constants| layout.missing(constants))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn objection(hook: &Hook) -> Option<String> {
        let btf = Btf::read(Btf::VMLINUX.as_ref()).ok()?;
        let layout = Layout::resolve(&btf);
        hook.objection(&btf, &layout)
    }

    #[test]
    fn a_kernel_that_is_not_what_a_hook_was_written_for_is_refused() {
        if !std::path::Path::new(Btf::VMLINUX).exists() {
            println!("skipped: this kernel has no BTF");
            return;
        }
        let known = || hook("p", Attach::Entry, "tcp_conn_request", CONN_REQUEST, &[]);
        assert_eq!(objection(&known()), None);
        let unknown = Hook { target: "tcp_no_such_function", ..known() };
        assert_eq!(objection(&unknown).unwrap(), "tcp_no_such_function is not in this kernel");
        let other = Hook { args: &["sock"], ..known() };
        assert!(objection(&other).unwrap().contains("has other arguments here"));
        let more = Hook { arg_count: Some(9), ..known() };
        assert!(objection(&more).unwrap().contains("has other arguments here"));
    }
}
