//! The report as Markdown.

use std::fmt::Write;

use crate::{
    EMPTY, PROGRAMS,
    report::{PerRun, Program, Report, Summary},
    tools::BCC,
};

/// What is demanded of every program, in multiples of an empty one.
const BOUND: f64 = 4.0;

/// What a program gives for what it costs on a dropped SYN.
const DROPPED: &str = "This cost applies only to dropped SYNs. The program reads three pairs of \
                       kernel counters again to find the cause, reads the listener's address and \
                       inode and the sender's address and port, looks up the listener's counters, \
                       distinguishes a connection's first loss from later ones, and sends an \
                       event.";

/// The report's tables.
pub fn render(report: &Report) -> String {
    [programs(report), contenders(report), failures(report)].concat()
}

fn programs(report: &Report) -> String {
    let mut page = format!(
        "## The agent's programs\n\n\
         Rounds: {}; accepted connections, and dropped SYNs, in each: {}. Runs are per accepted connection or dropped SYN; ns are the \
         kernel's `run_time_ns` per run; × is that over an empty program's on the same hook in the \
         same round. Demanded: at most {BOUND}.\n\n\
         | program | at | for | runs per connection | ns | × empty | runs per dropped SYN | ns | × \
         empty |\n| --- | --- | --- | --: | --: | --: | --: | --: | --: |\n",
        report.rounds, report.times
    );
    for program in &report.programs {
        let Program { program: name, attach, target, signal, accepted, dropped } = program;
        let (accepted, dropped) = (per_run(accepted.as_ref()), per_run(dropped.as_ref()));
        line(
            &mut page,
            &format!("`{name}` | {attach} `{target}` | {signal} | {accepted} | {dropped}"),
        );
    }
    page.push('\n');
    page.push_str(&above_bound(report));
    page
}

fn per_run(cost: Option<&PerRun>) -> String {
    cost.map_or("0 | – | –".to_owned(), |cost| {
        format!("{:.2} | {:.0} | {:.2}", cost.runs, cost.ns, cost.ratio)
    })
}

fn above_bound(report: &Report) -> String {
    let runs = report.programs.iter().flat_map(|program| {
        let runs = [(&program.accepted, "accepted"), (&program.dropped, "dropped")];
        runs.map(|(run, word)| run.as_ref().map(|run| (program.program, word, run.ratio)))
    });
    let above = runs.flatten().filter(|(_, _, ratio)| *ratio > BOUND);
    let above: Vec<String> =
        above.map(|(name, word, ratio)| format!("`{name}` ({word}: {ratio:.2})")).collect();
    if above.is_empty() {
        format!("Every program is within {BOUND}.\n\n")
    } else {
        format!("Above {BOUND}: {}. {DROPPED}\n\n", above.join(", "))
    }
}

fn contenders(report: &Report) -> String {
    let mut page = "## Comparison with other tools\n\nTotal cost of all attached programs. \
                    Connections per second are measured with the kernel's statistics disabled. \
                    The agent also samples once a second, which weighs more on this machine with \
                    125 million instructions per second than on a real one.\n\n| attached | what \
                    it reports | programs | ns per connection | ns per dropped SYN | \
                    connections/s | of none attached |\n| --- | --- | --: | --: | --: | --: | --: \
                    |\n"
    .to_owned();
    for summary in &report.contenders {
        line(&mut page, &contender(summary));
    }
    page.push_str(&comparison(report));
    page
}

/// Signals of the side that connects, which share the machine with the other here alone.
const CONNECTING: [&str; 2] = ["port_exhaustion", "syn_retransmits"];

/// Whom the programs are cheaper than on an accepted connection, and whom they are not.
fn comparison(report: &Report) -> String {
    let cost = |kind: &str| {
        let found = report.contenders.iter().find(|summary| summary.name == kind);
        found.and_then(|summary| summary.accepted_ns)
    };
    let (Some(all), Some(empty)) = (cost(PROGRAMS), cost(EMPTY)) else { return String::new() };
    let connecting: f64 = connecting_runs(report).map(|run| run.runs * run.ns).sum();
    let own = all - connecting;
    let floor = empty - connecting_runs(report).map(|run| run.runs * run.empty_ns).sum::<f64>();
    let names = |is_wanted: &dyn Fn(f64) -> bool| {
        let tools = report.contenders.iter().filter(|summary| summary.is_tool);
        let wanted = tools.filter(|summary| summary.accepted_ns.is_some_and(is_wanted));
        let names: Vec<&str> = wanted.map(|summary| summary.name).collect();
        if names.is_empty() { "none".to_owned() } else { names.join("; ") }
    };
    format!(
        "\nPer accepted connection, the programs cost {own:.0} ns on the accepting side; empty \
         programs on the same hooks cost {floor:.0} ns of that. They cost {connecting:.0} ns more \
         on the connecting side (signals {}), which is the same machine here. No other tool sees \
         the connecting side. Tools that cost more than the programs on the accepting side: {}. \
         Tools that cost less: {}; the table shows what they report.\n",
        CONNECTING.join(", "),
        names(&|ns| ns > own),
        names(&|ns| ns <= own),
    )
}

/// What the programs of those signals cost while connections were accepted.
fn connecting_runs(report: &Report) -> impl Iterator<Item = &PerRun> {
    let programs = report.programs.iter().filter(|it| CONNECTING.contains(&it.signal));
    programs.filter_map(|program| program.accepted.as_ref())
}

fn contender(summary: &Summary) -> String {
    let Summary { name, tells, programs, .. } = summary;
    if summary.failure.is_some() {
        return format!("{name} | {tells} | not measured | | | |");
    }
    let whole = |value: Option<f64>| value.map_or("–".to_owned(), |value| format!("{value:.0}"));
    let share = summary.of_bare.map_or("–".to_owned(), |share| format!("{share:.3}"));
    let (accepted, dropped) = (whole(summary.accepted_ns), whole(summary.dropped_ns));
    let per_second = whole(summary.per_second);
    format!("{name} | {tells} | {programs} | {accepted} | {dropped} | {per_second} | {share}")
}

fn failures(report: &Report) -> String {
    let failed = report.contenders.iter().filter_map(|summary| {
        let failure = summary.failure.as_ref()?;
        Some(format!("\n{} was not measured: {failure}\n", summary.name))
    });
    failed.chain([format!("\n{BCC}\n")]).collect()
}

fn line(page: &mut String, cells: &str) {
    // Writing to a string does not fail.
    let _ = writeln!(page, "| {cells} |");
}
