//! Where handshakes are seen at a listener.

use super::{Attach, Hook, hook};

pub(super) const LISTENER: &[&str] = &[
    "OFF_SK_FAMILY",
    "OFF_SK_NUM",
    "OFF_SK_RCV_SADDR",
    "OFF_SK_V6_RCV_SADDR",
    "OFF_SK_NET",
    "OFF_SK_ACK_BACKLOG",
    "OFF_SK_MAX_ACK_BACKLOG",
    "OFF_SK_SOCKET",
    "OFF_SOCKET_INO",
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
    "OFF_NET_INUM",
    "OFF_BPF_ARRAY_PPTRS",
    "OFF_MIB_LISTEN_OVERFLOWS",
    "OFF_MIB_LISTEN_DROPS",
    "OFF_MIB_SYNCOOKIES_SENT",
    "OFF_MIB_SYNCOOKIES_RECV",
    "OFF_MIB_EMBRYONIC_RSTS",
    "OFF_MIB_REQ_Q_FULL_DO_COOKIES",
    "OFF_MIB_DEFER_ACCEPT_DROP",
    "OFF_MIB_FASTOPEN_PASSIVE_FAIL",
    "ARGS_CHECK_REQ",
];
const ICMP: &[&str] = &["OFF_REQ_SNT_ISN"];
const REASON: &[&str] = &["REASON_LISTEN_OVERFLOW"];
const CONN_REQUEST: &[&str] = &["request_sock_ops", "tcp_request_sock_ops", "sock", "sk_buff"];
const CHECK_REQ: &[&str] = &["sock", "sk_buff", "request_sock", "bool"];
const COOKIE_CHECK: &[&str] = &["sock", "sk_buff"];
const QUEUE_DROP: &[&str] = &["sock", "request_sock", "bool"];
const REQ_ERR: &[&str] = &["sock", "u32", "bool"];

const fn bracket(
    program: &'static str,
    attach: Attach,
    target: &'static str,
    args: &'static [&'static str],
) -> Hook {
    Hook { program, attach, target, args, arg_count: None, needs: &[BRACKET, LISTENER, SEGMENT] }
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

const fn taken(program: &'static str, attach: Attach, target: &'static str) -> Hook {
    hook(program, attach, target, &["sock", "sk_buff"], &[LISTENER, SEGMENT])
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
    failure("request_routed6", "tcp_v6_route_req", &["sock"], 5),
    failure("request_routed6_4", "tcp_v6_route_req", &["sock"], 4),
    failure("request_routed6_3", "tcp_v6_route_req", &["sock"], 3),
    failure("port_inherited", "__inet_inherit_port", &["sock", "sock"], 2),
    taken("syn_taken", Attach::Exit, "tcp_v4_conn_request"),
    taken("syn6_taken", Attach::Exit, "tcp_v6_conn_request"),
    taken("subflow_syn_taken", Attach::Exit, "subflow_v4_conn_request"),
    taken("subflow_syn6_taken", Attach::Exit, "subflow_v6_conn_request"),
];

/// Of these, by kprobe, the one that no counter of a bracket shows at all.
pub const CAUSES_KPROBE: &[Hook] = &[
    taken("syn_taken_kprobe", Attach::KprobeExit, "tcp_v4_conn_request"),
    taken("syn_taken_kprobe", Attach::KprobeExit, "tcp_v6_conn_request"),
    taken("syn_taken_kprobe", Attach::KprobeExit, "subflow_v4_conn_request"),
    taken("syn_taken_kprobe", Attach::KprobeExit, "subflow_v6_conn_request"),
    taken("syn_offered_kprobe", Attach::KprobeEntry, "tcp_v4_conn_request"),
    taken("syn_offered_kprobe", Attach::KprobeEntry, "tcp_v6_conn_request"),
    taken("syn_offered_kprobe", Attach::KprobeEntry, "subflow_v4_conn_request"),
    taken("syn_offered_kprobe", Attach::KprobeEntry, "subflow_v6_conn_request"),
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
