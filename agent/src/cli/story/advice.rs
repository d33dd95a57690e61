//! What to change, and what not to touch.

use std::fmt::Write;

use super::paragraph;
use crate::{printable::printable, verdict::Diagnosis};

pub(super) fn tell(out: &mut String, diagnosis: &Diagnosis) -> std::fmt::Result {
    if !diagnosis.advice.is_empty() {
        writeln!(out, "\nWHAT TO CHANGE, in this order:")?;
    }
    for (number, step) in diagnosis.advice.iter().enumerate() {
        paragraph(out, &format!("\n{:>2}. ", number + 1), "    ", &step.what)?;
        paragraph(out, "    ", "    ", &step.why)?;
        let heads = if step.now.is_empty() { ["", ""] } else { ["now:", "permanently:"] };
        for (head, commands) in heads.into_iter().zip([&step.now, &step.commands]) {
            if !head.is_empty() && !commands.is_empty() {
                writeln!(out, "    {head}")?;
            }
            for command in commands {
                writeln!(out, "      {}", printable(command))?;
            }
        }
    }
    if !diagnosis.avoid.is_empty() {
        writeln!(out, "\nWHAT NOT TO CHANGE:")?;
    }
    for line in &diagnosis.avoid {
        paragraph(out, "  - ", "    ", line)?;
    }
    Ok(())
}
