//! The measurement: in every round each contender in turn is attached, measured and detached, so
//! that whatever drifts drifts for all of them.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use aya::sys::{Stats, enable_stats};
use floodmark::kernel::Hook;

use crate::{
    contender::{Attached, Contender, Kind},
    hooks, idle,
    stats::{self, Cost},
    workload::Workload,
};

/// The programs attached, each with its label and what it cost.
pub type Costs = Vec<(String, Cost)>;

/// One contender in one round.
pub struct Outcome {
    /// What its programs cost while SYNs were accepted and dropped.
    pub costs: BTreeMap<Workload, Costs>,
    /// Accepted connections per second, with the kernel's statistics off.
    pub per_second: f64,
}

/// All rounds of one contender, or why it could not be measured.
pub type Outcomes = Result<Vec<Outcome>>;

/// Plays `rounds` rounds with each of `contenders`, each workload being done `times`.
pub fn play(contenders: &[Contender], rounds: u32, times: u32) -> Result<Vec<Outcomes>> {
    let mut all: Vec<Outcomes> = contenders.iter().map(|_| Ok(Vec::new())).collect();
    let mut hooks = Vec::new();
    // A machine just booted is busy with itself for a while.
    idle::wait()?;
    for round in 1..=rounds {
        for (contender, outcomes) in contenders.iter().zip(&mut all) {
            let Ok(outcomes_so_far) = outcomes else { continue };
            eprint!("round {round} of {rounds}: {}: ", contender.name);
            match measure(contender, &hooks, times) {
                Ok(outcome) => {
                    eprintln!("{:.0} connections/s", outcome.per_second);
                    if matches!(contender.kind, Kind::Programs) {
                        hooks = hooks_of(&outcome);
                    }
                    outcomes_so_far.push(outcome);
                }
                Err(error) if matches!(contender.kind, Kind::Tool(..)) => {
                    eprintln!("{error:#}");
                    *outcomes = Err(error);
                }
                Err(error) => return Err(error).context(contender.name),
            }
        }
    }
    Ok(all)
}

/// The hooks of the agent's programs, for the empty ones to go to.
fn hooks_of(agent: &Outcome) -> Vec<&'static Hook> {
    let programs = agent.costs.values().next().into_iter().flatten();
    programs.filter_map(|(label, _)| hooks::of_label(label)).collect()
}

fn measure(contender: &Contender, hooks: &[&'static Hook], times: u32) -> Result<Outcome> {
    let others = stats::read();
    let attached = contender.attach(hooks)?;
    let mut costs = BTreeMap::new();
    for workload in [Workload::Accepted, Workload::Dropped] {
        let counting = enable_stats(Stats::RunTime).context("enabling BPF statistics")?;
        let done = workload.run(times, stats::read)?;
        drop(counting);
        let own = done.after.iter().filter(|(id, _)| !others.contains_key(id));
        let grown = own.map(|(id, now)| {
            let before = done.before.get(id).map_or(Cost::default(), |before| before.cost);
            (attached.label(*id, &now.name), now.cost.since(before))
        });
        costs.insert(workload, grown.collect());
    }
    let done = Workload::Accepted.run(times, || ())?;
    drop::<Attached>(attached);
    Ok(Outcome { costs, per_second: f64::from(times) / done.took.as_secs_f64() })
}
