//! What listeners lost, what the kernel counted meanwhile, and what became of connections.

use std::collections::BTreeMap;

use super::families::Families;
use crate::{
    agent::Snapshot,
    inventory::Listener,
    kernel::{
        Class, Counter, ListenerId, NetnsId,
        class::{Meaning, meaning_of},
    },
    verdict::ListenerReport,
};

/// Services exported at most, busiest first; and destinations without a port.
const SERVICES_EXPORTED: usize = 200;

pub(super) fn about_losses(families: &mut Families, report: &ListenerReport) {
    let listener = &report.listener;
    let (netns, addr) = (&listener.netns_name, listener.id.addr.to_string());
    let inode = listener.id.inode.to_string();
    let base = [("netns", netns.as_str()), ("listener", &addr), ("inode", &inode)];
    for class in Class::ALL {
        about_a_class(families, &base, class, report.tally[class]);
    }
    families.counter(
        "floodmark_listener_connections_hit_total",
        "Connections that lost a handshake segment, each counted at its first. An upper bound \
         where thousands are hit at once.",
        &base,
        report.tally.connections,
    );
    families.gauge(
        "floodmark_listener_accept_queue_high_at_drop",
        "Deepest accept queue of a listener seen at a drop since the agent started.",
        &base,
        f64::from(report.queue_high),
    );
}

/// Every listener is there from its first scrape on, at 0, so that the first overflow is an increase.
pub(super) fn about_overflows(families: &mut Families, snapshot: &Snapshot) {
    let losers = snapshot.losers().take(snapshot.listeners_exported);
    let listeners: BTreeMap<ListenerId, &Listener> =
        losers.map(|lost| &lost.listener).chain(&snapshot.view.listeners).map(by_id).collect();
    let overflows: BTreeMap<ListenerId, u64> =
        snapshot.report.listeners.iter().map(|l| (l.listener.id, l.tally.overflows())).collect();
    for (id, listener) in listeners {
        families.counter(
            "floodmark_listener_overflows_total",
            "Handshake segments that found a listener's accept queue full: its \
             floodmark_listener_drops_total of cause accept_queue_full, at 0 from the start.",
            &[
                ("netns", &listener.netns_name),
                ("listener", &listener.id.addr.to_string()),
                ("inode", &listener.id.inode.to_string()),
            ],
            overflows.get(&id).copied().unwrap_or(0),
        );
    }
}

fn by_id(listener: &Listener) -> (ListenerId, &Listener) {
    (listener.id, listener)
}

/// Drops, retransmits and the rest are families of their own, so that a sum over one makes sense.
fn about_a_class(families: &mut Families, base: &[(&str, &str); 3], class: Class, count: u64) {
    let Meaning { stage, cause, effect, counters } = meaning_of(class);
    let [netns, listener, inode] = *base;
    let labels = [netns, listener, inode, ("stage", stage), ("cause", cause)];
    if counters.contains(&Counter::ListenDrops) {
        families.counter(
            "floodmark_listener_drops_total",
            "Handshake segments dropped at a listener. Summed over listeners it is the growth of \
             the namespace's ListenDrops, and of ListenOverflows for cause accept_queue_full.",
            &[labels[0], labels[1], labels[2], labels[3], labels[4], ("effect", effect.name())],
            count,
        );
    } else if counters.contains(&Counter::SynRetrans) {
        families.counter(
            "floodmark_listener_synack_retransmits_total",
            "SYN/ACKs sent again by a listener (tcp_rtx_synack), by what made it necessary.",
            &[netns, listener, inode, ("cause", cause)],
            count,
        );
    } else if class == Class::UnacceptedListenerClosed {
        families.counter(
            "floodmark_listener_unaccepted_resets_total",
            "Connections reset in the accept queue because their listener closed \
             (inet_child_forget).",
            base,
            count,
        );
    } else if counters.is_empty() {
        families.counter(
            "floodmark_listener_requests_expired_total",
            "Pending requests given up by their timer (reqsk_timer_handler).",
            &[netns, listener, inode, ("cause", cause)],
            count,
        );
    } else {
        families.counter(
            "floodmark_listener_handshake_events_total",
            "What else befell handshakes at a listener: SYN cookies, deferred ACKs, resets.",
            &labels,
            count,
        );
    }
}

/// Every namespace is there from the start, at 0: what appears with its first drops already counted
/// has no increase that a query could see.
pub(super) fn about_namespaces(families: &mut Families, snapshot: &Snapshot) {
    for (netns, (name, kernel)) in &snapshot.namespaces {
        let report = snapshot.report.namespaces.iter().find(|report| report.netns == *netns);
        for counter in Counter::reconciled() {
            let labels = [("netns", name.as_str()), ("mib", counter.name())];
            families.counter(
                "floodmark_kernel_mib_total",
                "Growth of the kernel's own counters (TcpExt) of a namespace since the agent \
                 started.",
                &labels,
                kernel[counter],
            );
            let rest = report.and_then(|report| report.unattributed.get(counter.name()));
            families.gauge(
                "floodmark_kernel_mib_unattributed",
                "Growth of a counter minus what was attributed to listeners; may be negative. \
                 Other than 0 for longer than a scrape, something is not seen.",
                &labels,
                rest.copied().unwrap_or(0) as f64,
            );
        }
    }
}

/// How many namespaces have no series of their own.
pub(super) fn about_namespaces_left_out(families: &mut Families, snapshot: &Snapshot) {
    families.gauge(
        "floodmark_netns_not_exported",
        "Network namespaces left out of this scrape, beyond those that lost something.",
        &[],
        snapshot.namespaces_left_out as f64,
    );
}

pub(super) fn about_services(families: &mut Families, snapshot: &Snapshot) {
    let named = |netns: NetnsId| snapshot.namespaces.get(&netns).map(|(name, _)| name.as_str());
    let services = snapshot.report.services.iter();
    let services = services.filter_map(|service| Some((named(service.netns)?, service)));
    for (netns, service) in services.take(SERVICES_EXPORTED) {
        let port = service.port.to_string();
        let side = if service.is_local { "service" } else { "client" };
        for (event, count) in &service.counts {
            families.counter(
                "floodmark_connection_events_total",
                "Connections that entered TIME_WAIT or FIN_WAIT2, how those ended, and SYNs sent \
                 again, by the service's port (the lower one) and the side this host is on.",
                &[("netns", netns), ("port", &port), ("side", side), ("event", event)],
                *count,
            );
        }
    }
    let no_port = snapshot.report.no_port.iter();
    let no_port = no_port.filter_map(|refused| Some((named(refused.netns)?, refused)));
    for (netns, no_port) in no_port.take(SERVICES_EXPORTED) {
        families.counter(
            "floodmark_connect_no_port_total",
            "Connects that failed with EADDRNOTAVAIL: no ephemeral port left towards the \
             destination.",
            &[
                ("netns", netns),
                ("destination", &no_port.destination.to_string()),
                ("pid", &no_port.pid.to_string()),
                ("command", &no_port.command),
            ],
            no_port.failures,
        );
    }
}
