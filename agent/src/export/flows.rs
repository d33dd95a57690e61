//! Metrics of namespaces' limits, of ports and of peers.

use super::families::Families;
use crate::{
    inventory::{Destination, Namespace, View, peers::PeerReport},
    kernel::NetnsId,
};

/// A destination with fewer ports in use is nobody's trouble.
const BUSY_DESTINATION: u32 = 10;

/// Everything that is no single listener's.
pub(super) fn about_flows(families: &mut Families, view: &View) {
    view.namespaces.values().for_each(|namespace| about_a_namespace(families, namespace));
    let is_busy = |destination: &&Destination| destination.ports_in_use >= BUSY_DESTINATION;
    for destination in view.destinations.iter().filter(is_busy) {
        about_a_destination(families, view, destination);
    }
    view.peers.iter().for_each(|peer| about_a_peer(families, view, peer));
}

fn name_of(view: &View, netns: NetnsId) -> String {
    let known = view.namespaces.get(&netns);
    known.map_or_else(|| netns.name(), |namespace| namespace.name.clone())
}

fn about_a_namespace(families: &mut Families, namespace: &Namespace) {
    let Namespace { name, settings, time_wait, .. } = namespace;
    for (sysctl, value) in [
        ("net.core.somaxconn", settings.somaxconn),
        ("net.ipv4.tcp_max_syn_backlog", settings.max_syn_backlog),
        ("net.ipv4.tcp_syncookies", settings.syncookies),
        ("net.ipv4.tcp_abort_on_overflow", settings.abort_on_overflow),
        ("net.ipv4.tcp_synack_retries", settings.synack_retries),
        ("net.ipv4.tcp_max_tw_buckets", settings.max_tw_buckets),
    ] {
        if let Some(value) = value {
            families.gauge(
                "floodmark_netns_sysctl",
                "Kernel settings of a namespace that limit its queues.",
                &[("netns", name), ("sysctl", sysctl)],
                f64::from(value),
            );
        }
    }
    if let Some(time_wait) = time_wait {
        families.gauge(
            "floodmark_netns_time_wait",
            "Sockets of a namespace in TIME_WAIT. tcp_max_tw_buckets is their limit.",
            &[("netns", name)],
            f64::from(*time_wait),
        );
    }
    if let Some(ports) = settings.ephemeral_ports() {
        families.gauge(
            "floodmark_netns_ephemeral_ports",
            "Number of ports in ip_local_port_range that are not reserved.",
            &[("netns", name)],
            f64::from(ports),
        );
    }
}

fn about_a_destination(families: &mut Families, view: &View, destination: &Destination) {
    let Destination { netns, from, to, ports_in_use, ports } = destination;
    let (netns, from, to) = (name_of(view, *netns), from.to_string(), to.to_string());
    let labels = [("netns", netns.as_str()), ("source", &from), ("destination", &to)];
    families.gauge(
        "floodmark_destination_ports_in_use",
        "Ephemeral ports in use from one address to one destination, including TIME_WAIT.",
        &labels,
        f64::from(*ports_in_use),
    );
    if let Some(ports) = ports {
        families.gauge(
            "floodmark_destination_ports_headroom",
            "Ephemeral ports left from one address to one destination.",
            &labels,
            f64::from(ports.saturating_sub(*ports_in_use)),
        );
    }
}

fn about_a_peer(families: &mut Families, view: &View, report: &PeerReport) {
    let (netns, port) = (name_of(view, report.netns), report.port.to_string());
    let side = if report.is_local { "service" } else { "client" };
    let base = [("netns", netns.as_str()), ("port", &port), ("side", side), ("peer", &report.peer)];
    families.counter(
        "floodmark_peer_connections_opened_total",
        "Connections established between a service and a peer, by this host's side. Peers beyond \
         the busiest are counted as `other`.",
        &base,
        report.counts.opened,
    );
    let counts = &report.counts;
    for (by, count) in
        [("here", counts.closed_here), ("there", counts.closed_there), ("abort", counts.aborted)]
    {
        families.counter(
            "floodmark_peer_connections_closed_total",
            "Connections that ended, by the side that closed first: this host, the peer, or \
             neither (reset, timeout).",
            &[&base[..], &[("by", by)]].concat(),
            count,
        );
    }
    if let Some(median) = report.median_lifetime {
        families.gauge(
            "floodmark_peer_connection_lifetime_median_seconds",
            "Median lifetime, in seconds, of connections that ended in the last 15 seconds, \
             within a factor of 1.4.",
            &base,
            median,
        );
    }
}
