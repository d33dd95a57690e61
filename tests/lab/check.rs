//! One thing that must hold, and how it is told.

use std::fmt;

use serde::Serialize;

/// A limit, and what was seen.
#[derive(Debug, Serialize)]
pub(crate) struct Check {
    limit: String,
    seen: String,
    /// Whether it was kept.
    pub holds: bool,
}

impl Check {
    /// A quantity that must not exceed its limit.
    pub(crate) fn at_most(what: &str, unit: &str, seen: f64, limit: f64) -> Self {
        Self {
            limit: format!("{what} at most {limit} {unit}"),
            seen: format!("{seen:.1} {unit}"),
            holds: seen <= limit,
        }
    }

    /// Something that must be true.
    pub(crate) fn that(limit: impl Into<String>, holds: bool, seen: impl Into<String>) -> Self {
        Self { limit: limit.into(), seen: seen.into(), holds }
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = if self.holds { "ok  " } else { "FAIL" };
        write!(f, "  {word} {:<48} {}", self.limit, self.seen)
    }
}
