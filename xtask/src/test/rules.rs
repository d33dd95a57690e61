//! The rules for Prometheus, judged by promtool: what is right, what fires and what does not.

use std::process::Command;

use anyhow::Result;

use crate::place;

/// Checks every file of rules, then plays their tests.
pub fn command() -> Result<Command> {
    let mut command = Command::new("sh");
    command
        .args([
            "-ec",
            "promtool check rules ./*.rules.yml
             promtool check config prometheus.yml
             amtool check-config alertmanager.yml
             promtool test rules ./*.test.yml",
        ])
        .current_dir(place::workspace().join("deploy/prometheus"))
        .env("PATH", place::path_with_tools()?);
    Ok(command)
}
