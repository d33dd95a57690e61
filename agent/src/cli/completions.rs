//! `floodmark completions`: scripts for shells.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, CommandFactory};
use clap_complete::{Shell, generate};

use super::{Cli, HEALTHY, output::print};

/// Arguments of `floodmark completions`.
#[derive(Debug, Args)]
pub(super) struct CompletionsArgs {
    /// Shell to print the script for
    #[arg(value_enum)]
    shell: Shell,
}

/// Prints the script.
pub(super) fn completions(args: &CompletionsArgs) -> Result<ExitCode> {
    let mut script = Vec::new();
    generate(args.shell, &mut Cli::command(), "floodmark", &mut script);
    print(&String::from_utf8_lossy(&script))?;
    Ok(ExitCode::from(HEALTHY))
}
