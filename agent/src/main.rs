//! The `floodmark` command.

use std::process::ExitCode;

use floodmark::cli::{self, UNABLE};

fn main() -> ExitCode {
    match cli::command_line().and_then(cli::run) {
        Ok(code) => code,
        Err(error) => match error.downcast::<clap::Error>() {
            Ok(error) => match cli::usage_error(&error) {
                Some(line) => unable(&line),
                // Prints the help that was asked for.
                None => error.exit(),
            },
            // One line: the chain of contexts, outermost first.
            Err(error) => unable(&format!("{error:#}")),
        },
    }
}

fn unable(line: &str) -> ExitCode {
    cli::say(&format!("floodmark: {line}"));
    ExitCode::from(UNABLE)
}
