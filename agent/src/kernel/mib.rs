//! The kernel's own counters of a namespace: `/proc/net/netstat` and `/proc/net/snmp`
//! (net/ipv4/proc.c). They have a pair of lines per group: names, then values in the same order.

use std::{
    collections::BTreeMap,
    fs, io,
    ops::{AddAssign, Index, IndexMut},
    sync::OnceLock,
};

use serde::{Deserialize, Serialize};

/// A counter of the kernel that the agent reads; also its index in [`MibCounts`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(usize)]
pub enum Counter {
    /// `TcpExt: ListenOverflows`.
    ListenOverflows,
    /// `TcpExt: ListenDrops`.
    ListenDrops,
    /// `TcpExt: TCPReqQFullDrop`.
    ReqQFullDrop,
    /// `TcpExt: TCPReqQFullDoCookies`.
    ReqQFullDoCookies,
    /// `TcpExt: SyncookiesSent`.
    SyncookiesSent,
    /// `TcpExt: SyncookiesRecv`.
    SyncookiesRecv,
    /// `TcpExt: SyncookiesFailed`.
    SyncookiesFailed,
    /// `TcpExt: EmbryonicRsts`.
    EmbryonicRsts,
    /// `TcpExt: TCPDeferAcceptDrop`.
    DeferAcceptDrop,
    /// `TcpExt: TCPFastOpenPassiveFail`: no Fast Open child, or a bad cookie.
    FastOpenPassiveFail,
    /// `TcpExt: TCPSynRetrans`, in which SYNs sent again by this host's clients are mixed.
    SynRetrans,
    /// `TcpExt: TCPTimeWaitOverflow`.
    TimeWaitOverflow,
    /// `TcpExt: TW`: TIME_WAIT sockets that entered, or on kernels before 5.18 expired.
    TimeWait,
    /// `TcpExt: TWKilled`: the same for those with a timeout of 4 s or less.
    TimeWaitShort,
    /// `TcpExt: TWRecycled`.
    TimeWaitRecycled,
    /// `Tcp: PassiveOpens`.
    PassiveOpens,
}

/// Number of [`Counter`]s.
const COUNTERS: usize = Counter::PassiveOpens as usize + 1;

impl Counter {
    /// Every counter, each at its own index.
    pub const ALL: [Self; COUNTERS] = [
        Self::ListenOverflows,
        Self::ListenDrops,
        Self::ReqQFullDrop,
        Self::ReqQFullDoCookies,
        Self::SyncookiesSent,
        Self::SyncookiesRecv,
        Self::SyncookiesFailed,
        Self::EmbryonicRsts,
        Self::DeferAcceptDrop,
        Self::FastOpenPassiveFail,
        Self::SynRetrans,
        Self::TimeWaitOverflow,
        Self::TimeWait,
        Self::TimeWaitShort,
        Self::TimeWaitRecycled,
        Self::PassiveOpens,
    ];

    /// The counters that are accounted for, one for one, by what is attributed to listeners and
    /// services.
    pub fn reconciled() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|counter| *counter != Self::PassiveOpens)
    }

    /// The kernel's name for it (net/ipv4/proc.c).
    pub const fn name(self) -> &'static str {
        match self {
            Self::ListenOverflows => "ListenOverflows",
            Self::ListenDrops => "ListenDrops",
            Self::ReqQFullDrop => "TCPReqQFullDrop",
            Self::ReqQFullDoCookies => "TCPReqQFullDoCookies",
            Self::SyncookiesSent => "SyncookiesSent",
            Self::SyncookiesRecv => "SyncookiesRecv",
            Self::SyncookiesFailed => "SyncookiesFailed",
            Self::EmbryonicRsts => "EmbryonicRsts",
            Self::DeferAcceptDrop => "TCPDeferAcceptDrop",
            Self::FastOpenPassiveFail => "TCPFastOpenPassiveFail",
            Self::SynRetrans => "TCPSynRetrans",
            Self::TimeWaitOverflow => "TCPTimeWaitOverflow",
            Self::TimeWait => "TW",
            Self::TimeWaitShort => "TWKilled",
            Self::TimeWaitRecycled => "TWRecycled",
            Self::PassiveOpens => "PassiveOpens",
        }
    }
}

/// The kernel's own counters of one namespace: growth, or totals since the agent's baseline. As
/// JSON, an object of those that are not 0, by the kernel's names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "BTreeMap<String, u64>", into = "BTreeMap<&'static str, u64>")]
pub struct MibCounts([u64; COUNTERS]);

impl Index<Counter> for MibCounts {
    type Output = u64;

    fn index(&self, counter: Counter) -> &u64 {
        &self.0[counter as usize]
    }
}

impl IndexMut<Counter> for MibCounts {
    fn index_mut(&mut self, counter: Counter) -> &mut u64 {
        &mut self.0[counter as usize]
    }
}

impl AddAssign for MibCounts {
    fn add_assign(&mut self, rhs: Self) {
        Counter::ALL.into_iter().for_each(|counter| self[counter] += rhs[counter]);
    }
}

impl From<MibCounts> for BTreeMap<&'static str, u64> {
    fn from(counts: MibCounts) -> Self {
        let moved = Counter::ALL.into_iter().filter(|counter| counts[*counter] > 0);
        moved.map(|counter| (counter.name(), counts[counter])).collect()
    }
}

impl From<BTreeMap<String, u64>> for MibCounts {
    fn from(by_name: BTreeMap<String, u64>) -> Self {
        let count = |counter: Counter| by_name.get(counter.name()).copied().unwrap_or(0);
        Self(Counter::ALL.map(count))
    }
}

impl MibCounts {
    /// What of each reconciled counter is not in `attributed`; negative where too much was.
    pub fn unattributed(&self, attributed: &Self) -> impl Iterator<Item = (Counter, i64)> {
        let rest = |counter| self[counter].wrapping_sub(attributed[counter]) as i64;
        Counter::reconciled().map(move |counter| (counter, rest(counter)))
    }
}

/// Reads the counters of the calling thread's namespace.
///
/// # Errors
///
/// When procfs cannot be read.
pub fn read_here() -> io::Result<MibCounts> {
    let netstat = fs::read_to_string("/proc/thread-self/net/netstat")?;
    let snmp = fs::read_to_string("/proc/thread-self/net/snmp")?;
    Ok(parse(&netstat, &snmp))
}

/// As [`read_here`], but only the counters that are [reconciled](Counter::reconciled), which takes one
/// file instead of two.
///
/// # Errors
///
/// As there.
pub fn read_reconciled_here() -> io::Result<MibCounts> {
    Ok(parse(&fs::read_to_string("/proc/thread-self/net/netstat")?, ""))
}

/// Picks the counters by name; one that this kernel lacks is 0.
fn parse(netstat: &str, snmp: &str) -> MibCounts {
    static NETSTAT: OnceLock<Names> = OnceLock::new();
    static SNMP: OnceLock<Names> = OnceLock::new();
    let mut counts = MibCounts::default();
    for (text, group, known) in [(netstat, "TcpExt:", &NETSTAT), (snmp, "Tcp:", &SNMP)] {
        let mut lines = text.lines().filter_map(|line| line.strip_prefix(group));
        let (Some(names), Some(values)) = (lines.next(), lines.next()) else { continue };
        let known = known.get_or_init(|| Names::new(names));
        if known.line == names {
            known.pick(values, &mut counts);
        } else {
            Names::new(names).pick(values, &mut counts);
        }
    }
    counts
}

/// A line of names, which a kernel has the same in every namespace and at all times: comparing it
/// takes a small part of what comparing its hundred names takes.
struct Names {
    line: String,
    /// The counters that are read, and how many other values come before each.
    wanted: Vec<(Counter, usize)>,
}

impl Names {
    fn new(line: &str) -> Self {
        let mut others = 0;
        let mut wanted = Vec::new();
        for name in line.split_ascii_whitespace() {
            match Counter::ALL.into_iter().find(|counter| counter.name() == name) {
                Some(counter) => wanted.push((counter, std::mem::take(&mut others))),
                None => others += 1,
            }
        }
        Self { line: line.to_owned(), wanted }
    }

    fn pick(&self, values: &str, counts: &mut MibCounts) {
        let mut values = values.split_ascii_whitespace();
        for (counter, others) in &self.wanted {
            // A few of the counters are signed (Tcp: MaxConn is -1); none of those is asked for.
            if let Some(value) = values.nth(*others).and_then(|value| value.parse().ok()) {
                counts[*counter] = value;
            }
        }
    }
}

impl MibCounts {
    /// Growth since `before`. A namespace's counters never go back, so if one did, the id has gone
    /// to a younger namespace: all that one has counted is growth.
    pub fn since(&self, before: &Self) -> Self {
        self.grown(before).unwrap_or(*self)
    }

    /// Whether one went back.
    pub fn went_back(&self, before: &Self) -> bool {
        self.grown(before).is_none()
    }

    fn grown(&self, before: &Self) -> Option<Self> {
        let mut growth = Self::default();
        for counter in Counter::ALL {
            growth[counter] = self[counter].checked_sub(before[counter])?;
        }
        Some(growth)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NETSTAT: &str = "\
TcpExt: SyncookiesSent TW ListenOverflows ListenDrops TCPSynRetrans TCPReqQFullDrop
TcpExt: 1 22 333 4444 5 6
IpExt: InNoRoutes ListenOverflows
IpExt: 9 9
";
    const SNMP: &str = "\
Ip: Forwarding
Ip: 1
Tcp: RtoAlgorithm MaxConn ActiveOpens PassiveOpens
Tcp: 1 -1 7 8
";

    fn counts_of(moved: &[(Counter, u64)]) -> MibCounts {
        let mut counts = MibCounts::default();
        moved.iter().for_each(|(counter, count)| counts[*counter] = *count);
        counts
    }

    #[test]
    fn every_counter_has_its_index() {
        for (index, counter) in Counter::ALL.into_iter().enumerate() {
            assert_eq!(counter as usize, index);
        }
    }

    #[test]
    fn json_names_what_moved() {
        let counts = counts_of(&[(Counter::ListenDrops, 3)]);
        let json = serde_json::to_string(&counts).unwrap();
        assert_eq!(json, r#"{"ListenDrops":3}"#);
        assert_eq!(serde_json::from_str::<MibCounts>(&json).unwrap(), counts);
    }

    #[test]
    fn picks_counters_by_name() {
        let counts = parse(NETSTAT, SNMP);
        let expected = counts_of(&[
            (Counter::SyncookiesSent, 1),
            (Counter::ListenOverflows, 333),
            (Counter::ListenDrops, 4444),
            (Counter::ReqQFullDrop, 6),
            (Counter::TimeWait, 22),
            (Counter::SynRetrans, 5),
            (Counter::PassiveOpens, 8),
        ]);
        assert_eq!(counts, expected);
        assert_eq!(parse("", "Tcp: PassiveOpens"), MibCounts::default());
    }

    #[test]
    fn growth_starts_over_with_a_new_namespace() {
        let drops = |count| counts_of(&[(Counter::ListenDrops, count)]);
        assert_eq!(drops(9).since(&drops(4)), drops(5));
        assert_eq!(drops(3).since(&drops(4)), drops(3));
    }

    /// The younger namespace may have dropped more than the old one and still be younger.
    #[test]
    fn any_counter_that_went_back_tells_a_new_namespace() {
        let young = counts_of(&[(Counter::ListenDrops, 9), (Counter::TimeWait, 3)]);
        let old = counts_of(&[(Counter::ListenDrops, 4), (Counter::TimeWait, 8)]);
        assert_eq!(young.since(&old), young);
    }
}
