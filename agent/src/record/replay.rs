//! A recording gone through by the code that runs live.

use std::{collections::BTreeMap, io::Read, time::Duration};

use anyhow::{Context, Result, ensure};

use super::{
    block::Header,
    entry::{Entry, Tick},
    reader::{Damage, Reader},
    state::State,
};
use crate::{
    clock::ClockSteps,
    kernel::Standing,
    proxy::EventKind,
    time::{UnixMs, Window},
    verdict::{Inputs, Judge, Report, Totals, Verdict},
};

/// What is said where there is nothing to go through.
const NOTHING: &str = "nothing of this recording can be read: its first block is damaged or cut off, \
                       and no later one stands by itself";
/// Most listeners, namespaces, services and the like in the state that a recording leads to.
const MOST_ITEMS: usize = 250_000;
/// What is said where there are more.
const TOO_MANY: &str = "this recording has more than 250,000 listeners, namespaces, addresses and \
                        services at once, which floodmark does not record: it is damaged or forged";
/// Differing verdicts kept to be shown.
const DIFFERENCES: usize = 20;
/// How far back "no live upstreams" may reach for its causes.
const LONGEST_REACH: Duration = Duration::from_secs(600);

/// What came of a replay.
#[derive(Debug)]
pub struct Replay {
    /// What the file says of itself. All times are by the wall clock as it was set at the end.
    pub header: Header,
    /// The same as if watched live.
    pub report: Report,
    /// How each signal was had.
    pub standings: Vec<Standing>,
    /// The agent's own troubles since its start, by name.
    pub troubles: BTreeMap<String, u64>,
    /// Whether the verdicts are those that were come to live.
    pub comparison: Comparison,
    /// What the file lacks.
    pub damage: Damage,
    /// Whether it begins later than the agent began to watch.
    pub begins_late: bool,
    /// The steps of the wall clock.
    pub clock: ClockSteps,
}

/// Verdicts come to live, beside those come to now.
#[derive(Clone, Debug, Default)]
pub struct Comparison {
    /// Verdicts that are the same.
    pub same: u64,
    /// Verdicts that rest on what happened before the recording begins, and so may differ.
    pub before: u64,
    /// Verdicts that differ.
    pub differing: u64,
    /// Some of these: live, and now.
    pub differences: Vec<(Option<Verdict>, Option<Verdict>)>,
}

/// Goes through a recording; `on_tick` sees each tick with the state that it led to.
///
/// # Errors
///
/// When the file cannot be read, or not one of its blocks can.
pub fn replay<R: Read>(
    mut reader: Reader<R>,
    mut on_tick: impl FnMut(&Tick, &State),
) -> Result<Replay> {
    let mut course: Option<Course> = None;
    while let Some(block) = reader.next_block()? {
        for entry in block.entries {
            match entry {
                Entry::Whole(changes) => {
                    let mut state = State::default();
                    state.apply(*changes);
                    ensure!(state.items() <= MOST_ITEMS, TOO_MANY);
                    match &mut course {
                        Some(course) => course.state = state,
                        None => course = Some(Course::begin(state)),
                    }
                }
                Entry::Tick(tick) => {
                    let Some(course) = &mut course else { continue };
                    course.tick(*tick, &mut on_tick)?;
                }
            }
        }
    }
    let (header, damage) = (reader.header().clone(), reader.damage().clone());
    let course = course.context(NOTHING)?;
    course.end(header, damage)
}

/// A replay under way.
struct Course {
    state: State,
    /// The counts at the beginning: what is reported is the growth.
    baseline: Totals,
    /// From the first tick on.
    judge: Option<Judge>,
    window: Window,
    comparison: Comparison,
    begins_late: bool,
}

impl Course {
    fn begin(state: State) -> Self {
        let baseline = state.totals();
        Self {
            begins_late: !baseline.kernel.is_empty(),
            state,
            baseline,
            judge: None,
            window: Window::default(),
            comparison: Comparison::default(),
        }
    }

    fn tick(&mut self, tick: Tick, on_tick: &mut impl FnMut(&Tick, &State)) -> Result<()> {
        let judge = self.judge.get_or_insert_with(|| {
            self.window.from = tick.sample.window.from;
            Judge::new(tick.sample.window.from)
        });
        self.window.to = tick.now;
        for heard in &tick.heard_before {
            judge.hear(heard, &self.state.inventory);
        }
        self.state.apply(tick.changes.clone());
        ensure!(self.state.items() <= MOST_ITEMS, TOO_MANY);
        let totals = self.state.totals().since(&self.baseline);
        let inputs = Inputs {
            now: tick.now,
            sample: &tick.sample,
            events: &tick.events.events(),
            heard: &tick.heard,
            hears_proxies: tick.hears_proxies,
            forgets: tick.forgets,
            is_last: tick.is_last,
            standings: &self.state.standings,
            totals: &totals,
            arrivals: &tick.arrivals,
            links: &tick.links,
            stalls: &tick.stalls,
            clock: &self.state.clock,
        };
        let outcome = judge.tick(&inputs, &self.state.inventory);
        let begin = self.begins_late.then_some(self.window.from);
        self.comparison.compare(&tick.verdicts, &outcome.verdicts, begin);
        on_tick(&tick, &self.state);
        Ok(())
    }

    fn end(mut self, mut header: Header, mut damage: Damage) -> Result<Replay> {
        let totals = self.state.totals().since(&self.baseline);
        let clock = self.state.clock;
        header.watching_since = clock.wall(header.watching_since);
        for gap in &mut damage.gaps {
            *gap = gap.shifted(clock.shift_ms);
        }
        self.comparison.shift(clock.shift_ms);
        let judge = self.judge.context(NOTHING)?;
        Ok(Replay {
            header,
            report: judge.report(
                self.window.to,
                &self.state.standings,
                &totals,
                &self.state.inventory,
            ),
            standings: self.state.standings,
            troubles: self.state.troubles,
            comparison: self.comparison,
            damage,
            begins_late: self.begins_late,
            clock,
        })
    }
}

impl Comparison {
    /// Whether no verdict differs.
    pub fn is_same(&self) -> bool {
        self.differing == 0
    }

    fn shift(&mut self, offset_ms: i64) {
        for (live, now) in &mut self.differences {
            for verdict in [live, now] {
                *verdict = verdict.take().map(|verdict| verdict.shifted(offset_ms));
            }
        }
    }

    /// `begin`: of a recording that begins after the agent did.
    fn compare(&mut self, live: &[Verdict], now: &[Verdict], begin: Option<UnixMs>) {
        for place in 0..live.len().max(now.len()) {
            let (live, now) = (live.get(place), now.get(place));
            if is_same(live, now) {
                self.same += 1;
            } else if begin.is_some_and(|begin| live.or(now).is_some_and(|v| reaches(v, begin))) {
                self.before += 1;
            } else {
                self.differing += 1;
                if self.differences.len() < DIFFERENCES {
                    self.differences.push((live.cloned(), now.cloned()));
                }
            }
        }
    }
}

/// Whether two verdicts say the same on the same evidence. Words may have been mended since, and
/// fields added that the recording's version did not know.
fn is_same(live: Option<&Verdict>, now: Option<&Verdict>) -> bool {
    let said = |verdict: &Verdict| {
        let conclusion = (verdict.cause, verdict.confidence, verdict.listener, verdict.is_exact);
        let evidence = (verdict.window, verdict.evidence, verdict.attribution, verdict.lead_ms);
        (verdict.event.clone(), conclusion, evidence, verdict.health.clone())
    };
    live.map(said) == now.map(said)
}

/// Whether a verdict rests on what happened before `begin`.
fn reaches(verdict: &Verdict, begin: UnixMs) -> bool {
    let is_group = verdict.event.kind == EventKind::NoLivePeers;
    verdict.window.from < begin || is_group && verdict.event.at.earlier(LONGEST_REACH) < begin
}
