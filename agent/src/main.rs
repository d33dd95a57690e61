//! The `floodmark` command.

use std::process::ExitCode;

use floodmark::cli::{self, UNABLE};

fn main() -> ExitCode {
    match cli::command_line().and_then(cli::run) {
        Ok(code) => code,
        Err(error) => match error.downcast::<clap::Error>() {
            // Says how to use the command, or prints the help that was asked for.
            Ok(error) => error.exit(),
            Err(error) => {
                // One line: the chain of contexts, outermost first.
                eprintln!("floodmark: {error:#}");
                ExitCode::from(UNABLE)
            }
        },
    }
}
