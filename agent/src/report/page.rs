//! The page.

use std::time::Duration;

use jiff::Timestamp;
use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::{
    chart, limits,
    summary::{number, summary},
    tables,
    timeline::Timeline,
};
use crate::{
    inventory::peers::PeerReport, printable::printable_lines, record::Replay, time::UnixMs,
    verdict::Diagnosis,
};

const STYLE: &str = include_str!("style.css");

/// Writes the page of a replay.
pub fn render(replay: &Replay, timeline: &Timeline, peers: &[PeerReport]) -> String {
    let report = &replay.report;
    let diagnosis = Diagnosis::of(report, None);
    let summary = summary(report, timeline);
    let has_proxies = !report.proxy.verdicts.is_empty();
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                // Nothing is fetched, whatever a log line says.
                meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'";
                title { "Floodmark: " (summary.headline) }
                style { (PreEscaped(STYLE)) }
            }
            body { main {
                header {
                    h1 { "What happened to connections" }
                    p.when { (clock(report.window.from)) " to " (clock(report.window.to)) " UTC ("
                        (length(report.window.length())) ")" }
                }
                div class=(format!("banner {}", summary.grade.class())) {
                    p { strong { (summary.headline) } }
                    @for sentence in &summary.sentences { p { (sentence) } }
                }
                (what_to_change(&diagnosis))
                (limits::tables(&diagnosis))
                h2 { "Timeline" }
                (figure(replay, timeline))
                h2 { "Listeners with losses" }
                @if report.listeners.is_empty() { p.lead { "None." } } @else {
                    (tables::listeners(report))
                    @if !report.stalls.is_empty() { (tables::stalls(report)) }
                }
                h2 { "Peers" }
                @if !report.listeners.is_empty() { (tables::clients(report)) }
                @if !peers.is_empty() { (tables::churn(peers)) }
                @if report.listeners.is_empty() && peers.is_empty() { p.lead { "None." } }
                @if has_proxies {
                    h2 { "Proxy events and their causes" }
                    (tables::verdicts(report))
                }
                h2 { "Quality of the evidence" }
                (evidence(replay, timeline))
                h2 { "Glossary" }
                (words())
                footer { "Written by floodmark " (env!("CARGO_PKG_VERSION"))
                    " from a recording of floodmark " (replay.header.program) " on Linux " (replay.header.kernel) "." }
            } }
        }
    };
    // A bidirectional control turns around what follows it in a page as well.
    printable_lines(&page.into_string()).into_owned()
}

fn what_to_change(diagnosis: &Diagnosis) -> Markup {
    html! {
        @if !diagnosis.advice.is_empty() {
            h2 { "What to change, in this order" }
            ol.steps { @for step in &diagnosis.advice { li {
                strong { (step.what) } " " (step.why)
                @if !step.now.is_empty() { p { "Now:" } pre { (step.now.join("\n")) } p { "Permanently:" } }
                @if !step.commands.is_empty() { pre { (step.commands.join("\n")) } }
            } } }
        }
        @if !diagnosis.avoid.is_empty() {
            h3 { "What not to change" }
            ul { @for sentence in &diagnosis.avoid { li { (sentence) } } }
        }
    }
}

fn figure(replay: &Replay, timeline: &Timeline) -> Markup {
    html! { figure {
        (chart::draw(timeline, &replay.damage.gaps))
        figcaption {
            ul.legend {
                li { i.k-depth {} "waiting connections, the maximum of each step" }
                li { i.k-limit {} "the queue's limit" }
                @if !timeline.outages.is_empty() { li { i.k-outage {} "a proxy had no live peer" } }
                @if !replay.damage.gaps.is_empty() { li { i.k-gap {} "could not be read" } }
            }
            @if timeline.left_out > 0 { p.small { "More listeners had waiting connections than are shown." } }
        }
    } }
}

fn evidence(replay: &Replay, timeline: &Timeline) -> Markup {
    let missing = missing(replay);
    html! {
        @if missing.is_empty() {
            p { "No evidence was lost. The table below shows kernel counters that are not \
                 attributed." }
        } @else {
            ul { @for sentence in &missing { li { (sentence) } } }
        }
        (tables::reconciliation(&replay.report))
        (tables::signals(&replay.standings))
        p.small { "Each step in the chart is " (timeline.width_ms / 1000) " s." }
    }
}

/// What the evidence lacks, in sentences.
fn missing(replay: &Replay) -> Vec<String> {
    let mut sentences = Vec::new();
    let (damage, comparison) = (&replay.damage, &replay.comparison);
    for gap in &damage.gaps {
        let (from, to) = (clock(gap.from), clock(gap.to));
        sentences.push(if gap.from == gap.to {
            format!("The recording is damaged: nothing after {from} could be read.")
        } else {
            format!("The recording is damaged: nothing could be read from {from} to {to}.")
        });
    }
    if !damage.has_end {
        sentences.push(
            "The recording has no end block: the writer was killed, or the file is cut off. At \
             least the last 5 s may be missing."
                .to_owned(),
        );
    }
    if replay.begins_late {
        sentences.push(format!(
            "The agent started at {}; time before the beginning is not in the recording.",
            clock(replay.header.watching_since)
        ));
    }
    for step in &replay.report.clock_steps {
        sentences.push(format!(
            "The wall clock was {} before {} UTC. All times use the clock's setting at the end.",
            step.describe(),
            clock(step.within.to)
        ));
    }
    if comparison.differing > 0 {
        sentences.push(format!(
            "{} of {} verdicts differ from the recorded ones.",
            number(comparison.differing),
            number(comparison.differing + comparison.same)
        ));
    }
    for (name, count) in &replay.troubles {
        let sentence = match name.as_str() {
            "events_lost" => {
                "details of losses did not fit into the ring buffer; counters are unaffected"
            }
            "events_undecodable" => "details of losses could not be read",
            "map_full" => "counts did not fit into their map",
            "program_misses" => "times the kernel skipped one of the agent's programs",
            _ => "times an entry and an exit of a kernel function did not match",
        };
        sentences.push(format!("Since the agent's start: {} {sentence}.", number(*count)));
    }
    if replay.header.is_redacted {
        sentences.push("Clients' addresses are pseudonyms.".to_owned());
    }
    sentences
}

fn words() -> Markup {
    html! { dl {
        dt { "Handshake" } dd { "The three packets that open a TCP connection: the client's SYN, \
                                 the server's SYN/ACK, the client's final ACK." }
        dt { "Listener" } dd { "A socket at which an application accepts connections." }
        dt { "Accept queue" } dd { "Connections whose handshake is done and which the application \
                                    has not yet taken with accept(). Its limit is the smaller of \
                                    two: what the application asked for in listen(), and \
                                    net.core.somaxconn in its network namespace." }
        dt { "Dropped" } dd { "Discarded by the kernel without an error to either side. The \
                               client retransmits after 1 s or more." }
        dt { "Peer marked as down" } dd { "A proxy such as nginx does not use a peer for some seconds after failures." }
        dt { "No live peer" } dd { "All peers of a group are marked, so the proxy immediately \
                                    answers with an error." }
        dt { "Confidence" } dd { "High: exact evidence at the one listener behind the address. \
                                  Medium: fits the only evidence there is. Low: fits, but so \
                                  might something else." }
    } }
}

fn clock(at: UnixMs) -> String {
    let at = Timestamp::from_millisecond(at.0 as i64).unwrap_or_default();
    at.strftime("%Y-%m-%d %H:%M:%S").to_string()
}

fn length(duration: Duration) -> String {
    match duration.as_secs() {
        seconds if seconds < 120 => format!("{seconds} s"),
        seconds if seconds < 7200 => format!("{} min {} s", seconds / 60, seconds % 60),
        seconds => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}
