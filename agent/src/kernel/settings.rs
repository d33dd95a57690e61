//! The settings of a network namespace that bound its queues and ports, from `/proc/sys`, which shows
//! the namespace of whoever reads it.

use std::{fs, io};

use serde::{Deserialize, Serialize};

/// What limits queues and ports in a namespace; `None` where a setting cannot be read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetnsSettings {
    /// `net.core.somaxconn`: no accept queue is longer, whatever the process asks for.
    pub somaxconn: Option<u32>,
    /// `net.ipv4.tcp_max_syn_backlog`: what bounds the SYN queue where cookies are off.
    pub max_syn_backlog: Option<u32>,
    /// `net.ipv4.tcp_syncookies`: 0 never, 1 when the SYN queue is full, 2 always.
    pub syncookies: Option<u32>,
    /// `net.ipv4.tcp_abort_on_overflow`: 1 to reset what finds no room, instead of silence.
    pub abort_on_overflow: Option<u32>,
    /// `net.ipv4.tcp_synack_retries`.
    pub synack_retries: Option<u32>,
    /// `net.ipv4.tcp_max_tw_buckets`: beyond, connections close without TIME_WAIT.
    pub max_tw_buckets: Option<u32>,
    /// `net.ipv4.ip_local_port_range`, both ends included.
    pub port_range: Option<(u16, u16)>,
    /// `net.ipv4.ip_local_reserved_ports`, as ranges with both ends included.
    pub reserved_ports: Vec<(u16, u16)>,
}

impl NetnsSettings {
    /// The ports that `connect(2)` may choose from.
    pub fn ephemeral_ports(&self) -> Option<u32> {
        let (low, high) = self.port_range?;
        let all = u32::from(high).checked_sub(u32::from(low))? + 1;
        let within = |&(first, last): &(u16, u16)| {
            let (first, last) = (first.max(low), last.min(high));
            u32::from(last).checked_sub(u32::from(first)).map_or(0, |more| more + 1)
        };
        Some(all.saturating_sub(self.reserved_ports.iter().map(within).sum()))
    }
}

/// Reads the settings of the calling thread's namespace.
pub fn read_here() -> NetnsSettings {
    let number = |name: &str| setting(name)?.trim().parse().ok();
    NetnsSettings {
        somaxconn: number("core/somaxconn"),
        max_syn_backlog: number("ipv4/tcp_max_syn_backlog"),
        syncookies: number("ipv4/tcp_syncookies"),
        abort_on_overflow: number("ipv4/tcp_abort_on_overflow"),
        synack_retries: number("ipv4/tcp_synack_retries"),
        max_tw_buckets: number("ipv4/tcp_max_tw_buckets"),
        port_range: setting("ipv4/ip_local_port_range").and_then(|text| port_range(&text)),
        reserved_ports: setting("ipv4/ip_local_reserved_ports")
            .map(|text| port_list(&text))
            .unwrap_or_default(),
    }
}

/// Sets `net.core.somaxconn` of the calling thread's namespace.
///
/// # Errors
///
/// When the kernel refuses it, or `/proc/sys` is read-only as in most containers.
pub fn set_somaxconn_here(value: u32) -> io::Result<()> {
    fs::write("/proc/sys/net/core/somaxconn", value.to_string())
}

/// Sockets in TIME_WAIT in the calling thread's namespace, from `/proc/thread-self/net/sockstat`.
/// Both address families are in it. kernel: net/ipv4/proc.c `sockstat_seq_show`.
pub fn time_wait_here() -> Option<u32> {
    time_wait(&fs::read_to_string("/proc/thread-self/net/sockstat").ok()?)
}

fn setting(name: &str) -> Option<String> {
    fs::read_to_string(format!("/proc/sys/net/{name}")).ok()
}

fn time_wait(sockstat: &str) -> Option<u32> {
    let tcp = sockstat.lines().find_map(|line| line.strip_prefix("TCP:"))?;
    let mut words = tcp.split_whitespace();
    words.find(|word| *word == "tw")?;
    words.next()?.parse().ok()
}

fn port_range(text: &str) -> Option<(u16, u16)> {
    let mut ends = text.split_whitespace().map(str::parse);
    Some((ends.next()?.ok()?, ends.next()?.ok()?))
}

/// `1,5-9`
fn port_list(text: &str) -> Vec<(u16, u16)> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some((first.trim().parse().ok()?, last.trim().parse().ok()?))
    };
    text.trim().split(',').filter_map(range).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_own_namespace() {
        let settings = read_here();
        assert!(settings.somaxconn.is_some() && settings.max_tw_buckets.is_some());
        assert!(settings.ephemeral_ports().unwrap() > 0);
        assert!(time_wait_here().is_some());
    }

    #[test]
    fn reserved_ports_are_not_to_be_had() {
        assert_eq!(port_range("32768\t60999\n"), Some((32768, 60999)));
        assert_eq!(port_list("8080,40000-40009\n"), [(8080, 8080), (40000, 40009)]);
        assert_eq!(port_list("\n"), []);
        let settings = |range, reserved_ports| NetnsSettings {
            port_range: Some(range),
            reserved_ports,
            ..NetnsSettings::default()
        };
        let ports = |range, reserved| settings(range, reserved).ephemeral_ports();
        assert_eq!(ports((32768, 60999), vec![]), Some(28232));
        assert_eq!(ports((32768, 60999), vec![(8080, 8080), (60990, 61010)]), Some(28222));
        assert_eq!(ports((5, 4), vec![]), None);
    }

    #[test]
    fn finds_time_wait_among_the_socket_counts() {
        let text =
            "sockets: used 9\nTCP: inuse 4 orphan 0 tw 17 alloc 6 mem 1\nUDP: inuse 2 mem 0\n";
        assert_eq!(time_wait(text), Some(17));
        assert_eq!(time_wait("UDP: inuse 2\n"), None);
    }
}
