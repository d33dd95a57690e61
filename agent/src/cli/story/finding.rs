//! One finding: what is lost, where, whose queue, since when, at which rate, what the proxy made of
//! it, and how sure that is.

use std::fmt::Write;

use jiff::Timestamp;

use super::{headline, paragraph};
use crate::{
    inventory::LimitedBy,
    kernel::Attribution,
    time::UnixMs,
    verdict::{
        Confidence, Finding, Harm, ImpedimentReport, ListenerReport, Report, description, in_words,
    },
};

/// A loss not longer ago than this is still going on, as far as anybody can tell.
const JUST_NOW_MS: u64 = 3000;

pub(super) fn tell(
    out: &mut String,
    report: &Report,
    number: usize,
    finding: &Finding,
) -> std::fmt::Result {
    let listener = finding.listener.and_then(|id| {
        let place = |known: &&ListenerReport| {
            (known.listener.id.netns, known.listener.id.addr) == (id.netns, id.addr)
        };
        report.listeners.iter().find(place)
    });
    let at = finding.listener.map(|id| id.addr.to_string());
    let at = at.or_else(|| finding.upstream.clone()).unwrap_or_default();
    let head = format!("{at} {}", headline(finding.cause));
    paragraph(out, &format!("\n{number}. At "), "   ", &head)?;
    match listener {
        Some(listener) => tell_listener(out, finding, listener)?,
        None => field(out, "evidence", &finding.because)?,
    }
    if let Some(seen) = finding.seen {
        let until =
            if seen.to.later(std::time::Duration::from_millis(JUST_NOW_MS)) >= report.window.to {
                "and continues".to_owned()
            } else {
                format!("until {}", clock(seen.to))
            };
        field(out, "since", &format!("{} UTC, {until}", clock(seen.from)))?;
    }
    for impediment in &finding.impediments {
        field(out, "reason", &reason(impediment))?;
    }
    tell_harm(out, &finding.harm)?;
    field(out, "sure", &sureness(finding, listener))
}

fn tell_listener(out: &mut String, finding: &Finding, report: &ListenerReport) -> std::fmt::Result {
    let listener = &report.listener;
    let owners: Vec<String> = listener
        .owners
        .iter()
        .take(3)
        .map(|owner| {
            let workload = &owner.workload;
            let container =
                workload.container.as_ref().map(|c| format!("container {}", c.short_id()));
            let pod = workload.pod.as_ref().and_then(|pod| pod.name.clone());
            let home = pod.map(|pod| format!("pod {pod}")).or(container).or(workload.unit.clone());
            let home = home.map(|home| format!(", {home}")).unwrap_or_default();
            format!("{} (pid {}{home})", owner.command, owner.pid)
        })
        .collect();
    let owners = if owners.is_empty() { "unknown".to_owned() } else { owners.join(", ") };
    field(out, "owner", &format!("{owners}, in network namespace {}", listener.netns_name))?;
    if report.tally.drops() > 0 {
        let lost = in_words(&report.tally);
        let lost = lost.trim_start_matches("the listener ").trim_start_matches("dropped ");
        field(out, "lost", &format!("{lost}: {}", rate(report)))?;
    } else {
        field(out, "evidence", &finding.because)?;
    }
    let bound = match listener.limited_by() {
        Some(LimitedBy::Backlog) => "set by the application's backlog",
        Some(LimitedBy::Somaxconn) => "set by somaxconn",
        Some(LimitedBy::Both) => "set by backlog and somaxconn",
        None => "set by backlog or somaxconn (unknown which)",
    };
    let somaxconn = listener.somaxconn.map(|n| format!("; somaxconn {n}")).unwrap_or_default();
    field(
        out,
        "queue",
        &format!(
            "at most {} connections; limit {}, {bound}{somaxconn}",
            report.queue_high.max(listener.depth.map_or(0, |depth| depth.high)),
            listener.queue.limit
        ),
    )?;
    if !report.peers.is_empty() {
        let peers: Vec<String> =
            report.peers.iter().map(|(peer, count)| format!("{peer} ({count})")).collect();
        let other = match report.peers_other {
            0 => String::new(),
            count => format!(", others ({count})"),
        };
        field(out, "clients", &format!("{}{other}", peers.join(", ")))?;
    }
    Ok(())
}

/// An impediment with its measured share.
fn reason(it: &ImpedimentReport) -> String {
    let (name, share, sure) = (it.impediment.name(), it.share * 100.0, it.confidence.name());
    format!("{name}, {share:.0} %, confidence {sure}: {}", description(it))
}

fn rate(report: &ListenerReport) -> String {
    let mean = report.dropped_per_second();
    format!("{mean:.1} per second, {:.0} in the worst second", report.worst_per_second)
}

fn tell_harm(out: &mut String, harm: &Harm) -> std::fmt::Result {
    if harm.proxies.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = harm.proxies.iter().map(|proxy| proxy.name()).collect();
    let counts = [
        (harm.failed_attempts, "failed attempt"),
        (harm.markings, "marking as down"),
        (harm.no_live_peers, "request without a live peer"),
    ];
    let told: Vec<String> = counts
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, noun)| match (*count, noun.split_once(' ')) {
            (1, _) => format!("1 {noun}"),
            (count, Some((first, rest))) if first != "failed" => format!("{count} {first}s {rest}"),
            (count, _) => format!("{count} {noun}s"),
        })
        .collect();
    field(out, "proxy", &format!("{} reported {}", names.join(" and "), told.join(", ")))
}

fn sureness(finding: &Finding, listener: Option<&ListenerReport>) -> String {
    let how = match listener.filter(|listener| listener.tally.drops() > 0) {
        Some(listener) => match listener.attribution {
            Attribution::Exact => "counted in the kernel at exactly this listener",
            Attribution::Exclusive => {
                "the namespace's counter grew, and this is its only listener that drops"
            }
            Attribution::Proportional => {
                "a share of the namespace's counter: other listeners there dropped too"
            }
        },
        None => match finding.confidence {
            Confidence::High => "the evidence has no other explanation",
            Confidence::Medium => "it fits all available evidence",
            Confidence::Low => "it fits, but other explanations fit too",
        },
    };
    format!("{}: {how}", finding.confidence.name())
}

/// `17:03:12`
pub(super) fn clock(at: UnixMs) -> String {
    let at = i64::try_from(at.0).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    at.map_or_else(|| "?".to_owned(), |at| at.strftime("%H:%M:%S").to_string())
}

fn field(out: &mut String, name: &str, text: &str) -> std::fmt::Result {
    let mut first = String::new();
    write!(first, "   {name:<9}")?;
    paragraph(out, &first, "            ", text)
}
