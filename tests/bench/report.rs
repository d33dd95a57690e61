//! What the rounds come to: medians over the rounds, ratios taken within each round.

use serde::Serialize;

use crate::{
    contender::{Contender, Kind},
    hooks,
    rounds::{Costs, Outcome, Outcomes},
    stats::Cost,
    workload::Workload,
};

/// Everything measured.
#[derive(Serialize)]
pub struct Report {
    /// Rounds played.
    pub rounds: u32,
    /// Times that each workload was done in each round.
    pub times: u32,
    /// The agent's programs, one by one.
    pub programs: Vec<Program>,
    /// Everything that was attached.
    pub contenders: Vec<Summary>,
}

/// One of the agent's programs.
#[derive(Serialize)]
pub struct Program {
    /// Its name.
    pub program: &'static str,
    /// How it is attached: fentry, fexit, ...
    pub attach: &'static str,
    /// Kernel function or tracepoint.
    pub target: &'static str,
    pub signal: &'static str,
    /// While connections were accepted; `None` if it did not run.
    pub accepted: Option<PerRun>,
    /// While SYNs were dropped; `None` if it did not run.
    pub dropped: Option<PerRun>,
}

/// A program's cost beside an empty program's on the same hook.
#[derive(Serialize)]
pub struct PerRun {
    /// Runs per accepted connection or dropped SYN.
    pub runs: f64,
    /// Nanoseconds of guest time per run.
    pub ns: f64,
    /// The same of an empty program.
    pub empty_ns: f64,
    /// The first over the second.
    pub ratio: f64,
}

/// One contender.
#[derive(Serialize)]
pub struct Summary {
    pub name: &'static str,
    pub tells: &'static str,
    /// Whether it is somebody else's.
    pub is_tool: bool,
    /// Why it could not be measured.
    pub failure: Option<String>,
    /// Programs it attached.
    pub programs: usize,
    /// Nanoseconds in all programs per accepted connection.
    pub accepted_ns: Option<f64>,
    /// Nanoseconds in all programs per dropped SYN.
    pub dropped_ns: Option<f64>,
    /// Accepted connections per second of guest time.
    pub per_second: Option<f64>,
    /// The same over that with nothing attached.
    pub of_bare: Option<f64>,
}

impl Report {
    /// Adds up the rounds.
    pub fn new(contenders: &[Contender], all: &[Outcomes], rounds: u32, times: u32) -> Self {
        let of = |wanted: fn(&Kind) -> bool| -> &[Outcome] {
            let mut pairs = contenders.iter().zip(all);
            let found = pairs.find(|(contender, _)| wanted(&contender.kind));
            found.and_then(|(_, outcomes)| outcomes.as_deref().ok()).unwrap_or_default()
        };
        let agent = of(|kind| matches!(kind, Kind::Programs));
        let empty = of(|kind| matches!(kind, Kind::Empty(_)));
        let bare = of(|kind| matches!(kind, Kind::Nothing));
        let summaries = contenders.iter().zip(all);
        Self {
            rounds,
            times,
            programs: programs(agent, empty, times),
            contenders: summaries.map(|(c, o)| Summary::new(c, o, bare, times)).collect(),
        }
    }
}

fn programs(agent: &[Outcome], empty: &[Outcome], times: u32) -> Vec<Program> {
    let attached = |label: &str| {
        let mut costs = agent.iter().flat_map(|outcome| outcome.costs.values()).flatten();
        costs.any(|(name, _)| name == label)
    };
    let per_run = |workload, label| PerRun::new(agent, empty, workload, label, times);
    hooks::all()
        .filter(|(_, hook)| attached(hook.program))
        .map(|(signal, hook)| Program {
            program: hook.program,
            attach: hook.attach.name(),
            target: hook.target,
            signal: signal.name(),
            accepted: per_run(Workload::Accepted, hook.program),
            dropped: per_run(Workload::Dropped, hook.program),
        })
        .collect()
}

impl PerRun {
    fn new(
        agent: &[Outcome],
        empty: &[Outcome],
        workload: Workload,
        label: &str,
        times: u32,
    ) -> Option<Self> {
        let cost = |outcome: &Outcome| cost_of(&outcome.costs[&workload], label);
        let means = |outcomes: &[Outcome]| -> Vec<f64> {
            outcomes.iter().filter_map(|outcome| cost(outcome).mean_ns()).collect()
        };
        let pairs = agent.iter().zip(empty);
        let ratios = pairs.filter_map(|(a, e)| Some(cost(a).mean_ns()? / cost(e).mean_ns()?));
        let runs = agent.iter().map(|outcome| cost(outcome).runs as f64 / f64::from(times));
        Some(Self {
            ns: median(means(agent))?,
            empty_ns: median(means(empty))?,
            ratio: median(ratios.collect())?,
            runs: median(runs.collect())?,
        })
    }
}

impl Summary {
    fn new(contender: &Contender, outcomes: &Outcomes, bare: &[Outcome], times: u32) -> Self {
        let failure = outcomes.as_ref().err().map(|error| format!("{error:#}"));
        let outcomes = outcomes.as_deref().unwrap_or_default();
        let per_time = |workload| Some(total_ns(outcomes, workload)? / f64::from(times));
        let pairs = outcomes.iter().zip(bare);
        Self {
            name: contender.name,
            tells: contender.tells,
            is_tool: matches!(contender.kind, Kind::Tool(..)),
            failure,
            programs: outcomes
                .first()
                .map_or(0, |outcome| outcome.costs[&Workload::Accepted].len()),
            accepted_ns: per_time(Workload::Accepted),
            dropped_ns: per_time(Workload::Dropped),
            per_second: median(outcomes.iter().map(|outcome| outcome.per_second).collect()),
            of_bare: median(pairs.map(|(own, bare)| own.per_second / bare.per_second).collect()),
        }
    }
}

fn cost_of(costs: &Costs, label: &str) -> Cost {
    costs.iter().find(|(name, _)| name == label).map_or(Cost::default(), |(_, cost)| *cost)
}

/// The sum of all programs' medians, which are in one order in every round. Not the median of the
/// sums: a processor that is interrupted within a program spoils one program in one round.
fn total_ns(outcomes: &[Outcome], workload: Workload) -> Option<f64> {
    let programs = outcomes.first()?.costs[&workload].len();
    let of_program = |number: usize| {
        let rounds = outcomes.iter().filter_map(|outcome| outcome.costs[&workload].get(number));
        median(rounds.map(|(_, cost)| cost.time.as_nanos() as f64).collect())
    };
    Some((0..programs).filter_map(of_program).fold(0.0, |sum, ns| sum + ns))
}

/// The middle one, or the mean of the two in the middle; `None` of nothing.
fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let upper = *values.get(values.len() / 2)?;
    let lower = values[(values.len() - 1) / 2];
    Some(f64::midpoint(lower, upper))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![3.0, 1.0, 9.0]), Some(3.0));
        assert_eq!(median(vec![4.0, 1.0, 2.0, 9.0]), Some(3.0));
    }
}
