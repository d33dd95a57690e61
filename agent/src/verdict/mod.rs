//! The join of what the kernel did with what the proxy said. Pure: no input, no output, no clock.

mod report;
#[expect(clippy::module_inception, reason = "the folder's central type has the folder's name")]
mod verdict;

pub use report::{ListenerReport, NetnsReport, ProxyReport, Report, TimeWaitReport};
pub use verdict::{Cause, Confidence, Verdict};
