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
        "Connections that lost a handshake segment, counted at the first loss. An upper bound if \
         thousands are affected at the same time.",
        &base,
        report.tally.connections,
    );
    families.gauge(
        "floodmark_listener_accept_queue_high_at_drop",
        "Maximum length of a listener's accept queue since the agent started, measured at each \
         drop.",
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
            "Handshake segments that found a listener's accept queue full. Equals \
             floodmark_listener_drops_total with cause accept_queue_full, and starts at 0.",
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
            "Handshake segments dropped at a listener. The sum over a namespace's listeners is \
             the growth of its ListenDrops, and for cause accept_queue_full of its \
             ListenOverflows.",
            &[labels[0], labels[1], labels[2], labels[3], labels[4], ("effect", effect.name())],
            count,
        );
    } else if counters.contains(&Counter::SynRetrans) {
        families.counter(
            "floodmark_listener_synack_retransmits_total",
            "SYN/ACKs that a listener retransmitted (tcp_rtx_synack), by cause.",
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
            "Pending handshakes that expired (reqsk_timer_handler), by cause.",
            &[netns, listener, inode, ("cause", cause)],
            count,
        );
    } else {
        families.counter(
            "floodmark_listener_handshake_events_total",
            "Other handshake events at a listener: SYN cookies, deferred ACKs, resets.",
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
                "Growth of a namespace's kernel counters (TcpExt) since the agent started.",
                &labels,
                kernel[counter],
            );
            let rest = report.and_then(|report| report.unattributed.get(counter.name()));
            families.gauge(
                "floodmark_kernel_mib_unattributed",
                "Growth of a kernel counter minus the counts attributed to listeners. Negative if \
                 too much was attributed. Nonzero for longer than one scrape means that losses \
                 are missed.",
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
        "Network namespaces that exceed the export limit. Those with losses are exported first.",
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
                "TIME_WAIT and FIN_WAIT2 entries, how they ended, and retransmitted SYNs, by the \
                 service's port (the lower one) and this host's side.",
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
            "Connects that failed with EADDRNOTAVAIL because no ephemeral port was left for the \
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
