//! Of which source, by which compiler and by which command everything was made: an in-toto statement
//! (v1) with a SLSA provenance (v1). It has no date and no name of a machine, so that two builds of one
//! source make the same bytes; SHA256SUMS, which is signed, holds its digest.

use std::{collections::BTreeMap, fs, path::Path, process::Command};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{SUMS, Source, digests};
use crate::setup::dist::TARGET;

/// The statement's file.
pub const FILE: &str = "provenance.json";
const STATEMENT: &str = "https://in-toto.io/Statement/v1";
const PREDICATE: &str = "https://slsa.dev/provenance/v1";
const REPOSITORY: &str = env!("CARGO_PKG_REPOSITORY");

/// Writes the statement about all that is in `out`.
///
/// # Errors
///
/// When git or rustc fails, or a file cannot be read.
pub fn write(source: &Source, out: &Path) -> Result<()> {
    let subject: Vec<Value> = digests(out)?
        .into_iter()
        .map(|(name, digest)| json!({ "name": name, "digest": { "sha256": digest } }))
        .collect();
    let lock = digest_of(&source.tree.join("Cargo.lock"))?;
    let statement = json!({
        "_type": STATEMENT,
        "subject": subject,
        "predicateType": PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": format!("{REPOSITORY}/blob/main/docs/install.md"),
                "externalParameters": {
                    "repository": REPOSITORY,
                    "command": "cargo xtask dist",
                    "target": TARGET,
                },
                "internalParameters": {
                    "compiler": compiler(&source.tree)?,
                    "sourceDateEpoch": source.epoch,
                    "uncommittedChanges": source.has_changes()?,
                },
                "resolvedDependencies": [
                    {
                        "uri": format!("git+{REPOSITORY}"),
                        "digest": { "gitCommit": source.commit()? },
                    },
                    { "name": "Cargo.lock", "digest": { "sha256": lock } },
                ],
            },
            "runDetails": {
                "builder": { "id": format!("{REPOSITORY}/blob/main/xtask/src/dist.rs") },
            },
        },
    });
    let text = serde_json::to_string_pretty(&statement)? + "\n";
    fs::write(out.join(FILE), text).with_context(|| format!("write {FILE}"))
}

/// Holds the statement against the sums: it must name every other file, and no more, with its digest.
///
/// # Errors
///
/// When it does not.
pub fn check(out: &Path) -> Result<()> {
    let text = fs::read_to_string(out.join(FILE)).with_context(|| format!("read {FILE}"))?;
    let statement: Value = serde_json::from_str(&text).with_context(|| FILE.to_owned())?;
    ensure!(statement["_type"] == STATEMENT, "{FILE} is no in-toto statement");
    ensure!(statement["predicateType"] == PREDICATE, "{FILE} is no SLSA provenance");
    let subjects = statement["subject"].as_array().context("no subjects")?;
    let named: Option<BTreeMap<&str, &str>> = subjects
        .iter()
        .map(|subject| Some((subject["name"].as_str()?, subject["digest"]["sha256"].as_str()?)))
        .collect();
    let sums = fs::read_to_string(out.join(SUMS)).with_context(|| format!("read {SUMS}"))?;
    let summed: Option<BTreeMap<&str, &str>> =
        sums.lines().map(|line| line.split_once("  ").map(|(sum, name)| (name, sum))).collect();
    let mut summed = summed.with_context(|| format!("{SUMS} has a line without a name"))?;
    ensure!(summed.remove(FILE).is_some(), "{SUMS} does not hold {FILE}");
    ensure!(named == Some(summed), "the subjects of {FILE} are not the files of {SUMS}");
    Ok(())
}

/// Version and commit of the compiler that is used in `tree`.
fn compiler(tree: &Path) -> Result<String> {
    let output = Command::new("rustc").arg("--version").current_dir(tree).output();
    let output = output.context("start rustc")?;
    ensure!(output.status.success(), "rustc --version: {}", output.status);
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn digest_of(file: &Path) -> Result<String> {
    let output = Command::new("sha256sum").arg(file).output().context("start sha256sum")?;
    let said = String::from_utf8_lossy(&output.stdout);
    let digest = said.split_whitespace().next().filter(|digest| digest.len() == 64);
    Ok(digest.with_context(|| format!("no digest of {}", file.display()))?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::{super::checksums, *};

    #[test]
    fn every_file_is_a_subject_and_a_changed_one_is_found() {
        let out = tempfile::tempdir().unwrap();
        fs::write(out.path().join("floodmark"), "program").unwrap();
        fs::write(out.path().join("floodmark.deb"), "package").unwrap();
        write(&Source::here().unwrap(), out.path()).unwrap();
        checksums(out.path()).unwrap();
        check(out.path()).unwrap();
        super::super::verify_sums(out.path()).unwrap();
        fs::write(out.path().join("floodmark"), "Program").unwrap();
        assert!(super::super::verify_sums(out.path()).is_err(), "a byte has changed");
        checksums(out.path()).unwrap();
        assert!(check(out.path()).is_err(), "the statement is of another program");
    }
}
