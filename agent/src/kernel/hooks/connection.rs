//! Where connections are seen: TIME_WAIT, local ports, SYNs sent again.

use super::{super::layout::TW_AT_ENTRY, Attach, Hook, hook};

const SERVICE: &[&str] = &["OFF_SK_PORTPAIR", "OFF_SK_NET", "OFF_NET_INUM"];
const SUBSTATE: &[&str] = &["OFF_TW_SUBSTATE", "SHORT_TIMEOUT"];
/// Both ends of a connection.
pub(super) const CONNECT: &[&str] = &[
    "OFF_SK_NUM",
    "OFF_SK_DPORT",
    "OFF_SK_FAMILY",
    "OFF_SK_DADDR",
    "OFF_SK_V6_DADDR",
    "OFF_SK_NET",
    "OFF_NET_INUM",
];
const STATES: &[&str] = &["OFF_SK_DPORT", "OFF_SK_PROTOCOL", "OFF_INET_SPORT"];

const TWSK_ALLOC: &[&str] = &["sock", "inet_timewait_death_row", "int"];
const TWSK_HASHED: &str = "inet_twsk_hashdance_schedule";
const TWSK_SCHEDULED: &str = "__inet_twsk_schedule";
const TWSK_UNIQUE: &[&str] = &["sock", "sock", ""];
const TWSK_PROCESS: &[&str] = &["inet_timewait_sock", "sk_buff", "tcphdr"];

const fn hashed(program: &'static str, attach: Attach) -> Hook {
    let args = &["inet_timewait_sock", "sock", "inet_hashinfo", "int"];
    hook(program, attach, TWSK_HASHED, args, &[SERVICE, SUBSTATE, &[TW_AT_ENTRY]])
}

const fn scheduled(program: &'static str, attach: Attach) -> Hook {
    let args = &["inet_timewait_sock", "int", "bool"];
    hook(program, attach, TWSK_SCHEDULED, args, &[SERVICE, SUBSTATE, &[TW_AT_ENTRY]])
}

const fn allocated(program: &'static str, attach: Attach) -> Hook {
    let arg_count = Some(3);
    let needs: &[&[&str]] = &[SERVICE, SUBSTATE];
    Hook { program, attach, target: "inet_twsk_alloc", args: TWSK_ALLOC, arg_count, needs }
}

const fn expired(program: &'static str, attach: Attach) -> Hook {
    let needs: &[&[&str]] = &[SERVICE, &["OFF_TW_TIMER", "OFF_TW_KILL", "BIT_TW_KILL"]];
    hook(program, attach, "tw_timer_handler", &["timer_list"], needs)
}

const REFUSED: Hook = allocated("time_wait_refused", Attach::Exit);
const REFUSED_KPROBE: Hook = allocated("time_wait_refused_kprobe", Attach::KprobeExit);
const WANTED_KPROBE: Hook = allocated("time_wait_wanted_kprobe", Attach::KprobeEntry);

/// TIME_WAIT entries from Linux 6.11 on.
pub const TIME_WAIT_HASHED: &[Hook] = &[hashed("time_wait_hashed", Attach::Entry), REFUSED];

/// The same by kprobe.
pub const TIME_WAIT_HASHED_KPROBE: &[Hook] =
    &[hashed("time_wait_hashed_kprobe", Attach::KprobeEntry), REFUSED_KPROBE, WANTED_KPROBE];

/// TIME_WAIT entries from Linux 5.18 to 6.10.
pub const TIME_WAIT_SCHEDULED: &[Hook] =
    &[scheduled("time_wait_scheduled", Attach::Entry), REFUSED];

/// The same by kprobe.
pub const TIME_WAIT_SCHEDULED_KPROBE: &[Hook] =
    &[scheduled("time_wait_scheduled_kprobe", Attach::KprobeEntry), REFUSED_KPROBE, WANTED_KPROBE];

/// TIME_WAIT entries before Linux 5.18, and what is counted at expiry there.
pub const TIME_WAIT_EXPIRED: &[Hook] =
    &[allocated("time_wait_allocated", Attach::Exit), expired("time_wait_expired", Attach::Entry)];

/// The same by kprobe.
pub const TIME_WAIT_EXPIRED_KPROBE: &[Hook] = &[
    allocated("time_wait_allocated_kprobe", Attach::KprobeExit),
    WANTED_KPROBE,
    expired("time_wait_expired_kprobe", Attach::KprobeEntry),
];

const fn reused(program: &'static str, attach: Attach) -> Hook {
    let arg_count = Some(3);
    Hook {
        program,
        attach,
        target: "tcp_twsk_unique",
        args: TWSK_UNIQUE,
        arg_count,
        needs: &[SERVICE],
    }
}

const fn answered(program: &'static str, attach: Attach, arg_count: Option<usize>) -> Hook {
    let target = "tcp_timewait_state_process";
    Hook { program, attach, target, args: TWSK_PROCESS, arg_count, needs: &[SERVICE] }
}

/// How TIME_WAIT sockets end early: reused by `connect(2)`, reopened by a SYN.
pub const TIME_WAIT_ENDS: &[Hook] = &[
    reused("time_wait_reused", Attach::Exit),
    answered("time_wait_answered_3", Attach::Exit, Some(3)),
    answered("time_wait_answered_4", Attach::Exit, Some(4)),
    answered("time_wait_answered_5", Attach::Exit, Some(5)),
];

/// The same by kprobe.
pub const TIME_WAIT_ENDS_KPROBE: &[Hook] = &[
    reused("time_wait_reused_kprobe", Attach::KprobeExit),
    reused("time_wait_wanted_back_kprobe", Attach::KprobeEntry),
    answered("time_wait_answered_kprobe", Attach::KprobeExit, None),
    answered("time_wait_asked_kprobe", Attach::KprobeEntry, None),
];

const fn connect(program: &'static str, attach: Attach, target: &'static str) -> Hook {
    let args = &["inet_timewait_death_row", "sock"];
    Hook { program, attach, target, args, arg_count: Some(2), needs: &[CONNECT] }
}

const CONNECT_V4: &str = "inet_hash_connect";
const CONNECT_V6: &str = "inet6_hash_connect";

/// Connects that find no local port.
pub const NO_PORT: &[Hook] = &[
    connect("connect_hashed", Attach::Exit, CONNECT_V4),
    connect("connect6_hashed", Attach::Exit, CONNECT_V6),
];

/// The same by kprobe.
pub const NO_PORT_KPROBE: &[Hook] = &[
    connect("connect_hashed_kprobe", Attach::KprobeExit, CONNECT_V4),
    connect("connect_begun_kprobe", Attach::KprobeEntry, CONNECT_V4),
    connect("connect_hashed_kprobe", Attach::KprobeExit, CONNECT_V6),
    connect("connect_begun_kprobe", Attach::KprobeEntry, CONNECT_V6),
];

const RETRANSMITS: &[&str] =
    &["OFF_SKB_CB", "OFF_TCB_SEQ", "OFF_TCB_FLAGS", "OFF_TP_TOTAL_RETRANS"];

const fn retransmit(program: &'static str, attach: Attach) -> Hook {
    hook(program, attach, "tcp_retransmit_skb", &["sock", "sk_buff"], &[SERVICE, RETRANSMITS])
}

/// SYNs of full sockets sent again, by what that counts.
pub const SYN_REPEATED: &[Hook] =
    &[retransmit("retransmit_left", Attach::Exit), retransmit("retransmit_entered", Attach::Entry)];

/// The same by kprobe.
pub const SYN_REPEATED_KPROBE: &[Hook] = &[
    retransmit("retransmit_left_kprobe", Attach::KprobeExit),
    retransmit("retransmit_entered_kprobe", Attach::KprobeEntry),
];

/// The same as the kernel tells of them.
pub const SYN_REPEATED_TRACEPOINT: &[Hook] =
    &[retransmit("segment_retransmitted", Attach::Tracepoint)];

/// Namespaces as they are made, where nothing else tells those with one inode number apart.
pub const NAMESPACES: Hook = Hook {
    program: "namespace_made",
    attach: Attach::Exit,
    target: "copy_net_ns",
    args: &["", "user_namespace", "net"],
    arg_count: Some(3),
    needs: &[&["OFF_NET_INUM"]],
};

/// TIME_WAIT entries by the state changes around them.
pub const TIME_WAIT_STATES: &[Hook] = &[Hook {
    program: "state_changed",
    attach: Attach::Tracepoint,
    target: "inet_sock_set_state",
    args: &["sock", "int", "int"],
    arg_count: None,
    needs: &[STATES, SERVICE],
}];
