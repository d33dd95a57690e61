//! What a command prints, made printable: the only place of the library that writes to a terminal.

use std::io::{Write, stderr, stdout};

use anyhow::{Context, Result};
use serde::Serialize;

use crate::printable::{json, json_pretty, printable, printable_lines};

/// ECMA-48: home, and clear from there on.
const CLEAR: &str = "\x1b[H\x1b[J";

/// Prints text on standard output. That may be a full disk or a pipe that nobody reads any more: then the
/// command has failed, and says so as of any other failure.
pub(super) fn print(text: &str) -> Result<()> {
    write(&printable_lines(text))
}

/// Prints text with colours, whose foreign parts were made printable before the colours came in.
pub(super) fn print_coloured(text: &str) -> Result<()> {
    write(text)
}

/// Prints an object for a program that is also read by people.
pub(super) fn print_json(object: &impl Serialize) -> Result<()> {
    write(&format!("{}\n", json_pretty(object)?))
}

pub(super) fn print_json_line(object: &impl Serialize) -> Result<()> {
    write(&format!("{}\n", json(object)?))
}

pub(super) fn clear_screen() -> Result<()> {
    write(CLEAR)
}

/// Says a line on standard error, whatever becomes of it.
pub fn say(line: &str) {
    let _ = writeln!(stderr().lock(), "{}", printable(line));
}

fn write(text: &str) -> Result<()> {
    let mut out = stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("writing to standard output")
}
