//! What in a proxy's configuration brings the incident about: connections that are not used again,
//! peers that are given up for too little, timeouts that hide a loss, logs that do not tell.
//!
//! Files come in by [`root`] or [`running`], places in them are kept by [`text`]; each proxy has a
//! module that reads its format and one that applies its rules.

pub mod envoy;
pub mod finding;
pub mod haproxy;
pub mod kind;
pub mod nginx;
pub mod root;
pub mod running;
mod suppress;
pub mod text;

use std::path::{Path, PathBuf};

use anyhow::Result;

use self::{
    finding::{Facts, Finding, Format, Rule},
    nginx::Loaded,
    root::Root,
    text::Texts,
};

/// What came of looking.
#[derive(Default)]
pub struct Report {
    /// The files that were read.
    pub texts: Texts,
    /// What was found, by file and line.
    pub findings: Vec<Finding>,
    /// What a comment allows, each with its reason.
    pub suppressed: Vec<(Finding, String)>,
    /// What could not be read although the configuration includes it.
    pub missing: Vec<String>,
    /// What is no configuration, each with file and line.
    pub broken: Vec<String>,
}

impl Report {
    /// Reads the configuration in `bytes`, which stood at `path` below `root`, and applies the rules.
    ///
    /// # Errors
    ///
    /// When it is no configuration of this format: with file and line.
    pub fn look(
        &mut self,
        format: Format,
        root: &Root,
        path: &Path,
        bytes: &[u8],
        facts: &Facts,
    ) -> Result<()> {
        let found = match format {
            Format::Nginx => {
                let loaded = match nginx::from_dump(bytes, &mut self.texts) {
                    Some(loaded) => loaded?,
                    None => nginx::from_root(root, path, bytes, &mut self.texts)?,
                };
                let Loaded { missing, broken, .. } = &loaded;
                self.missing.extend(missing.iter().cloned());
                self.broken.extend(broken.iter().cloned());
                nginx::check(&loaded, &self.texts, facts)
            }
            Format::Haproxy => {
                let file = self.texts.add(path, bytes);
                haproxy::check(&[file], &self.texts)?
            }
            Format::Envoy => {
                let file = self.texts.add(path, bytes);
                envoy::check(file, &self.texts, facts)?
            }
        };
        self.keep(found);
        Ok(())
    }

    /// Reads what one HAProxy is given in parts, in this order, and applies the rules.
    ///
    /// # Errors
    ///
    /// When there is no section of HAProxy's in them.
    pub fn look_at_parts(&mut self, parts: &[(PathBuf, Vec<u8>)]) -> Result<()> {
        let files: Vec<_> = parts.iter().map(|(path, bytes)| self.texts.add(path, bytes)).collect();
        let found = haproxy::check(&files, &self.texts)?;
        self.keep(found);
        Ok(())
    }

    fn keep(&mut self, mut found: Vec<Finding>) {
        // One line may be included, or passed by, many times.
        found.sort_by(|a, b| (&a.place, a.rule.id).cmp(&(&b.place, b.rule.id)));
        found.dedup_by(|a, b| a.place == b.place && a.rule == b.rule && a.message == b.message);
        let (suppressed, found) = suppress::by_comments(found, &self.texts, &mut self.missing);
        self.findings.extend(found);
        self.suppressed.extend(suppressed);
    }
}

/// Every rule there is.
pub fn rules() -> impl Iterator<Item = &'static Rule> {
    [&nginx::rules::ALL[..], &haproxy::rules::ALL[..], &envoy::rules::ALL[..]]
        .into_iter()
        .flatten()
        .copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_rules_are_their_own() {
        let mut names: Vec<_> = rules().map(|rule| rule.id).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
        assert!(rules().all(|rule| rule.id.starts_with(rule.format.name())));
    }
}
