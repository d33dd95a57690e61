//! HAProxy's configuration.

pub mod rules;
mod section;

use anyhow::{Result, ensure};

use super::{
    finding::Finding,
    text::{FileId, Texts},
};

/// Applies every rule to a file.
///
/// # Errors
///
/// When the file has no section of HAProxy's at all.
pub fn check(file: FileId, texts: &Texts) -> Result<Vec<Finding>> {
    let configuration = section::read(file, &texts.get(file).text);
    ensure!(
        !configuration.sections.is_empty(),
        "{}: no section of HAProxy's (global, defaults, frontend, backend, listen) in it",
        texts.get(file).path
    );
    Ok(rules::check(&configuration, texts))
}
