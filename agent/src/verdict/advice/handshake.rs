//! Handshakes dropped for other reasons than a full accept queue.

use super::{
    Change, Step,
    holders::Holders,
    limit::{blank, raise},
    place::sysctl,
};
use crate::{
    kernel::{Class, Tally, settings::NetnsSettings},
    verdict::{
        finding::Finding,
        report::{ListenerReport, Report},
        whatif::DECENT_BACKLOG,
    },
};

/// A full SYN queue. kernel: `tcp_conn_request` sends cookies instead where they are on; else the
/// queue's limit is the listener's own (`inet_csk_reqsk_queue_is_full`).
pub(super) fn syn_queue(
    report: &Report,
    finding: &Finding,
    listener: Option<&ListenerReport>,
) -> Vec<Step> {
    let mut steps = Vec::new();
    if are_cookies_off(report, finding) {
        steps.extend(cookies_on(
            report,
            finding,
            listener,
            "Enable SYN cookies: a full SYN queue then loses nothing.",
            format!(
                "tcp_syncookies is 0 there, and {} handshakes were dropped because of it.",
                finding.drops
            ),
        ));
    }
    if let Some(listener) = listener {
        let limit = listener.listener.queue.limit;
        let target = DECENT_BACKLOG.max(limit.saturating_mul(4));
        let why = format!(
            "The listener's own limit, {limit}, limits the SYN queue. Without cookies, \
             tcp_max_syn_backlog, {}, does too.",
            max_syn_backlog(report, finding)
        );
        steps.extend(raise(report, finding, listener, target, why));
    }
    if steps.is_empty() {
        steps.push(look_closer(finding, false));
    }
    steps
}

/// Handshakes dropped for neither queue: the most frequent reason decides.
pub(super) fn other_drops(
    report: &Report,
    finding: &Finding,
    listener: Option<&ListenerReport>,
) -> Vec<Step> {
    let tally = listener.map_or_else(Tally::default, |listener| listener.tally);
    let is_known = listener.is_some_and(|listener| !listener.listener.owners.is_empty());
    let worst = tally.counts().filter(|(class, _)| class.is_loss()).max_by_key(|(_, n)| *n);
    let Some((class, count)) = worst else { return vec![look_closer(finding, is_known)] };
    let (what, why, commands) = match class {
        Class::SynLastQuarter => {
            let why = format!(
                "{count} SYNs were dropped because three quarters of tcp_max_syn_backlog, {}, \
                 were in use and cookies are disabled.",
                max_syn_backlog(report, finding)
            );
            let step = cookies_on(report, finding, listener, LAST_QUARTER, why);
            return vec![step.unwrap_or_else(|| look_closer(finding, is_known))];
        }
        // No program saw why. With cookies off the commonest reason is known, and mended at no cost.
        Class::UnstagedOther if are_cookies_off(report, finding) => {
            let why = format!(
                "{count} handshakes were dropped, the rung in use does not show the reason, and \
                 no queue was full. With cookies off SYNs are dropped once three quarters of \
                 tcp_max_syn_backlog, {}, are in use.",
                max_syn_backlog(report, finding)
            );
            let step = cookies_on(report, finding, listener, LAST_QUARTER, why);
            return step.into_iter().chain([look_closer(finding, is_known)]).collect();
        }
        Class::SynNoMemory | Class::AckChildFailed | Class::CookieChildFailed => (
            "Give TCP more memory: the kernel could not create the connection's socket.",
            "The machine, TCP or the control group is short of memory.",
            vec!["cat /proc/net/sockstat; sysctl net.ipv4.tcp_mem; dmesg | tail"],
        ),
        Class::SynNoRoute => (
            "Fix the route to the client: the SYN/ACK has none.",
            "The SYN arrived, but there is no route for its answer.",
            vec!["ip route get CLIENT"],
        ),
        Class::SynPolicy => (
            "Find out what denies the SYN: a security module or a BPF program.",
            "The kernel asked it, and it denied the SYN.",
            vec!["bpftool cgroup tree; ausearch -m avc"],
        ),
        _ => return vec![look_closer(finding, is_known)],
    };
    vec![Step {
        what: what.to_owned(),
        why: format!("{why} {count} handshakes were dropped."),
        commands: commands.into_iter().map(str::to_owned).collect(),
        ..blank(finding.cause)
    }]
}

const LAST_QUARTER: &str = "Enable SYN cookies, or raise tcp_max_syn_backlog.";

/// What is set where the listener lives.
fn settings<'a>(report: &'a Report, finding: &Finding) -> Option<&'a NetnsSettings> {
    Some(&report.settings.get(&finding.listener?.netns)?.settings)
}

fn are_cookies_off(report: &Report, finding: &Finding) -> bool {
    settings(report, finding).is_some_and(|settings| settings.syncookies == Some(0))
}

/// `tcp_max_syn_backlog`, in words.
fn max_syn_backlog(report: &Report, finding: &Finding) -> String {
    let known = settings(report, finding).and_then(|settings| settings.max_syn_backlog);
    known.map_or_else(|| "unknown".to_owned(), |most| most.to_string())
}

/// Turns SYN cookies on where the listener lives; none where that is unknown.
fn cookies_on(
    report: &Report,
    finding: &Finding,
    listener: Option<&ListenerReport>,
    what: &str,
    why: String,
) -> Option<Step> {
    let netns = finding.listener?.netns;
    let wanted = ("net.ipv4.tcp_syncookies", "1");
    let holders = Holders::of(listener.map(|listener| &listener.listener));
    Some(Step {
        what: what.to_owned(),
        why,
        commands: sysctl(report, netns, holders.any(), wanted),
        changes: vec![Change::Sysctl {
            netns,
            name: wanted.0.to_owned(),
            value: wanted.1.to_owned(),
            listen_again: false,
        }],
        ..blank(finding.cause)
    })
}

fn look_closer(finding: &Finding, is_known: bool) -> Step {
    let who = if is_known { "this listener" } else { "a listener" };
    Step {
        what: format!("Find out why the kernel drops handshakes of {who}."),
        why: format!("{}, and the rung in use does not show the reason.", finding.because),
        commands: vec![
            "floodmark doctor  # shows which rung sees more, and what it needs".to_owned(),
        ],
        ..blank(finding.cause)
    }
}
