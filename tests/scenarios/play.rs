//! Plays one scenario: drives it while the agent looks on, then compares.

use std::{collections::BTreeMap, thread, time::Duration};

use anyhow::{Context, Result, anyhow, ensure};

use crate::{
    claim::{Claim, at_least},
    counters::Counters,
    measure::Measure,
    namespace::Namespace,
    report::{Report, Row},
    scenario::{Driven, Scenario, Skip},
};

const LOOK_EVERY: Duration = Duration::from_millis(250);
/// For what softirqs still have in hand when a drive returns.
const SETTLE: Duration = Duration::from_millis(300);
/// Readings are repeated so often while a timer of the kernel's still counts.
const READINGS: usize = 20;
/// All of their growth has to be attributed, whatever a scenario claims beside.
const TOTALS: [&str; 2] = ["ListenOverflows", "ListenDrops"];

/// Plays it; what goes wrong is in the report. Where no hook sees every loss, one that fails is played
/// once more: what the lower rungs make of it depends on when they look.
pub fn play(scenario: &Scenario, measure: &mut Measure) -> Report {
    let report = play_once(scenario, measure);
    if report.ok || measure.is_exact() {
        return report;
    }
    Report { first_play: Some(Box::new(report)), ..play_once(scenario, measure) }
}

fn play_once(scenario: &Scenario, measure: &mut Measure) -> Report {
    match rows(scenario, measure) {
        Ok((rows, misses)) => Report::of(scenario.name, rows, misses),
        Err(error) => match error.downcast::<Skip>() {
            Ok(Skip(reason)) => Report::skipped(scenario.name, reason),
            Err(error) => Report::failed(scenario.name, format!("{error:#}")),
        },
    }
}

/// A row for each claim, and how many programs the kernel skipped meanwhile.
fn rows(scenario: &Scenario, measure: &mut Measure) -> Result<(Vec<Row>, u64)> {
    let namespaces: Vec<Namespace> =
        (0..scenario.namespaces).map(Namespace::new).collect::<Result<_>>()?;
    measure.begin()?;
    let rungs = measure.rungs();
    if scenario.with_self_test {
        measure.begin_self_test();
    }
    let driven = drive(scenario, &namespaces, measure)?;
    thread::sleep(SETTLE);
    if scenario.with_self_test {
        measure.end_self_test()?;
        ensure!(measure.rungs() == rungs, "the self-test left {:?} of {rungs:?}", measure.rungs());
    }
    let mut counters = read(&namespaces, driven.last_counters.as_ref(), measure)?;
    // Of one that the agent has not met it says nothing.
    let gone = driven.gone.iter().filter(|(name, _)| measure.met(name).is_some());
    counters.extend(gone.map(|(name, counters)| (name.clone(), counters.clone())));
    let misses = measure.misses()?;
    let found = Found { measure, counters: &counters, misses };
    let mut claims = driven.claims.clone();
    for total in TOTALS {
        if !claims.iter().any(|claim| claim.class == total && claim.listener.is_none()) {
            claims.push(at_least(total, 0));
        }
    }
    let rows = claims.iter().map(|claim| found.row(claim, &driven)).collect::<Result<_>>()?;
    Ok((rows, misses))
}

/// Runs the drive on a thread in the first namespace and looks until it is done.
fn drive(scenario: &Scenario, namespaces: &[Namespace], measure: &mut Measure) -> Result<Driven> {
    let first = namespaces.first().context("a scenario without namespace")?;
    thread::scope(|scope| {
        let drive = scope.spawn(|| first.enter().and_then(|()| (scenario.drive)(namespaces)));
        while !drive.is_finished() {
            measure.look()?;
            thread::park_timeout(LOOK_EVERY);
        }
        drive.join().map_err(|_| anyhow!("the drive panicked"))?
    })
}

type ByName = BTreeMap<String, Counters>;

/// Lets the agent look once more, at a time when the kernel's counters do not move.
fn read(
    namespaces: &[Namespace],
    last: Option<&Counters>,
    measure: &mut Measure,
) -> Result<ByName> {
    let kernel = || -> Result<ByName> {
        let reading = |namespace: &Namespace| match last {
            Some(last) => Ok((namespace.name().to_owned(), last.clone())),
            None => Ok((namespace.name().to_owned(), namespace.inside(Counters::here)?)),
        };
        namespaces.iter().map(reading).collect()
    };
    let mut before = kernel()?;
    for _ in 0..READINGS {
        measure.look()?;
        let after = kernel()?;
        if after == before {
            break;
        }
        before = after;
    }
    // The lower rung gives drops that are no overflow to a listener one look later.
    measure.look()?;
    Ok(before)
}

struct Found<'a> {
    measure: &'a Measure,
    counters: &'a ByName,
    /// So many counts may be missing.
    misses: u64,
}

impl Found<'_> {
    /// Compares namespace by namespace, lest what is amiss in one make up for another.
    fn row(&self, claim: &Claim, driven: &Driven) -> Result<Row> {
        let (mut kernel, mut attributed) = (Some(0), Some(0));
        let (mut missing, mut invented) = (0, 0);
        for (name, counters) in self.counters {
            let netns = self.measure.met(name).with_context(|| format!("{name} was not seen"))?;
            let counted = claim.counter.and_then(|counter| counters.get(counter));
            let told = self.measure.attributed(netns, claim)?;
            if let (Some(counted), Some(told)) = (counted, told) {
                missing += counted.saturating_sub(told);
                invented += told.saturating_sub(counted);
            }
            kernel = sum(kernel, counted);
            attributed = sum(attributed, told);
        }
        let unseen = if driven.listeners_went && !self.measure.is_exact() { missing } else { 0 };
        let misses = self.misses;
        let tolerance = unseen + misses + self.measure.tolerance(claim, &driven.claims);
        // Where shares are estimated, a listener that lost something is named; how much of the whole
        // it is given may be off.
        let is_named = |found: u64| found > 0 && claim.expected.least() > 0;
        let is_estimate = claim.listener.is_some() && !self.measure.is_exact();
        let is_met = |found| claim.expected.is_met_by(found) || (is_estimate && is_named(found));
        let is_nearly_met = |found: u64| (found..=found + misses).any(is_met);
        let is_as_claimed = match (kernel, attributed) {
            (Some(counted), _) => is_met(counted),
            (None, Some(told)) => is_nearly_met(told),
            (None, None) => true,
        };
        let ok = missing + invented <= tolerance && is_as_claimed;
        let unattributed = kernel.and(attributed).map(|_| missing + invented);
        Ok(Row::new(claim, attributed, kernel, unattributed, ok))
    }
}

fn sum(a: Option<u64>, b: Option<u64>) -> Option<u64> {
    Some(a? + b?)
}
