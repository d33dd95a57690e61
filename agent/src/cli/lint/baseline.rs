//! Findings that are known and left for later: a file holds them, and only new ones are reported.

use std::{collections::HashMap, path::Path};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::{
    lint::{Report, finding::Finding, root::LARGEST, text::Texts},
    untrusted_file,
};

/// The file: one entry for each finding.
#[derive(Debug, Default, Deserialize, Serialize)]
pub struct Baseline {
    findings: Vec<Known>,
}

/// A finding, told apart by what stands on its line, wherever that has moved to.
#[derive(Clone, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
struct Known {
    rule: String,
    file: String,
    line: String,
}

impl Known {
    fn of(finding: &Finding, texts: &Texts) -> Self {
        let file = finding.place.file;
        let (line, _) = texts.line_and_column(file, finding.place.start);
        let text = &texts.get(file).text[texts.lines(file, line, line)];
        Self {
            rule: finding.rule.id.to_owned(),
            file: texts.get(file).path.clone(),
            line: text.trim().to_owned(),
        }
    }
}

impl Baseline {
    /// All findings of a report.
    pub fn of(report: &Report) -> Self {
        let findings = report.findings.iter().map(|finding| Known::of(finding, &report.texts));
        Self { findings: findings.collect() }
    }

    /// Reads what `--print-baseline` printed.
    ///
    /// # Errors
    ///
    /// When the file cannot be read or is nothing of the kind.
    pub fn read(path: &Path) -> Result<Self> {
        let read = || -> Result<Self> {
            let bytes = untrusted_file::read(path, LARGEST)?;
            Ok(serde_json::from_slice(&bytes)?)
        };
        read().with_context(|| {
            format!("{} is no baseline; --print-baseline prints one", path.display())
        })
    }

    /// Leaves out the findings it knows, each as often as it knows it; returns how many.
    pub fn apply(self, report: &mut Report) -> usize {
        let mut known: HashMap<Known, usize> = HashMap::new();
        for finding in self.findings {
            *known.entry(finding).or_default() += 1;
        }
        let Report { findings, texts, .. } = report;
        let before = findings.len();
        findings.retain(|finding| match known.get_mut(&Known::of(finding, texts)) {
            Some(count) if *count > 0 => {
                *count -= 1;
                false
            }
            _ => true,
        });
        before - findings.len()
    }
}
