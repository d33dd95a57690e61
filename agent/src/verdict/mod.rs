//! The join of what the kernel did with what the proxy said. Pure: no input, no output, no clock.

mod advice;
mod attempt;
mod attempts;
mod cause;
mod cycle;
mod evidence;
mod growth;
mod join;
mod judge;
mod ledger;
mod markings;
mod peers;
mod report;
mod search;
#[expect(clippy::module_inception, reason = "the folder's central type has the folder's name")]
mod verdict;
mod words;

pub use advice::{Step, advice};
pub use attempt::LONGEST_ATTEMPT;
pub use cycle::Cycle;
pub use evidence::Place;
pub use growth::Growth;
pub use join::{Correlator, SETTLE};
pub use judge::{Heard, Inputs, Judge, Outcome, Totals};
pub use ledger::{KernelSide, LastVerdict, Ledger, VerdictKind};
pub use report::{ListenerReport, NetnsReport, ProxyReport, Report};
pub use verdict::{Cause, Confidence, EvidenceHealth, Verdict};
pub use words::in_words;
