//! Tables of what would have helped: another queue, by replay, and connections kept open, by
//! measurement.

use maud::{Markup, html};

use super::{
    summary::number,
    tables::{ROWS, rest},
};
use crate::verdict::{Diagnosis, Sizing, WhatIf};

/// Both tables under their heading, as far as there is something to say.
pub(super) fn tables(diagnosis: &Diagnosis) -> Markup {
    html! {
        @if !diagnosis.what_if.is_empty() || !diagnosis.keepalive.is_empty() {
            h2 { "What would have helped" }
        }
        @if !diagnosis.what_if.is_empty() {
            h3 { "With another queue" }
            (what_if(diagnosis))
        }
        @if !diagnosis.keepalive.is_empty() {
            h3 { "With keepalive" }
            (keepalive(&diagnosis.keepalive))
        }
    }
}

fn what_if(diagnosis: &Diagnosis) -> Markup {
    let rows = &diagnosis.what_if;
    html! {
        div.scroll { table {
            thead { tr {
                th { "Listener" } th.number { "Arrived" } th.number { "Limit" } th.number { "Lost" }
                th.number { "Accepts per second" } th { "Setting that loses nothing" }
            } }
            tbody { @for row in rows.iter().take(ROWS) { tr {
                td { code { (diagnosis.report.name_of(row.listener)) } }
                td.number { (number(row.as_is.arrived)) }
                td.number { (row.limit) }
                td.number { (number(row.as_is.lost)) }
                td.number { (format!("{:.0}", accepts_per_second(&row.answer))) }
                td.wide { (answer(&row.answer)) }
            } } }
        } }
        (rest(rows.len()))
        p.small { "These numbers come from a replay of the arrivals against the queue. "
            "A longer queue loses less, but its last connection waits longer." }
    }
}

fn accepts_per_second(answer: &WhatIf) -> f64 {
    match answer {
        WhatIf::Backlog { accepts_per_second, .. } | WhatIf::Rate { accepts_per_second, .. } => {
            *accepts_per_second
        }
    }
}

fn answer(answer: &WhatIf) -> String {
    match answer {
        WhatIf::Backlog { backlog, longest_wait_ms, .. } => {
            format!("a backlog of {backlog}; the longest wait {longest_wait_ms} ms")
        }
        WhatIf::Rate { arrivals_per_second, needed_per_second, .. } => format!(
            "no backlog: {arrivals_per_second:.0} connections per second arrived; \
             {needed_per_second:.0} accepts per second are needed"
        ),
    }
}

fn keepalive(rows: &[Sizing]) -> Markup {
    html! {
        div.scroll { table {
            thead { tr {
                th { "Program" } th.number { "Workers" } th { "To" } th.number { "Per second" }
                th.number { "Lifetime" } th.number { "Longest pause" } th.number { "Keepalive" }
                th.number { "Rule of thumb" } th.number { "Avoided" }
            } }
            tbody { @for row in rows.iter().take(ROWS) { tr {
                td { (row.command) }
                td.number { (row.workers) }
                td { code { (row.to) } @if row.peers > 1 { " and " (row.peers - 1) " more" } }
                td.number { (format!("{:.1}", row.opened_per_second)) }
                td.number { (milliseconds(row.mean_lifetime_ms)) }
                td.number { (milliseconds(Some(row.longest_pause_ms as f64))) }
                td.number { strong { (row.keepalive) } }
                td.number { (thumb(row.rule_of_thumb)) }
                td.number { (number(row.spared)) }
            } } }
        } }
        (rest(rows.len()))
        p.small { "Keepalive: idle connections that each worker must keep to avoid the connects \
                   in the last "
            "column, as measured. Rule of thumb: 10 to 30 % of rate times latency. Let the proxy \
             keep "
            "an idle connection for longer than the longest pause between two connects." }
    }
}

fn milliseconds(ms: Option<f64>) -> String {
    ms.map_or_else(|| "unknown".to_owned(), |ms| format!("{ms:.0} ms"))
}

fn thumb(range: Option<(u32, u32)>) -> String {
    range.map_or_else(|| "unknown".to_owned(), |(low, high)| format!("{low} to {high}"))
}
