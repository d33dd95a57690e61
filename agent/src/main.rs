//! The `floodmark` command.

use std::process::ExitCode;

use clap::Parser;
use floodmark::cli::{Cli, UNABLE};

fn main() -> ExitCode {
    match floodmark::cli::run(Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            // One line: the chain of contexts, outermost first.
            eprintln!("floodmark: {error:#}");
            ExitCode::from(UNABLE)
        }
    }
}
