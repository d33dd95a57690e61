//! The accept queue's limit.

use super::{
    Change, Step,
    backlog::setting,
    holders::Holders,
    place::{restart, set_backlog, sysctl},
};
use crate::{
    inventory::{LimitedBy, Server},
    verdict::{
        finding::Finding,
        report::{ListenerReport, Report},
        verdict::Cause,
        whatif::{DECENT_BACKLOG, Replay, WhatIf},
    },
};

/// The smallest that is advised after a replay.
const LEAST: u32 = 64;
/// The greatest that is advised. Kernels before 5.4 keep 16 bits of a socket's limit, so do some
/// servers; a queue as long as that is emptied in no client's time anyway.
const MOST: u32 = 65_535;
/// A wait in the queue beyond which most clients have given up.
const PATIENCE_MS: u64 = 10_000;
/// Accepts per second below which nobody accepts.
const STUCK: f64 = 0.2;

/// A full accept queue.
pub(super) fn accept_queue(
    report: &Report,
    finding: &Finding,
    listener: &ListenerReport,
) -> Vec<Step> {
    let limit = listener.listener.queue.limit;
    let (mut against, is_sure) = super::stalled(report, finding, Some(listener));
    if is_sure {
        let target = DECENT_BACKLOG.max(limit.saturating_mul(2));
        let why =
            "Only against bursts, and only once it accepts again: until then a longer queue is a \
                   longer wait."
                .to_owned();
        against.extend(raise(report, finding, listener, target, why));
        if finding.cause == Cause::AbortOnOverflow {
            against.push(no_reset(report, finding, listener));
        }
        return against;
    }
    let answer = listener.flow.as_deref().and_then(Replay::of).map(|replay| replay.answer(limit));
    let mut steps = match answer {
        Some(WhatIf::Backlog { backlog, longest_wait_ms, accepts_per_second }) => {
            let target = rounded(backlog).min(MOST);
            let why = format!(
                "In a replay of the arrivals of {}, a backlog of {backlog} loses nothing, and \
                 connections wait up to {}; {target} {}. Now {} are dropped.",
                stretch(listener),
                milliseconds(longest_wait_ms),
                if target > backlog {
                    "leaves a quarter to spare"
                } else {
                    "is the largest useful value"
                },
                per_second(listener)
            );
            let mut steps = Vec::from_iter(raise(report, finding, listener, target, why));
            if longest_wait_ms > PATIENCE_MS {
                steps.insert(0, faster(finding, listener, accepts_per_second, None));
            } else {
                steps.push(faster(finding, listener, accepts_per_second, None));
            }
            steps
        }
        Some(WhatIf::Rate { arrivals_per_second, accepts_per_second, needed_per_second }) => {
            let needed = Some((arrivals_per_second, needed_per_second));
            let target = DECENT_BACKLOG.max(limit.saturating_mul(2));
            let why = "This helps only against bursts, and only when it accepts as fast as \
                       connections arrive. Until then, a longer queue only makes clients wait \
                       longer."
                .to_owned();
            let raise = raise(report, finding, listener, target, why);
            [faster(finding, listener, accepts_per_second, needed)]
                .into_iter()
                .chain(raise)
                .collect()
        }
        None => {
            let target = DECENT_BACKLOG.max(limit.saturating_mul(4));
            let why = format!(
                "{} are dropped. The arrivals were not recorded, so this is four times the \
                 present limit and at least {DECENT_BACKLOG}. Check the result afterwards.",
                per_second(listener)
            );
            raise(report, finding, listener, target, why)
                .into_iter()
                .chain([Step {
                    what: "Accept faster: a longer queue only helps for a while.".to_owned(),
                    why: "If the application stays slower than its arrivals, add workers or \
                          instances."
                        .to_owned(),
                    ..blank(finding.cause)
                }])
                .collect()
        }
    };
    if finding.cause == Cause::AbortOnOverflow {
        steps.push(no_reset(report, finding, listener));
    }
    steps.extend(against);
    steps
}

/// A quarter to spare, and a number people write.
pub(super) fn rounded(backlog: u32) -> u32 {
    let wanted = u64::from(backlog) * 5 / 4 + 1;
    let wanted = u32::try_from(wanted).unwrap_or(u32::MAX / 2).max(LEAST);
    let unit = (wanted.ilog2() - 3).max(3);
    wanted.div_ceil(1 << unit) << unit
}

pub(super) fn blank(cause: Cause) -> Step {
    Step {
        cause,
        what: String::new(),
        why: String::new(),
        now: Vec::new(),
        commands: Vec::new(),
        changes: Vec::new(),
    }
}

/// Both bounds, as far as they are below `target`: the smaller of them holds. None where the queue is
/// as long as is useful.
pub(super) fn raise(
    report: &Report,
    finding: &Finding,
    listener: &ListenerReport,
    target: u32,
    why: String,
) -> Option<Step> {
    let known = &listener.listener;
    let holders = Holders::of(Some(known));
    let owner = holders.first();
    let activation = holders.activation;
    let server = activation.map_or_else(|| owner?.server, |_| Some(Server::Systemd));
    let target = target.min(MOST);
    if known.queue.limit >= target {
        return None;
    }
    let (port, limit) = (known.id.addr.port(), known.queue.limit);
    let mut step = Step { why, ..blank(finding.cause) };
    // It duplicates the descriptor of a process that holds the socket.
    if holders.any().is_some() {
        step.now.push(format!("floodmark raise {} --backlog {target}", known.selector()));
    }
    let somaxconn_binds = known.somaxconn.is_some_and(|somaxconn| somaxconn < target);
    if somaxconn_binds {
        let wanted = ("net.core.somaxconn", target.to_string());
        let place = holders.any();
        step.commands.extend(sysctl(report, known.id.netns, place, (wanted.0, &wanted.1)));
        step.changes.push(Change::Sysctl {
            netns: known.id.netns,
            name: wanted.0.to_owned(),
            value: wanted.1,
            listen_again: true,
        });
    }
    let asked = known.backlog.asked.filter(|_| !known.backlog.inferred);
    let asks_enough = server == Some(Server::Go) || asked.is_some_and(|asked| asked >= target);
    if !asks_enough {
        match (activation, setting(server, port, target)) {
            (Some(activation), _) => step.commands.extend(set_backlog(activation, target)),
            (None, Some(setting)) => {
                step.commands.push(format!("{}  # {}", setting.line, setting.name))
            }
            (None, None) => step.commands.push(format!(
                "# in {}:  listen(fd, {target}), or the framework's name for the backlog",
                holders.names()
            )),
        }
        step.changes.push(Change::Backlog {
            listener: known.id,
            pid: owner.map(|owner| owner.pid),
            server,
            value: target,
        });
    }
    step.commands.extend(restart(&holders));
    let bound = match known.limited_by() {
        Some(LimitedBy::Backlog) if activation.is_some() => "limited by the socket unit's backlog",
        Some(LimitedBy::Backlog) => "limited by the application's backlog",
        Some(LimitedBy::Somaxconn) => "limited by somaxconn",
        Some(LimitedBy::Both) => "limited by backlog and somaxconn",
        None => "unknown whether backlog or somaxconn limits it",
    };
    let both = if somaxconn_binds && !asks_enough { ", so both must be raised" } else { "" };
    let somaxconn = known.somaxconn.map(|n| format!(", somaxconn {n}")).unwrap_or_default();
    step.what = format!(
        "Let the accept queue of {} hold {target} instead of {limit} ({bound}{somaxconn}{both}).",
        report.name_of(known.id)
    );
    Some(step)
}

/// More accepts per second: measured, and needed where that is known.
fn faster(
    finding: &Finding,
    listener: &ListenerReport,
    accepts_per_second: f64,
    needed: Option<(f64, f64)>,
) -> Step {
    let known = &listener.listener;
    let holders = Holders::of(Some(known));
    let who = holders.names();
    let change = Change::Accept {
        listener: known.id,
        pid: holders.first().map(|owner| owner.pid),
        per_second: needed.map(|(_, needed)| needed),
    };
    let step = Step { changes: vec![change], ..blank(finding.cause) };
    if accepts_per_second < STUCK {
        return Step {
            what: format!("Make {who} accept: its queue was full, and it accepted nothing."),
            why: format!(
                "No backlog helps if the application does not accept. {} connections waited at {}.",
                listener.queue_high, known.id.addr
            ),
            commands: super::peer::look_at(&holders),
            ..step
        };
    }
    match needed {
        Some((arrivals, needed)) => Step {
            what: format!(
                "Make {who} accept {needed:.0} connections per second: no backlog helps."
            ),
            why: format!(
                "In {}, {arrivals:.0} connections per second arrived, and {accepts_per_second:.0} \
                 were accepted while the queue was full. Add workers or instances, or use fewer \
                 connections.",
                stretch(listener)
            ),
            ..step
        },
        None => Step {
            what: "Accept faster: a longer queue only helps for a while.".to_owned(),
            why: format!(
                "{who} accepts {accepts_per_second:.0} connections per second while others wait. \
                 More workers or instances shorten the wait."
            ),
            ..step
        },
    }
}

fn no_reset(report: &Report, finding: &Finding, listener: &ListenerReport) -> Step {
    let known = &listener.listener;
    let wanted = ("net.ipv4.tcp_abort_on_overflow", "0");
    Step {
        what: "Let clients retry when the queue is full, instead of resetting them.".to_owned(),
        why: "With tcp_abort_on_overflow set, each overflow is an error that the proxy counts."
            .to_owned(),
        commands: sysctl(report, known.id.netns, Holders::of(Some(known)).any(), wanted),
        changes: vec![Change::Sysctl {
            netns: known.id.netns,
            name: wanted.0.to_owned(),
            value: wanted.1.to_owned(),
            listen_again: false,
        }],
        ..blank(finding.cause)
    }
}

/// A full queue of which only the proxy's word is known: a Unix socket's, or a listener that closed.
pub(super) fn unknown(finding: &Finding) -> Step {
    let place = finding.upstream.as_deref().unwrap_or("the upstream");
    Step {
        what: format!(
            "Raise the backlog of the application that listens at {place}, and \
                       somaxconn with it."
        ),
        why: format!("{}; the listener itself is not visible.", finding.because),
        commands: vec!["ss -lxtp  # Recv-Q is the queue, Send-Q its limit".to_owned()],
        ..blank(finding.cause)
    }
}

fn per_second(listener: &ListenerReport) -> String {
    format!(
        "{} handshakes ({:.0} per second)",
        listener.tally.drops(),
        listener.dropped_per_second()
    )
}

fn stretch(listener: &ListenerReport) -> String {
    let window = listener.flow.as_deref().and_then(super::super::flow::Flow::window);
    format!("{:.0} s", window.map_or(0.0, |window| window.length().as_secs_f64()).max(1.0))
}

pub(super) fn milliseconds(ms: u64) -> String {
    if ms < 10_000 { format!("{ms} ms") } else { format!("{} s", ms / 1000) }
}
