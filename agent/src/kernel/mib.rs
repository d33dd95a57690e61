//! The kernel's own counters of a namespace: `/proc/net/netstat` and `/proc/net/snmp`
//! (net/ipv4/proc.c). They have a pair of lines per group: names, then values in the same order.

use std::{fs, io};

use super::sample::MibCounts;

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

/// Picks the counters by name; one that this kernel lacks is 0.
fn parse(netstat: &str, snmp: &str) -> MibCounts {
    let ext = |name| counter(netstat, "TcpExt:", name);
    MibCounts {
        listen_overflows: ext("ListenOverflows"),
        listen_drops: ext("ListenDrops"),
        req_q_full_drop: ext("TCPReqQFullDrop"),
        req_q_full_do_cookies: ext("TCPReqQFullDoCookies"),
        time_wait: ext("TW"),
        syn_retrans: ext("TCPSynRetrans"),
        passive_opens: counter(snmp, "Tcp:", "PassiveOpens"),
    }
}

fn counter(text: &str, group: &str, name: &str) -> u64 {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(group));
    let (Some(names), Some(values)) = (lines.next(), lines.next()) else { return 0 };
    let pair = names.split_whitespace().zip(values.split_whitespace());
    pair.into_iter()
        .find(|(found, _)| *found == name)
        // A few of the counters are signed (Tcp: MaxConn is -1); none of those is asked for.
        .and_then(|(_, value)| value.parse().ok())
        .unwrap_or(0)
}

impl MibCounts {
    /// Growth since `before`. A namespace's counters never go back, so if one did, the id has gone
    /// to a younger namespace: all that one has counted is growth.
    pub fn since(&self, before: &Self) -> Self {
        self.grown(before).unwrap_or(*self)
    }

    fn grown(&self, before: &Self) -> Option<Self> {
        let by = |counter: fn(&Self) -> u64| counter(self).checked_sub(counter(before));
        Some(Self {
            listen_overflows: by(|counts| counts.listen_overflows)?,
            listen_drops: by(|counts| counts.listen_drops)?,
            req_q_full_drop: by(|counts| counts.req_q_full_drop)?,
            req_q_full_do_cookies: by(|counts| counts.req_q_full_do_cookies)?,
            time_wait: by(|counts| counts.time_wait)?,
            syn_retrans: by(|counts| counts.syn_retrans)?,
            passive_opens: by(|counts| counts.passive_opens)?,
        })
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

    #[test]
    fn picks_counters_by_name() {
        let counts = parse(NETSTAT, SNMP);
        let expected = MibCounts {
            listen_overflows: 333,
            listen_drops: 4444,
            req_q_full_drop: 6,
            req_q_full_do_cookies: 0,
            time_wait: 22,
            syn_retrans: 5,
            passive_opens: 8,
        };
        assert_eq!(counts, expected);
        assert_eq!(parse("", "Tcp: PassiveOpens"), MibCounts::default());
    }

    #[test]
    fn growth_starts_over_with_a_new_namespace() {
        let counts = |listen_drops| MibCounts { listen_drops, ..MibCounts::default() };
        assert_eq!(counts(9).since(&counts(4)).listen_drops, 5);
        assert_eq!(counts(3).since(&counts(4)).listen_drops, 3);
    }

    /// The younger namespace may have dropped more than the old one and still be younger.
    #[test]
    fn any_counter_that_went_back_tells_a_new_namespace() {
        let counts =
            |listen_drops, time_wait| MibCounts { listen_drops, time_wait, ..MibCounts::default() };
        assert_eq!(counts(9, 3).since(&counts(4, 8)), counts(9, 3));
    }
}
