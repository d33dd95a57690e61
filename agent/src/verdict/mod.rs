//! The join of what the kernel did with what the proxy said. Pure: no input, no output, no clock.

mod advice;
mod cause;
mod evidence;
mod join;
mod ledger;
mod peers;
mod report;
#[expect(clippy::module_inception, reason = "the folder's central type has the folder's name")]
mod verdict;

pub use advice::{Step, advice};
pub use cause::in_words;
pub use join::{Correlator, LONGEST_ATTEMPT, SETTLE};
pub use ledger::{KernelSide, Ledger, VerdictKind};
pub use report::{ListenerReport, NetnsReport, ProxyReport, Report};
pub use verdict::{Cause, Confidence, Verdict};
