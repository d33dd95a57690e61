//! A diagnosis in plain words, for a terminal of 80 columns, without colour.

mod advice;
mod finding;

use std::{collections::BTreeMap, fmt::Write};

use textwrap::{Options, wrap};

use crate::{
    kernel::Counter,
    printable::printable,
    verdict::{Cause, Diagnosis, NetnsReport, Rate, Report, WhatIf},
};

/// Columns written at most, commands aside: those are to be copied.
const WIDTH: usize = 78;
/// Findings told of at length; the others are counted.
const TOLD: usize = 10;

/// Tells the story of a diagnosis, ending in a line feed.
pub(super) fn tell(diagnosis: &Diagnosis) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write(&mut out, diagnosis);
    out
}

fn write(out: &mut String, diagnosis: &Diagnosis) -> std::fmt::Result {
    let report = &diagnosis.report;
    let seconds = report.window.length().as_secs();
    match diagnosis.findings.as_slice() {
        [] => {
            writeln!(out, "No problem found: in {seconds} s no listener lost a connection.")?;
        }
        [only] => writeln!(out, "One problem in {seconds} s: {}.", headline(only.cause))?,
        [worst, rest @ ..] => {
            let head = headline(worst.cause);
            let count = rest.len() + 1;
            writeln!(out, "{count} problems in {seconds} s, the worst first: {head}.")?;
        }
    }
    for (number, finding) in diagnosis.findings.iter().take(TOLD).enumerate() {
        finding::tell(out, report, number + 1, finding)?;
    }
    if diagnosis.findings.len() > TOLD {
        writeln!(out, "\n… and {} more", diagnosis.findings.len() - TOLD)?;
    }
    tell_cycles(out, report)?;
    advice::tell(out, diagnosis)?;
    tell_what_if(out, diagnosis)?;
    tell_reconciliation(out, report)?;
    tell_limits(out, report)
}

/// A cause in a few words.
fn headline(cause: Cause) -> &'static str {
    match cause {
        Cause::AcceptQueueOverflow => "an accept queue is full and SYNs are dropped",
        Cause::HalfOpen => "an accept queue is full and final ACKs are dropped",
        Cause::AbortOnOverflow => "an accept queue is full and the kernel answers with resets",
        Cause::SynQueueFull => "a SYN queue is full and SYN cookies are disabled",
        Cause::HandshakeDropped => {
            "the kernel drops handshakes for another reason than a full \
                                    queue"
        }
        Cause::NotAccepting => "connections wait and the application does not accept them",
        Cause::Refused => "nothing listens at the proxy's target address",
        Cause::PathLoss => "the network loses segments on the way to a listener",
        Cause::Unreachable => "there is no route to a peer",
        Cause::NeighbourUnresponsive => {
            "a peer or its gateway does not answer ARP or neighbour discovery"
        }
        Cause::Rejected => "a firewall, router or policy rejects connections to a peer",
        Cause::ProxyPortsExhausted => "no local port is free for connects",
        Cause::ProxyLimit => "the proxy has reached one of its own limits",
        Cause::ApplicationClosed => "an application closes connections without an answer",
        Cause::ApplicationFailed => "an application answers with failures",
        Cause::ApplicationSlow => "an application answers too late",
        Cause::NoKernelEvidence => "a proxy had failures without evidence in this host's kernel",
    }
}

fn tell_cycles(out: &mut String, report: &Report) -> std::fmt::Result {
    for cycle in &report.proxy.cycles {
        let Some(period) = cycle.period_ms else { continue };
        let text = format!(
            "{} has periodic outages: every {:.0} s it has no live peer, {:.0} % of the time.",
            cycle.group,
            period as f64 / 1000.0,
            100.0 * cycle.share_without_peer
        );
        paragraph(out, "\n", "", &text)?;
    }
    Ok(())
}

fn tell_what_if(out: &mut String, diagnosis: &Diagnosis) -> std::fmt::Result {
    for what_if in &diagnosis.what_if {
        let Some(asked) = what_if.asked else { continue };
        let rate = match asked.accept_rate {
            Rate::Measured => String::new(),
            Rate::Times(factor) => {
                format!(" and accepts at {:.0} % of the measured rate", factor * 100.0)
            }
            Rate::PerSecond(rate) => format!(" and {rate:.0} accepts per second"),
        };
        let outcome = asked.outcome;
        let wait = match outcome.longest_wait_ms {
            Some(ms) => format!("the longest wait {ms} ms"),
            None => "connections that wait at the end are never served".to_owned(),
        };
        let least = match what_if.answer {
            WhatIf::Backlog { backlog, .. } => {
                format!("; the smallest that loses nothing is {backlog}")
            }
            WhatIf::Rate { needed_per_second, .. } => {
                format!("; it would take {needed_per_second:.0} accepts per second")
            }
        };
        let text = format!(
            "What if {} had a backlog of {}{rate}: {} of {} connections are lost instead of {}, \
             {wait}{least}.",
            diagnosis.report.name_of(what_if.listener),
            asked.backlog,
            outcome.lost,
            outcome.arrived,
            what_if.as_is.lost,
        );
        paragraph(out, "\n", "  ", &text)?;
    }
    Ok(())
}

fn tell_reconciliation(out: &mut String, report: &Report) -> std::fmt::Result {
    let has_lost = |netns: &&NetnsReport| {
        netns.kernel[Counter::ListenOverflows] + netns.kernel[Counter::ListenDrops] > 0
    };
    for netns in report.namespaces.iter().filter(has_lost) {
        let rest: Vec<String> = netns
            .unattributed
            .iter()
            .filter(|(counter, _)| counter.starts_with("Listen"))
            .map(|(counter, count)| format!("{count} of {counter}"))
            .collect();
        let difference = if rest.is_empty() {
            "all attributed".to_owned()
        } else {
            format!("not attributed: {}", rest.join(", "))
        };
        let text = format!(
            "Kernel counters of {}: ListenOverflows {}, ListenDrops {}; {difference}.",
            netns.name,
            netns.kernel[Counter::ListenOverflows],
            netns.kernel[Counter::ListenDrops],
        );
        paragraph(out, "\n", "  ", &text)?;
    }
    Ok(())
}

/// Signals on which findings stand.
const TELLING: [&str; 5] = ["syn_drops", "ack_drops", "cookie_drops", "icmp_drops", "queue_depth"];

/// What the story cannot know: lower rungs and lost detail.
fn tell_limits(out: &mut String, report: &Report) -> std::fmt::Result {
    let mut spots: BTreeMap<(&str, &str), Vec<&str>> = BTreeMap::new();
    for spot in report.blind_spots.iter().filter(|spot| TELLING.contains(&spot.signal.as_str())) {
        spots.entry((&spot.rung, &spot.unseen)).or_default().push(&spot.signal);
    }
    if !spots.is_empty() {
        writeln!(out, "\nNot visible on this kernel (floodmark doctor shows why):")?;
    }
    for ((rung, unseen), signals) in spots {
        let text = format!("{} by {rung}: {unseen}", signals.join(", "));
        paragraph(out, "  ", "    ", &text)?;
    }
    if !report.left_out.is_nothing() {
        writeln!(out)?;
        paragraph(out, "", "  ", &report.left_out.to_string())?;
    }
    for step in &report.clock_steps {
        let at = finding::clock(step.within.to);
        let text = format!(
            "The wall clock was {} before {at} UTC. All times use the clock's present setting. \
             Verdicts are unaffected.",
            step.describe()
        );
        paragraph(out, "\n", "  ", &text)?;
    }
    if report.events_lost > 0 {
        writeln!(
            out,
            "\n{} detail events were lost; counters are unaffected.",
            report.events_lost
        )?;
    }
    Ok(())
}

/// `text`, with whatever names of others it holds, in lines, the first after `first`, the others after
/// `other`. A leading line feed in `first` is an empty line before.
fn paragraph(out: &mut String, first: &str, other: &str, text: &str) -> std::fmt::Result {
    let (lead, first) = match first.strip_prefix('\n') {
        Some(rest) => ("\n", rest),
        None => ("", first),
    };
    out.push_str(lead);
    let options =
        Options::new(WIDTH).initial_indent(first).subsequent_indent(other).break_words(false);
    for line in wrap(&printable(text), options) {
        writeln!(out, "{line}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
