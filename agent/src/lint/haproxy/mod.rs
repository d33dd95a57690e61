//! HAProxy's configuration.

mod log_format;
pub mod rules;
mod section;

use anyhow::{Result, ensure};
pub use log_format::log_formats;

use super::{
    finding::Finding,
    text::{FileId, Texts},
};

/// Applies every rule to files that one HAProxy reads, in this order.
///
/// # Errors
///
/// When they have no section of HAProxy's at all.
pub fn check(files: &[FileId], texts: &Texts) -> Result<Vec<Finding>> {
    let configuration = section::read(files, texts);
    ensure!(
        !configuration.sections.is_empty(),
        "{}: no section of HAProxy's (global, defaults, frontend, backend, listen) in it",
        files.first().map_or("nothing", |file| &texts.get(*file).path)
    );
    Ok(rules::check(&configuration, texts))
}
