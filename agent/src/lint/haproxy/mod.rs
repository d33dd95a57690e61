//! HAProxy's configuration.

mod log_format;
pub mod rules;
mod section;

use anyhow::{Result, bail, ensure};
pub use log_format::log_formats;
pub use section::begins;

use super::{
    finding::Finding,
    kind,
    text::{FileId, TextFile, Texts},
};

/// Applies every rule to files that one HAProxy reads, in this order.
///
/// # Errors
///
/// When they have no section of HAProxy's at all, or are a template.
pub fn check(files: &[FileId], texts: &Texts) -> Result<Vec<Finding>> {
    for file in files {
        let TextFile { path, text, .. } = texts.get(*file);
        if let Some(kind) = kind::template(text) {
            bail!("{path}: {kind}");
        }
    }
    let configuration = section::read(files, texts);
    ensure!(
        !configuration.sections.is_empty(),
        "{}: not a configuration of HAProxy: it has no section such as global, defaults or backend",
        files.first().map_or("nothing", |file| &texts.get(*file).path)
    );
    Ok(rules::check(&configuration, texts))
}
