//! What to change, and what not to touch.

use std::fmt::Write;

use super::{paragraph, plain};
use crate::verdict::Diagnosis;

/// Tells it.
pub(super) fn tell(out: &mut String, diagnosis: &Diagnosis) -> std::fmt::Result {
    if !diagnosis.advice.is_empty() {
        writeln!(out, "\nWHAT TO CHANGE, in this order:")?;
    }
    for (number, step) in diagnosis.advice.iter().enumerate() {
        paragraph(out, &format!("\n{:>2}. ", number + 1), "    ", &plain(&step.what))?;
        paragraph(out, "    ", "    ", &plain(&step.why))?;
        for command in &step.commands {
            writeln!(out, "      {}", plain(command))?;
        }
    }
    if !diagnosis.avoid.is_empty() {
        writeln!(out, "\nWHAT NOT TO TOUCH:")?;
    }
    for line in &diagnosis.avoid {
        paragraph(out, "  - ", "    ", line)?;
    }
    Ok(())
}
