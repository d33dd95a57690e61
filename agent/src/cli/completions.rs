//! `floodmark completions`: scripts for shells.

use std::{io::stdout, process::ExitCode};

use anyhow::Result;
use clap::{Args, CommandFactory};
use clap_complete::{Shell, generate};

use super::{Cli, HEALTHY};

/// Arguments of `floodmark completions`.
#[derive(Debug, Args)]
pub(super) struct CompletionsArgs {
    /// For which shell
    #[arg(value_enum)]
    shell: Shell,
}

/// Prints the script.
pub(super) fn completions(args: &CompletionsArgs) -> Result<ExitCode> {
    generate(args.shell, &mut Cli::command(), "floodmark", &mut stdout());
    Ok(ExitCode::from(HEALTHY))
}
