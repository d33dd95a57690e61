//! What to change, computed from a report: each step with the numbers it stands on and the exact
//! commands for this process and namespace.

use super::report::{ListenerReport, Report};

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// What, and why.
    pub what: String,
    /// Commands that do it, where a command can.
    pub commands: Vec<String>,
}

/// Smallest backlog worth asking for: what most servers use by default today.
const DECENT_BACKLOG: u32 = 1024;

/// The steps that a report calls for, most effective first.
pub fn advice(report: &Report) -> Vec<Step> {
    let overflowing: Vec<&ListenerReport> =
        report.listeners.iter().filter(|listener| listener.tally.overflows() > 0).collect();
    let mut steps: Vec<Step> =
        overflowing.iter().flat_map(|listener| raise_limit(listener)).collect();
    if !overflowing.is_empty() {
        steps.push(Step {
            what: "Accept faster: a longer queue only buys time. If the application stays slower \
                   than its arrivals, add workers or instances."
                .to_owned(),
            commands: Vec::new(),
        });
    }
    if report.proxy.markings > 0 && !overflowing.is_empty() {
        steps.push(Step {
            what: "Keep connections to the upstream open, so that not every request must pass the \
                   accept queue (nginx, in the upstream and its location):"
                .to_owned(),
            commands: vec![
                "keepalive 64;  proxy_http_version 1.1;  proxy_set_header Connection \"\";"
                    .to_owned(),
            ],
        });
    }
    steps
}

/// A queue's limit is the smaller of the backlog in `listen(2)` and `net.core.somaxconn` of its
/// namespace at that time; raising one alone often changes nothing.
fn raise_limit(report: &ListenerReport) -> Vec<Step> {
    let listener = &report.listener;
    let limit = listener.queue.limit;
    let target = DECENT_BACKLOG.max(limit.saturating_mul(4));
    let owner = listener.owners.first();
    let who = owner.map_or("the application".to_owned(), |owner| owner.command.clone());
    let mut steps = Vec::new();
    if let Some(somaxconn) = listener.somaxconn
        && somaxconn < target
    {
        let enter = owner.map(|owner| format!("nsenter -t {} -n ", owner.pid)).unwrap_or_default();
        steps.push(Step {
            what: format!(
                "Raise net.core.somaxconn in the namespace of {} (now {somaxconn}), before the \
                 application listens again.",
                listener.id.addr
            ),
            commands: vec![format!("{enter}sysctl -w net.core.somaxconn={target}")],
        });
    }
    let binding = match listener.somaxconn {
        Some(somaxconn) if somaxconn > limit => {
            format!("it asked for {limit} itself, somaxconn would allow {somaxconn}")
        }
        _ => format!("its queue's limit is {limit}, no more than somaxconn allows"),
    };
    steps.push(Step {
        what: format!(
            "Have {who} listen on {} with a backlog of {target} or more: {binding}.",
            listener.id.addr
        ),
        commands: Vec::new(),
    });
    steps
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{
        inventory::{Listener, Owner},
        kernel::{Attribution, Class, ListenerId, NetnsId, QueueDepth, Tally},
        time::{UnixMs, Window},
        verdict::ProxyReport,
    };

    fn report(limit: u32, somaxconn: u32, overflows: u64) -> Report {
        let addr = "10.0.0.1:8000".parse().unwrap();
        let id = ListenerId { netns: NetnsId(1), addr, inode: 5 };
        let queue = QueueDepth { len: limit + 1, limit };
        let owner = Owner::new(42, "python3", None);
        let listener = Listener {
            somaxconn: Some(somaxconn),
            owners: vec![owner],
            ..Listener::unknown(id, queue, None)
        };
        Report {
            window: Window { from: UnixMs(0), to: UnixMs(1000) },
            rungs: BTreeMap::new(),
            listeners: vec![ListenerReport {
                listener,
                tally: Tally::of(&[(Class::SynAcceptQueueFull, overflows)]),
                attribution: Attribution::Exact,
                queue_high: limit + 1,
                peers: Vec::new(),
                peers_other: 0,
            }],
            namespaces: Vec::new(),
            proxy: ProxyReport::default(),
            events_lost: 0,
            services: Vec::new(),
            no_port: Vec::new(),
        }
    }

    #[test]
    fn a_small_backlog_binds_and_somaxconn_does_not() {
        let steps = advice(&report(128, 4096, 9));
        assert!(steps[0].what.contains("python3 listen on 10.0.0.1:8000 with a backlog of 1024"));
        assert!(steps[0].what.contains("asked for 128 itself, somaxconn would allow 4096"));
    }

    #[test]
    fn a_small_somaxconn_is_raised_first_and_in_its_namespace() {
        let steps = advice(&report(128, 128, 9));
        assert_eq!(steps[0].commands, ["nsenter -t 42 -n sysctl -w net.core.somaxconn=1024"]);
        assert!(steps[1].what.contains("backlog of 1024"));
    }

    #[test]
    fn nothing_lost_needs_nothing() {
        assert!(advice(&report(128, 128, 0)).is_empty());
    }
}
