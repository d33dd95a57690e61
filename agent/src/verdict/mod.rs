//! The join of what the kernel did with what the proxy said. Pure: no input, no output, no clock.

mod advice;
mod attempt;
mod attempts;
mod cause;
mod cycle;
mod diagnosis;
mod evidence;
mod finding;
mod flow;
mod growth;
mod impediment;
mod join;
mod judge;
mod keepalive;
mod ledger;
mod markings;
mod paths;
mod peers;
mod report;
mod search;
#[expect(clippy::module_inception, reason = "the folder's central type has the folder's name")]
mod verdict;
mod whatif;
mod words;

pub use advice::{Change, Step, advice, avoid, description};
pub use attempt::LONGEST_ATTEMPT;
pub use cycle::Cycle;
pub use diagnosis::{Asked, Diagnosis, ListenerWhatIf, Question};
pub use evidence::Place;
pub use finding::{Finding, Harm, findings};
pub use flow::{Flow, FlowSlot, SLOT_MS};
pub use growth::Growth;
pub use impediment::{Detail, Impediment, ImpedimentReport, StallReport};
pub use join::{Correlator, HORIZON, SETTLE};
pub use judge::{Heard, Inputs, Judge, Outcome, Totals};
pub use keepalive::{LinkReport, Links, Sizing, sizings};
pub use ledger::{
    Accounts, KernelSide, LastVerdict, Ledger, ProxyAccounts, Stalls, VERDICTS_KEPT, VerdictKind,
};
pub use report::{BlindSpot, ListenerReport, NetnsReport, ProxyReport, Report};
pub use verdict::{Cause, Confidence, EvidenceHealth, Verdict};
pub use whatif::{Rate, Replay, Replayed, WhatIf};
pub use words::in_words;
