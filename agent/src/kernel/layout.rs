//! Where the running kernel keeps what the eBPF programs read. The tables here are the only place
//! in the agent that names a kernel structure, member or enumerator; the programs know them by the
//! name of a constant that they leave open.

use std::{collections::BTreeMap, time::Duration};

use nix::time::{ClockId, clock_getres};

use super::{btf::Btf, lives};

/// A member of a kernel structure, wanted by the programs under `constant`.
struct Field {
    constant: &'static str,
    structure: &'static str,
    path: &'static str,
    /// Widths in bytes that the programs can read; empty for a pointer-sized or unread width.
    sizes: &'static [u64],
}

const fn field(
    constant: &'static str,
    structure: &'static str,
    path: &'static str,
    sizes: &'static [u64],
) -> Field {
    Field { constant, structure, path, sizes }
}

const FIELDS: &[Field] = &[
    field("OFF_SK_FAMILY", "sock", "__sk_common.skc_family", &[2]),
    field("OFF_SK_NUM", "sock", "__sk_common.skc_num", &[2]),
    field("OFF_SK_DPORT", "sock", "__sk_common.skc_dport", &[2]),
    field("OFF_SK_PORTPAIR", "sock", "__sk_common.skc_portpair", &[4]),
    field("OFF_SK_DADDR", "sock", "__sk_common.skc_daddr", &[4]),
    field("OFF_SK_RCV_SADDR", "sock", "__sk_common.skc_rcv_saddr", &[4]),
    field("OFF_SK_V6_DADDR", "sock", "__sk_common.skc_v6_daddr", &[16]),
    field("OFF_SK_V6_RCV_SADDR", "sock", "__sk_common.skc_v6_rcv_saddr", &[16]),
    field("OFF_SK_NET", "sock", "__sk_common.skc_net", &[8]),
    field("OFF_SK_DROPS", "sock", "sk_drops", &[4]),
    field("OFF_SK_ACK_BACKLOG", "sock", "sk_ack_backlog", &[4]),
    field("OFF_SK_MAX_ACK_BACKLOG", "sock", "sk_max_ack_backlog", &[4]),
    field("OFF_SK_PROTOCOL", "sock", "sk_protocol", &[2]),
    field("OFF_SK_SOCKET", "sock", "sk_socket", &[8]),
    field("OFF_SK_STATE", "sock", "__sk_common.skc_state", &[1]),
    field("OFF_TW_SUBSTATE", "inet_timewait_sock", "tw_substate", &[1]),
    field("OFF_TW_TIMER", "inet_timewait_sock", "tw_timer", &[]),
    field("OFF_REQ_LISTENER", "request_sock", "__req_common.skc_listener", &[8]),
    field("OFF_REQ_SNT_ISN", "tcp_request_sock", "snt_isn", &[4]),
    // u8 on all kernels read; the offset of rskq_defer_accept is that of its byte.
    field(
        "OFF_CSK_DEFER_ACCEPT",
        "inet_connection_sock",
        "icsk_accept_queue.rskq_defer_accept",
        &[1],
    ),
    field("OFF_CSK_SYN_RETRIES", "inet_connection_sock", "icsk_syn_retries", &[1]),
    field("OFF_INET_SPORT", "inet_sock", "inet_sport", &[2]),
    field("OFF_SOCKET_INO", "socket_alloc", "vfs_inode.i_ino", &[8]),
    field("OFF_FILE_INODE", "file", "f_inode", &[8]),
    field("OFF_NET_INUM", "net", "ns.inum", &[4]),
    field("OFF_NET_STATISTICS", "net", "mib.net_statistics", &[8]),
    field("OFF_NET_COOKIE", "net", "net_cookie", &[8]),
    field("OFF_NET_SYNACK_RETRIES", "net", "ipv4.sysctl_tcp_synack_retries", &[1, 4]),
    field("OFF_NET_SOMAXCONN", "net", "core.sysctl_somaxconn", &[4]),
    field("OFF_CSK_QLEN", "inet_connection_sock", "icsk_accept_queue.qlen", &[4]),
    field("OFF_TP_RCVQ_TIME", "tcp_sock", "rcvq_space.time", &[8]),
    field("OFF_SOCKET_SK", "socket", "sk", &[8]),
    field("OFF_FILE_PRIVATE", "file", "private_data", &[8]),
    field("OFF_INODE_MODE", "inode", "i_mode", &[2]),
    field("OFF_TASK_FILES", "task_struct", "files", &[8]),
    field("OFF_TASK_NSPROXY", "task_struct", "nsproxy", &[8]),
    field("OFF_NSPROXY_NET", "nsproxy", "net_ns", &[8]),
    field("OFF_FILES_FDT", "files_struct", "fdt", &[8]),
    field("OFF_FDT_FD", "fdtable", "fd", &[8]),
    // x86-64; elsewhere the registers have other names, and what needs them is refused.
    field("OFF_REGS_ORIG_AX", "pt_regs", "orig_ax", &[8]),
    field("OFF_REGS_DI", "pt_regs", "di", &[8]),
    field("OFF_REGS_SI", "pt_regs", "si", &[8]),
    field("OFF_REGS_DX", "pt_regs", "dx", &[8]),
    field("OFF_SKB_HEAD", "sk_buff", "head", &[8]),
    field("OFF_SKB_NETWORK_HEADER", "sk_buff", "network_header", &[2]),
    field("OFF_SKB_TRANSPORT_HEADER", "sk_buff", "transport_header", &[2]),
    field("OFF_SKB_PROTOCOL", "sk_buff", "protocol", &[2]),
    field("OFF_SKB_CB", "sk_buff", "cb", &[]),
    field("OFF_TCB_SEQ", "tcp_skb_cb", "seq", &[4]),
    field("OFF_TCB_FLAGS", "tcp_skb_cb", "tcp_flags", &[1, 2]),
    field("OFF_TP_TOTAL_RETRANS", "tcp_sock", "total_retrans", &[4]),
    // A flexible array of per-CPU pointers: BTF gives it no size.
    field("OFF_BPF_ARRAY_PPTRS", "bpf_array", "pptrs", &[]),
];

/// A bit field, wanted as the byte it begins in and its lowest bit there.
struct BitField {
    byte: &'static str,
    bit: &'static str,
    structure: &'static str,
    path: &'static str,
}

const BIT_FIELDS: &[BitField] = &[
    BitField {
        byte: "OFF_REQ_NUM_TIMEOUT",
        bit: "BIT_REQ_NUM_TIMEOUT",
        structure: "request_sock",
        path: "num_timeout",
    },
    BitField {
        byte: "OFF_REQ_ACKED",
        bit: "BIT_REQ_ACKED",
        structure: "inet_request_sock",
        path: "acked",
    },
    BitField {
        byte: "OFF_TW_KILL",
        bit: "BIT_TW_KILL",
        structure: "inet_timewait_sock",
        path: "tw_kill",
    },
];

/// Stands among the problems where TW and TWKilled are counted at expiry: kernels before 5.18, which
/// have `tw_kill` to tell the two apart (commit ed0c99dc0f49).
pub const TW_AT_ENTRY: &str = "TW_AT_ENTRY";

/// Members of `struct request_sock` must lie where those of `struct sock` do: both begin with a
/// `struct sock_common`, and the programs read both with the same constants.
const REQUEST_COMMON: (&str, &str) = ("request_sock", "__req_common.skc_dport");

const ENUMERATORS: &[(&str, &str)] = &[
    // Linux 6.15 and later.
    ("REASON_LISTEN_OVERFLOW", "SKB_DROP_REASON_TCP_LISTEN_OVERFLOW"),
];

/// A counter in `struct linux_mib`, and the one that must follow it where both are read at one go.
const MIBS: &[(&str, &str, Option<&str>)] = &[
    ("OFF_MIB_LISTEN_OVERFLOWS", "LINUX_MIB_LISTENOVERFLOWS", Some("LINUX_MIB_LISTENDROPS")),
    ("OFF_MIB_LISTEN_DROPS", "LINUX_MIB_LISTENDROPS", None),
    ("OFF_MIB_SYNCOOKIES_SENT", "LINUX_MIB_SYNCOOKIESSENT", None),
    ("OFF_MIB_SYNCOOKIES_RECV", "LINUX_MIB_SYNCOOKIESRECV", Some("LINUX_MIB_SYNCOOKIESFAILED")),
    ("OFF_MIB_EMBRYONIC_RSTS", "LINUX_MIB_EMBRYONICRSTS", None),
    (
        "OFF_MIB_REQ_Q_FULL_DO_COOKIES",
        "LINUX_MIB_TCPREQQFULLDOCOOKIES",
        Some("LINUX_MIB_TCPREQQFULLDROP"),
    ),
    ("OFF_MIB_DEFER_ACCEPT_DROP", "LINUX_MIB_TCPDEFERACCEPTDROP", None),
    ("OFF_MIB_FASTOPEN_PASSIVE_FAIL", "LINUX_MIB_TCPFASTOPENPASSIVEFAIL", None),
];

/// Structures that the programs read at plain addresses.
const STRUCTURES: &[(&str, &str)] = &[
    ("TYPE_LINUX_MIB", "linux_mib"),
    ("TYPE_SOCKET_ALLOC", "socket_alloc"),
    ("TYPE_IPHDR", "iphdr"),
    ("TYPE_IPV6HDR", "ipv6hdr"),
    ("TYPE_TCPHDR", "tcphdr"),
];

/// Functions of which the programs need the number of arguments, behind which the result stands.
const ARGUMENTS: &[(&str, &str, &[u64])] = &[("ARGS_CHECK_REQ", "tcp_check_req", &[5, 6])];

/// What the running kernel's BTF says about [`FIELDS`] and [`ENUMERATORS`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    values: BTreeMap<&'static str, u64>,
    /// What is missing or different, by constant, in words.
    problems: BTreeMap<&'static str, String>,
}

impl Layout {
    /// Looks everything up.
    pub fn resolve(btf: &Btf) -> Self {
        let mut layout = Self::default();
        for field in FIELDS {
            layout.note(field.constant, resolve_field(btf, field));
        }
        for (constant, name) in ENUMERATORS {
            let value = btf.enumerator(name).ok_or_else(|| format!("{name} is not in this kernel"));
            layout.note(constant, value);
        }
        for field in BIT_FIELDS {
            let BitField { byte, bit, structure, path } = field;
            let member = btf
                .member(structure, path)
                .ok_or_else(|| format!("struct {structure} has no {path} in this kernel"));
            layout.note(byte, member.clone().map(|member| member.offset));
            layout.note(bit, member.map(|member| member.bit));
        }
        for (constant, function, expected) in ARGUMENTS {
            let count = btf.function(function).map(|params| params.len() as u64);
            let count = count.filter(|count| expected.contains(count));
            let problem = || format!("{function} has a number of arguments never seen before");
            layout.note(constant, count.ok_or_else(problem));
        }
        for (constant, name, next) in MIBS {
            layout.note(constant, resolve_counter(btf, name, *next));
        }
        layout.check_request_common(btf);
        if !*lives::HAS_COOKIES {
            layout.withhold("OFF_NET_COOKIE", "this kernel tells nobody its namespaces' cookies");
        }
        layout.note(
            TW_AT_ENTRY,
            match layout.values.contains_key("OFF_TW_KILL") {
                true => Err("this kernel counts TW at expiry".to_owned()),
                false => Ok(1),
            },
        );
        layout.note("SHORT_TIMEOUT", four_seconds_in_jiffies());
        layout
    }

    /// Has the programs read plain addresses as these types (see `link.rs`); no program needs it.
    pub fn with_types(mut self, btf: &Btf) -> Self {
        for (constant, structure) in STRUCTURES {
            self.values.extend(btf.structure_id(structure).map(|id| (*constant, u64::from(id))));
        }
        self
    }

    /// The constant of that name, if this kernel has it.
    pub fn value(&self, constant: &str) -> Option<u64> {
        self.values.get(constant).copied()
    }

    /// The constants found, by name.
    pub fn values(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.values.iter().map(|(name, value)| (*name, *value))
    }

    #[cfg(test)]
    pub fn of(values: &[(&'static str, u64)]) -> Self {
        Self { values: values.iter().copied().collect(), problems: BTreeMap::new() }
    }

    /// The first of `constants` that this kernel lacks, in words.
    pub fn missing(&self, constants: &[&str]) -> Option<String> {
        constants.iter().find_map(|name| self.problems.get(name)).cloned()
    }

    fn note(&mut self, constant: &'static str, found: Result<u64, String>) {
        match found {
            Ok(value) => drop(self.values.insert(constant, value)),
            Err(problem) => drop(self.problems.insert(constant, problem)),
        }
    }

    fn check_request_common(&mut self, btf: &Btf) {
        let (structure, path) = REQUEST_COMMON;
        let in_request = btf.member(structure, path).map(|member| member.offset);
        if in_request != self.values.get("OFF_SK_DPORT").copied() {
            self.withhold("OFF_SK_DPORT", "request_sock and sock no longer begin alike");
        }
    }

    /// Keeps from the programs what would mislead them.
    fn withhold(&mut self, constant: &'static str, problem: &str) {
        self.values.remove(constant);
        self.problems.insert(constant, problem.to_owned());
    }
}

/// The clock's coarse resolution is the length of a jiffy (kernel: `KTIME_LOW_RES`).
fn four_seconds_in_jiffies() -> Result<u64, String> {
    let jiffy = clock_getres(ClockId::CLOCK_REALTIME_COARSE)
        .map_err(|error| format!("the length of a jiffy is unknown: {error}"))?;
    let jiffy_ns = Duration::from(jiffy).as_nanos().max(1);
    Ok((Duration::from_secs(4).as_nanos() / jiffy_ns) as u64)
}

/// Where a counter lies in `struct linux_mib`, an array of longs.
fn resolve_counter(btf: &Btf, name: &str, next: Option<&str>) -> Result<u64, String> {
    let number = btf.enumerator(name).ok_or_else(|| format!("{name} is not in this kernel"))?;
    match next {
        Some(next) if btf.enumerator(next) != Some(number + 1) => {
            Err(format!("{next} is not where it was in other kernels"))
        }
        _ => Ok(8 * number),
    }
}

fn resolve_field(btf: &Btf, field: &Field) -> Result<u64, String> {
    let Field { structure, path, sizes, .. } = field;
    let member = btf
        .member(structure, path)
        .ok_or_else(|| format!("struct {structure} has no {path} in this kernel"))?;
    if !sizes.is_empty() && !sizes.contains(&member.size) {
        return Err(format!(
            "struct {structure} {path} is {} bytes wide, expected {sizes:?}",
            member.size
        ));
    }
    Ok(member.offset)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// On whatever kernel the tests run: all that the programs require is there.
    #[test]
    fn resolves_on_the_running_kernel() {
        let Ok(btf) = Btf::read(Path::new(Btf::VMLINUX)) else {
            println!("skipped: this kernel has no BTF");
            return;
        };
        let layout = Layout::resolve(&btf);
        let fields = FIELDS.iter().map(|field| field.constant);
        let fields = fields.filter(|name| *lives::HAS_COOKIES || *name != "OFF_NET_COOKIE");
        // `tw_kill` went away with Linux 5.18.
        let bits = BIT_FIELDS.iter().filter(|field| field.path != "tw_kill");
        let bits = bits.flat_map(|field| [field.byte, field.bit]);
        let counters = MIBS.iter().map(|(constant, ..)| *constant);
        let required: Vec<&str> = fields.chain(bits).chain(counters).collect();
        assert_eq!(layout.missing(&required), None);
    }

    #[test]
    fn an_empty_btf_names_what_is_missing() {
        let mut bytes = vec![0x9f, 0xeb, 1, 0, 24, 0, 0, 0];
        bytes.extend([0; 20]);
        let layout = Layout::resolve(&Btf::parse(&bytes).unwrap());
        let found: Vec<&str> = layout.values().map(|(constant, _)| constant).collect();
        assert_eq!(found, ["SHORT_TIMEOUT", "TW_AT_ENTRY"], "neither is from BTF");
        let missing = layout.missing(&["OFF_SK_NET"]).unwrap();
        assert_eq!(missing, "struct sock has no __sk_common.skc_net in this kernel");
    }
}
