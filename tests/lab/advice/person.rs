//! The person whom some advice takes.

use std::process::Command;

use anyhow::{Context, Result};
use floodmark::verdict::Step;

use super::{case::Case, obstacle::Obstacle, stage::Stage};
use crate::verdicts::behave::Mode;

/// Does what a person would who reads the step: runs its commands, takes away what they show, and has
/// the application do its work. Whether the commands show what was to be found.
pub(super) fn takes(case: &Case, step: &Step, stage: &mut Stage) -> Result<bool> {
    let is_shown = match case.obstacle.map(Obstacle::sign) {
        Some(Some(sign)) => shown(&step.commands)?.contains(sign),
        Some(None) | None => !step.commands.is_empty(),
    };
    if let Some(obstacle) = case.obstacle {
        stage.take_away(obstacle)?;
    }
    // What nothing is wrong with goes on as it is.
    if case.obstacle.is_none() || case.mode.is_none() {
        stage.start_app(Mode::Fine, case.backlog)?;
    }
    Ok(is_shown)
}

/// What the commands print, each within a few seconds: some watch until they are interrupted.
fn shown(commands: &[String]) -> Result<String> {
    let mut printed = String::new();
    for command in commands {
        let output = Command::new("timeout").args(["3", "sh", "-c", command]).output();
        let output = output.context("running timeout (package coreutils)")?;
        printed.push_str(&String::from_utf8_lossy(&output.stdout));
    }
    Ok(printed)
}
