//! A report in plain words.

use std::{fmt::Write, sync::Arc};

use crate::{
    kernel::{Attribution, Counter, Rung, Standing},
    proxy::EventKind,
    verdict::{ListenerReport, NetnsReport, Report, Verdict, advice, in_words},
};

/// Listeners told of; the others are counted.
const LISTENERS_TOLD: usize = 10;

/// Tells the story of a report, ending in a line feed.
pub(super) fn tell(report: &Report, standings: &[Standing]) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write(&mut out, report, standings);
    out
}

fn write(out: &mut String, report: &Report, standings: &[Standing]) -> std::fmt::Result {
    let seconds = report.window.length().as_secs();
    let lost: Vec<&ListenerReport> =
        report.listeners.iter().filter(|listener| listener.tally.drops() > 0).collect();
    match lost.as_slice() {
        [] => writeln!(out, "No listener lost anything in {seconds} s.")?,
        [_] => writeln!(out, "1 listener lost handshakes in {seconds} s:")?,
        _ => writeln!(out, "{} listeners lost handshakes in {seconds} s:", lost.len())?,
    }
    for listener in lost.iter().take(LISTENERS_TOLD) {
        tell_listener(out, listener)?;
    }
    if lost.len() > LISTENERS_TOLD {
        writeln!(out, "\n… and {} more", lost.len() - LISTENERS_TOLD)?;
    }
    tell_reconciliation(out, report)?;
    tell_proxies(out, report)?;
    let steps = advice(report);
    if !steps.is_empty() {
        writeln!(out, "\nWhat to change, in this order:")?;
    }
    for (i, step) in steps.iter().enumerate() {
        writeln!(out, "{:>2}. {}", i + 1, step.what)?;
        for command in &step.commands {
            writeln!(out, "      {command}")?;
        }
    }
    tell_limits(out, report, standings)
}

fn tell_listener(out: &mut String, report: &ListenerReport) -> std::fmt::Result {
    let listener = &report.listener;
    let owners: Vec<String> = listener
        .owners
        .iter()
        .take(3)
        .map(|owner| format!("{} (pid {})", plain(&owner.command), owner.pid))
        .collect();
    let owners = if owners.is_empty() { "owner unknown".to_owned() } else { owners.join(", ") };
    let name = plain(&listener.netns_name);
    writeln!(out, "\n  {} in network namespace {name}, {owners}", listener.id.addr)?;
    writeln!(out, "    {}", in_words(&report.tally).trim_start_matches("the listener "))?;
    let somaxconn = listener.somaxconn.map(|n| format!("; somaxconn {n}")).unwrap_or_default();
    writeln!(
        out,
        "    accept queue held up to {} with a limit of {}{somaxconn}",
        report.queue_high, listener.queue.limit
    )?;
    if !report.peers.is_empty() {
        let peers: Vec<String> =
            report.peers.iter().map(|(peer, count)| format!("{peer} ({count})")).collect();
        let other = match report.peers_other {
            0 => String::new(),
            count => format!(", other ({count})"),
        };
        writeln!(out, "    clients that lost most: {}{other}", peers.join(", "))?;
    }
    if report.attribution == Attribution::Proportional {
        writeln!(out, "    its share is an estimate: other listeners there dropped as well")?;
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
        writeln!(
            out,
            "\n  the kernel's own count in {}: ListenOverflows {}, ListenDrops {}; {difference}",
            plain(&netns.name),
            netns.kernel[Counter::ListenOverflows],
            netns.kernel[Counter::ListenDrops],
        )?;
    }
    Ok(())
}

fn tell_proxies(out: &mut String, report: &Report) -> std::fmt::Result {
    let proxy = &report.proxy;
    if proxy.markings + proxy.failed_attempts + proxy.no_live_peers == 0 {
        return Ok(());
    }
    writeln!(
        out,
        "\nThe proxy: {} failed attempts, {} markings of a peer as down ({} joined with kernel \
         evidence), {} requests refused for want of a live peer.",
        proxy.failed_attempts, proxy.markings, proxy.markings_joined, proxy.no_live_peers
    )?;
    for (cause, count) in &proxy.causes {
        writeln!(out, "  {count} × {cause}")?;
    }
    for cycle in &proxy.cycles {
        let Some(period) = cycle.period_ms else { continue };
        writeln!(
            out,
            "  {} goes round in a cycle: every {:.0} s no peer is left, {:.0} % of the time in all",
            plain(&cycle.group),
            period as f64 / 1000.0,
            100.0 * cycle.share_without_peer
        )?;
    }
    let marking =
        |verdict: &&Arc<Verdict>| matches!(verdict.event.kind, EventKind::PeerMarked { .. });
    if let Some(verdict) = proxy.verdicts.iter().rev().find(marking) {
        writeln!(
            out,
            "  for example {}: {} (confidence {}): in the {} s before, {}",
            plain(&verdict.event.upstream.to_string()),
            verdict.cause.name(),
            verdict.confidence.name(),
            verdict.window.length().as_secs(),
            verdict.because
        )?;
    }
    Ok(())
}

/// What the story cannot know: lower rungs and lost detail.
fn tell_limits(out: &mut String, report: &Report, standings: &[Standing]) -> std::fmt::Result {
    let lower =
        standings.iter().filter(|s| s.rung != Rung::None && s.higher_refused().next().is_some());
    for standing in lower {
        writeln!(
            out,
            "\nnote: {} by {} only: {}",
            standing.signal.name(),
            standing.rung,
            standing.blind_spot
        )?;
    }
    if report.events_lost > 0 {
        writeln!(out, "\nnote: {} detail events lost; the counts are whole", report.events_lost)?;
    }
    Ok(())
}

/// Names come from other people's processes: no control characters reach the terminal.
pub(super) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}
