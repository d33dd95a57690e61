//! What a command prints on standard output. That may be a full disk or a pipe that nobody reads any
//! more: then the command has failed, and says so as of any other failure.

use std::io::{Write, stdout};

use anyhow::{Context, Result};
use serde::Serialize;

/// Prints text as it is.
pub(super) fn print(text: &str) -> Result<()> {
    let mut out = stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("writing to standard output")
}

/// Prints an object for a program that is also read by people.
pub(super) fn print_json(object: &impl Serialize) -> Result<()> {
    print(&format!("{}\n", serde_json::to_string_pretty(object)?))
}
