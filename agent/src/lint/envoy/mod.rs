//! Envoy's bootstrap and cluster files, YAML or JSON.

pub mod rules;
mod yaml;

use anyhow::Result;

use super::{
    finding::Finding,
    text::{FileId, Texts},
};

/// Applies every rule to a file.
///
/// # Errors
///
/// When the file is no YAML (JSON is): with its line.
pub fn check(file: FileId, texts: &Texts) -> Result<Vec<Finding>> {
    let documents = yaml::read(file, texts)?;
    Ok(documents.iter().flat_map(|document| rules::check(document, texts)).collect())
}
