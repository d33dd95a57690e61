//! The page's tables.

use std::collections::BTreeMap;

use maud::{Markup, html};

use super::summary::{event_words, number, owner};
use crate::{
    inventory::{LimitedBy, peers::PeerReport},
    kernel::{Attribution, Class, Counter, Rung, Standing, Tally, class::word},
    verdict::{Cause, Confidence, ListenerReport, Report, Verdict, description},
};

/// Rows of a table at most; the rest is counted.
pub(super) const ROWS: usize = 50;

pub(super) fn listeners(report: &Report) -> Markup {
    let rows = &report.listeners;
    html! {
        div.scroll { table {
            thead { tr {
                th { "Listener" } th { "Owner" } th { "Namespace" }
                th.number { "Limit" } th { "Set by" } th.number { "Maximum" } th.number { "Dropped" }
                th { "Losses" }
            } }
            tbody { @for row in rows.iter().take(ROWS) { (listener(row)) } }
        } }
        (rest(rows.len()))
    }
}

fn listener(row: &ListenerReport) -> Markup {
    let listener = &row.listener;
    let bound = match listener.limited_by() {
        Some(LimitedBy::Backlog) => "the application's listen()",
        Some(LimitedBy::Somaxconn) => "net.core.somaxconn",
        Some(LimitedBy::Both) => "both",
        None => "unknown",
    };
    html! { tr {
        td.nowrap { code { (listener.id.addr) } }
        td { (owner(listener)) }
        td { (listener.netns_name) }
        td.number { (listener.queue.limit) }
        td { (bound) @if let Some(somaxconn) = listener.somaxconn { br; span.small { "somaxconn " (somaxconn) } } }
        td.number { (row.queue_high) }
        td.number { (number(row.tally.drops())) }
        td.wide { (losses(&row.tally))
            @if row.attribution == Attribution::Proportional { br; span.small { "an estimate: other listeners there dropped too" } }
        }
    } }
}

/// Classes by their words, most frequent first.
fn losses(tally: &Tally) -> Markup {
    let mut counts: Vec<(Class, u64)> = tally.counts().collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    html! { @for (class, count) in counts { (number(count)) " × " (class_words(class)) br; } }
}

fn class_words(class: Class) -> String {
    let words = word(class).replace('_', " ").replace('/', ", ");
    match words.strip_prefix("unknown, ") {
        Some(cause) => format!("{cause}, step of the handshake unknown"),
        None => words,
    }
}

/// Clients that lost most, listener by listener.
pub(super) fn clients(report: &Report) -> Markup {
    let with_peers = report.listeners.iter().filter(|listener| !listener.peers.is_empty());
    let rows: Vec<_> = with_peers.take(ROWS).collect();
    if rows.is_empty() {
        return html! { p.lead { "The affected clients are unknown: no details arrived, or the \
        kernel allows no hook that sees them." } };
    }
    html! {
        div.scroll { table {
            thead { tr { th { "Listener" } th { "Client" } th.number { "Lost segments with details" } } }
            tbody { @for row in rows {
                @for (peer, count) in &row.peers { tr {
                    td.nowrap { code { (row.listener.id.addr) } } td { code { (peer) } } td.number { (number(*count)) }
                } }
                @if row.peers_other > 0 { tr {
                    td.nowrap { code { (row.listener.id.addr) } } td { "all others, and losses without details" } td.number { (number(row.peers_other)) }
                } }
            } }
        } }
    }
}

/// Who connects to whom.
pub(super) fn churn(peers: &[PeerReport]) -> Markup {
    let peers: Vec<&PeerReport> = peers.iter().filter(|peer| peer.counts.opened > 0).collect();
    html! {
        div.scroll { table {
            thead { tr {
                th { "Service" } th { "Peer" } th.number { "Opened" } th.number { "Per second" }
                th.number { "Median lifetime" } th { "Closed first by" }
            } }
            tbody { @for peer in peers.iter().take(ROWS) { (churn_row(peer)) } }
        } }
        (rest(peers.len()))
        p.small { "Rates and lifetimes are those of the last 15 s. Many short connections that \
                   the same side closes "
            "show that keepalive is not in use." }
    }
}

fn churn_row(peer: &PeerReport) -> Markup {
    let side = match (peer.is_local, peer.port) {
        (_, 0) => "both ports ephemeral".to_owned(),
        (true, port) => format!("port {port}"),
        (false, port) => format!("to port {port}"),
    };
    let closed = match peer.closed_here_share {
        Some(share) => format!("{:.0} % this host", 100.0 * share),
        None => "–".to_owned(),
    };
    html! { tr {
        td.nowrap { (side) } td { code { (peer.peer) } }
        td.number { (number(peer.counts.opened)) } td.number { (format!("{:.1}", peer.opened_per_second)) }
        td.number { @match peer.median_lifetime { Some(life) => (seconds(life)), None => "–" } }
        td { (closed) }
    } }
}

fn seconds(value: f64) -> String {
    match value {
        v if v < 0.001 => format!("{:.0} µs", v * 1e6),
        v if v < 1.0 => format!("{:.1} ms", v * 1e3),
        v => format!("{v:.1} s"),
    }
}

/// Why queues were not emptied.
pub(super) fn stalls(report: &Report) -> Markup {
    let rows: Vec<_> = report
        .stalls
        .iter()
        .flat_map(|stall| stall.impediments.iter().map(move |it| (stall, it)))
        .collect();
    html! {
        h3 { "Why nobody accepted" }
        div.scroll { table {
            thead { tr { th { "Listener" } th { "Impediment" } th.number { "Share" } th { "Confidence" } th { "Evidence" } } }
            tbody { @for (stall, it) in rows.iter().take(ROWS) { tr {
                td { code { (report.name_of(stall.id())) } }
                td { (it.impediment.name().replace('_', " ")) }
                td.number { (format!("{:.0} %", it.share * 100.0)) }
                td { (it.confidence.name()) } td { (description(it)) }
            } } }
        } }
        (rest(rows.len()))
    }
}

type Explained<'a> = (usize, &'a Verdict);

/// What proxies said, each group with its cause and one example.
pub(super) fn verdicts(report: &Report) -> Markup {
    let mut groups: BTreeMap<(String, &str, Cause, Confidence), Explained<'_>> = BTreeMap::new();
    for verdict in &report.proxy.verdicts {
        let event = &verdict.event;
        let key = (
            event.upstream.to_string(),
            event_words(&event.kind),
            verdict.cause,
            verdict.confidence,
        );
        groups.entry(key).or_insert((0, verdict)).0 += 1;
    }
    let proxy = &report.proxy;
    let told = proxy.failed_attempts + proxy.markings + proxy.no_live_peers;
    let kept = proxy.verdicts.len() as u64;
    let mut rows: Vec<_> = groups.into_iter().collect();
    rows.sort_by_key(|(_, (count, _))| std::cmp::Reverse(*count));
    html! {
        div.scroll { table {
            thead { tr { th { "Peer or group" } th { "Event" } th.number { "Times" } th { "Cause" } th { "Confidence" } th { "Example of the evidence" } } }
            tbody { @for ((upstream, event, cause, confidence), (count, example)) in rows.iter().take(ROWS) { tr {
                td { code { (upstream) } } td { (event) } td.number { (number(*count as u64)) }
                td { (cause.name().replace('_', " ")) } td { (confidence.name()) }
                td { (example.because) }
            } } }
        } }
        @if told > kept {
            p.small { "These are the newest " (number(kept)) " of " (number(told)) " verdicts." }
        }
        (rest(rows.len()))
    }
}

/// What was attributed, beside the kernel's own counters.
pub(super) fn reconciliation(report: &Report) -> Markup {
    let rows = report.namespaces.iter().flat_map(|netns| {
        let moved = Counter::reconciled().filter(|counter| netns.kernel[*counter] > 0);
        moved.map(move |counter| (netns, counter))
    });
    let rows: Vec<_> = rows.collect();
    if rows.is_empty() {
        return html! { p.lead { "No kernel counter grew." } };
    }
    html! {
        div.scroll { table {
            thead { tr { th { "Namespace" } th { "Kernel counter" } th.number { "Growth" } th.number { "Attributed" } } }
            tbody { @for (netns, counter) in rows.iter().take(ROWS) {
                @let rest = netns.unattributed.get(counter.name()).copied().unwrap_or(0);
                tr {
                    td { (netns.name) } td { code { (counter.name()) } }
                    td.number { (number(netns.kernel[*counter])) }
                    td.number { (accounted(rest)) }
                }
            } }
        } }
        (rest(rows.len()))
    }
}

fn accounted(rest: i64) -> String {
    match rest {
        0 => "all".to_owned(),
        rest if rest > 0 => format!("all but {}", number(rest.unsigned_abs())),
        rest => format!("{} too many", number(rest.unsigned_abs())),
    }
}

/// How each signal was had.
pub(super) fn signals(standings: &[Standing]) -> Markup {
    html! {
        div.scroll { table {
            thead { tr { th { "Signal" } th { "Source" } th { "Cannot see" } } }
            tbody { @for standing in standings { tr {
                td.nowrap { (standing.signal.name().replace('_', " ")) }
                td { (rung(standing.rung)) } td { (standing.blind_spot) }
            } } }
        } }
    }
}

fn rung(rung: Rung) -> &'static str {
    match rung {
        Rung::None => "not available",
        Rung::Netlink => "netlink and procfs",
        Rung::Tracepoint => "tracepoints",
        Rung::Kprobe => "kprobes",
        Rung::Fentry => "fentry",
    }
}

pub(super) fn rest(rows: usize) -> Markup {
    html! { @if rows > ROWS { p.small { "… and " (rows - ROWS) " more." } } }
}
