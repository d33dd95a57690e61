//! Metrics of listeners: queues, limits, waits and owners.

use std::time::Duration;

use super::families::Families;
use crate::{
    inventory::{DesertedPath, LeftOut, Listener, Owner, Runtime, UnixListener, View},
    verdict::Report,
};

/// How long the impediments of a stall are exported after it: a minute between scrapes is usual.
const STALL_TTL: Duration = Duration::from_secs(60);

/// Listeners of either kind, and how many are left out.
pub(super) fn about_listeners(families: &mut Families, view: &View) {
    view.listeners.iter().for_each(|listener| about_a_listener(families, listener));
    view.unix_listeners.iter().for_each(|unix| about_a_unix_listener(families, unix));
    view.deserted.iter().for_each(|path| about_a_deserted_path(families, path));
    let left_out = [
        ("tcp", view.listeners_left_out),
        ("unix", view.unix_left_out),
        ("deserted_path", view.deserted_left_out),
    ];
    let LeftOut { listeners, unix_listeners, namespaces } = view.left_out;
    for (kind, left_out) in [("tcp", listeners), ("unix", unix_listeners), ("netns", namespaces)] {
        families.gauge(
            "floodmark_inventory_left_out",
            "Listeners and network namespaces of this host that exceed the limits of the \
             inventory. Listeners in trouble are kept first.",
            &[("kind", kind)],
            left_out as f64,
        );
    }
    for (kind, left_out) in left_out {
        families.gauge(
            "floodmark_listeners_not_exported",
            "Listeners, and Unix paths without a listener, that exceed the export limit. Those in \
             trouble and the busiest are exported.",
            &[("kind", kind)],
            left_out as f64,
        );
    }
}

fn about_a_listener(families: &mut Families, listener: &Listener) {
    let (addr, inode) = (listener.id.addr.to_string(), listener.id.inode.to_string());
    let base = [("netns", listener.netns_name.as_str()), ("listener", &addr), ("inode", &inode)];
    let mut gauge = |name, help, value| families.gauge(name, help, &base, value);
    gauge(
        "floodmark_listener_accept_queue_length",
        "Completed connections that wait for accept(2), at the last sample.",
        f64::from(listener.queue.len),
    );
    gauge(
        "floodmark_listener_accept_queue_limit",
        "Limit of a listener's accept queue in connections: the smaller of its backlog and \
         somaxconn. The queue holds one more.",
        f64::from(listener.queue.limit),
    );
    gauge(
        "floodmark_listener_accept_queue_occupancy_ratio",
        "Used share of the accept queue, from 0 to 1. At 1 it is full.",
        listener.occupancy(),
    );
    if let Some(length) = listener.syn_queue {
        gauge(
            "floodmark_listener_syn_queue_length",
            "Handshakes to a listener's address that wait for their final ACK.",
            f64::from(length),
        );
    }
    about_its_limit(families, &base, listener);
    about_its_depth(families, &base, listener);
    let flags = [
        ("dual_stack", if listener.is_dual_stack() { "true" } else { "false" }),
        ("limited_by", listener.limited_by().map_or("", |by| by.name())),
    ];
    info(families, "floodmark_listener_info", &base, &flags, &listener.owners);
}

/// Why queues are not emptied, of listeners that are stalled or were a moment ago.
pub(super) fn about_stalls(families: &mut Families, report: &Report) {
    let horizon = report.window.to.earlier(STALL_TTL);
    for stall in report.stalls.iter().filter(|stall| stall.last >= horizon) {
        let listener = &stall.listener;
        let (addr, inode) = (listener.id.addr.to_string(), listener.id.inode.to_string());
        for it in &stall.impediments {
            families.gauge(
                "floodmark_listener_impediment_ratio",
                "Share of samples, from 0 to 1, in which an impediment kept the processes of a stalled \
                 listener from accepting, over the last one to two minutes of the stall. Absent while \
                 the listener is not stalled.",
                &[
                    ("netns", listener.netns_name.as_str()),
                    ("listener", &addr),
                    ("inode", &inode),
                    ("impediment", it.impediment.name()),
                    ("confidence", it.confidence.name()),
                ],
                it.share,
            );
        }
    }
}

fn about_its_limit(families: &mut Families, base: &[(&str, &str)], listener: &Listener) {
    if let Some(asked) = listener.backlog.asked {
        let inferred = if listener.backlog.inferred { "true" } else { "false" };
        families.gauge(
            "floodmark_listener_backlog",
            "Backlog argument of listen(2). If `inferred` is true, it is derived from the limit, \
             and the argument may be larger if somaxconn sets the limit.",
            &[base, &[("inferred", inferred)]].concat(),
            f64::from(asked),
        );
    }
    families.counter(
        "floodmark_listener_limit_changes_total",
        "Observed changes of a listener's limit by another call of listen(2).",
        base,
        u64::from(listener.limit_changes),
    );
}

fn about_its_depth(families: &mut Families, base: &[(&str, &str)], listener: &Listener) {
    let Some(depth) = &listener.depth else { return };
    families.gauge(
        "floodmark_listener_accept_queue_high",
        "Maximum length of the accept queue since the agent started, measured at each enqueue.",
        base,
        f64::from(depth.high),
    );
    families.gauge(
        "floodmark_listener_accept_queue_high_since_scrape",
        "Maximum length of the accept queue since the last scrape by any client, measured at each \
         enqueue.",
        base,
        f64::from(depth.high_since_scrape),
    );
    families.gauge(
        "floodmark_listener_syn_queue_high",
        "Maximum length of the SYN queue since the agent started, measured when connections leave \
         it.",
        base,
        f64::from(depth.syn_queue_high),
    );
    if depth.accepted() > 0 {
        families.waits(
            "floodmark_listener_accept_wait_seconds",
            "Time that accepted connections waited in the accept queue, in seconds.",
            base,
            &depth.waits,
            depth.waited_ns as f64 / 1e9,
        );
    }
}

fn about_a_unix_listener(families: &mut Families, unix: &UnixListener) {
    let inode = unix.inode.to_string();
    let base = [("netns", unix.netns_name.as_str()), ("path", &unix.path), ("inode", &inode)];
    families.gauge(
        "floodmark_unix_listener_queue_length",
        "Connections to a listening Unix socket that wait for accept(2).",
        &base,
        f64::from(unix.queue.len),
    );
    families.gauge(
        "floodmark_unix_listener_queue_limit",
        "Limit of a Unix listener's queue in connections. The queue holds one more.",
        &base,
        f64::from(unix.queue.limit),
    );
    if let Some(refused) = unix.refused {
        families.counter(
            "floodmark_unix_listener_refused_total",
            "Connects that failed with EAGAIN because the listener's queue was full, by its path.",
            &base,
            refused,
        );
    }
    info(families, "floodmark_unix_listener_info", &base, &[], &unix.owners);
}

fn about_a_deserted_path(families: &mut Families, path: &DesertedPath) {
    families.counter(
        "floodmark_unix_path_refused_total",
        "Connects that failed with ECONNREFUSED because no socket listens at the path, by the \
         clients' namespace and path.",
        &[("netns", &path.netns_name), ("path", &path.path)],
        path.refused,
    );
}

fn info(
    families: &mut Families,
    name: &str,
    base: &[(&str, &str)],
    more: &[(&str, &str)],
    owners: &[Owner],
) {
    let owner = owners.first();
    let pid = owner.map(|owner| owner.pid.to_string()).unwrap_or_default();
    let workload = owner.map(|owner| &owner.workload);
    let container = workload.and_then(|workload| workload.container.as_ref());
    let pod = workload.and_then(|workload| workload.pod.as_ref());
    let processes = owners.len().to_string();
    let text = |found: Option<&str>| found.unwrap_or_default().to_owned();
    let labels = [
        ("pid", pid),
        ("processes", processes),
        ("command", text(owner.map(|owner| owner.command.as_str()))),
        ("cgroup", text(owner.and_then(|owner| owner.cgroup.as_deref()))),
        ("unit", text(workload.and_then(|workload| workload.unit.as_deref()))),
        ("container_id", text(container.map(|container| container.id.as_str()))),
        ("container", text(container.and_then(|container| container.name.as_deref()))),
        ("runtime", text(container.and_then(|c| c.runtime).map(Runtime::name))),
        ("pod", text(pod.and_then(|pod| pod.name.as_deref()))),
        ("namespace", text(pod.and_then(|pod| pod.namespace.as_deref()))),
    ];
    let owner: Vec<(&str, &str)> =
        labels.iter().map(|(name, text)| (*name, text.as_str())).collect();
    families.gauge(
        name,
        "Owner of a listener, in the labels; of several, the one with the lowest pid. Always 1.",
        &[base, more, &owner].concat(),
        1.0,
    );
}
