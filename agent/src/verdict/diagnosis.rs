//! A report with what follows from it: the object that `floodmark diagnose --json` prints, and all
//! that its story tells. docs/diagnose.md describes it.

use serde::{Deserialize, Serialize};

use super::{
    advice::{Step, advice, avoid},
    finding::{Finding, findings},
    keepalive::{Sizing, sizings},
    report::Report,
    whatif::{Rate, Replay, Replayed, WhatIf},
};
use crate::kernel::ListenerId;

/// Version of the object; a field that is taken away or changes its meaning makes it another.
const SCHEMA: u32 = 1;

/// A report and what follows from it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Diagnosis {
    /// Version of this object.
    pub schema: u32,
    /// Whether nothing is wrong.
    pub healthy: bool,
    /// How long was to be watched, in milliseconds; `window` says how long it was. None for a recording.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked_ms: Option<u64>,
    /// What is wrong, worst first.
    pub findings: Vec<Finding>,
    /// What to change, in this order.
    pub advice: Vec<Step>,
    /// What not to touch.
    pub avoid: Vec<String>,
    /// Of each overflowing listener: which queue, or which accept rate, would have lost nothing.
    pub what_if: Vec<ListenerWhatIf>,
    /// Of each busy client: how many idle connections it should keep.
    pub keepalive: Vec<Sizing>,
    /// The evidence.
    #[serde(flatten)]
    pub report: Report,
}

/// What another limit would have come to at one listener.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ListenerWhatIf {
    /// The listener whose arrivals were replayed.
    pub listener: ListenerId,
    /// Its present limit, in connections.
    pub limit: u32,
    /// What the replay makes of that: a check on the replay.
    pub as_is: Replayed,
    /// What would have lost nothing.
    pub answer: WhatIf,
    /// The answer to `--what-if`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<Asked>,
}

/// Another limit and rate, and what the replay makes of them.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Asked {
    /// The replayed limit, in connections.
    pub backlog: u32,
    /// The replayed accept rate.
    pub accept_rate: Rate,
    /// What it came to.
    pub outcome: Replayed,
}

/// A question: another backlog, another accept rate, or both.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Question {
    /// None: as it is.
    pub backlog: Option<u32>,
    /// As measured, unless said.
    pub accept_rate: Rate,
}

impl Diagnosis {
    /// Concludes.
    pub fn of(report: &Report, question: Option<Question>) -> Self {
        let findings = findings(report);
        Self {
            schema: SCHEMA,
            asked_ms: None,
            healthy: findings.is_empty(),
            advice: advice(report, &findings),
            avoid: avoid(&findings),
            what_if: what_if(report, question),
            keepalive: sizings(&report.links),
            findings,
            report: report.clone(),
        }
    }

    /// Leaves out what only the replay needs and nobody reads.
    pub fn without_flows(mut self) -> Self {
        self.report.listeners.iter_mut().for_each(|listener| listener.flow = None);
        self
    }
}

fn what_if(report: &Report, question: Option<Question>) -> Vec<ListenerWhatIf> {
    let replayed = report.listeners.iter().filter_map(|listener| {
        let replay = Replay::of(listener.flow.as_deref()?)?;
        let limit = listener.listener.queue.limit;
        let asked = question.map(|Question { backlog, accept_rate }| {
            let backlog = backlog.unwrap_or(limit);
            Asked { backlog, accept_rate, outcome: replay.play(backlog, accept_rate) }
        });
        Some(ListenerWhatIf {
            listener: listener.listener.id,
            limit,
            as_is: replay.play(limit, Rate::Measured),
            answer: replay.answer(limit),
            asked,
        })
    });
    replayed.collect()
}
