//! `cargo xtask supply`: what is depended on.

use std::{
    fs,
    path::PathBuf,
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context, Result};

use crate::{
    place,
    setup::supply::{self, tool},
    step,
};

/// A mirror that does not answer is not waited for longer, in seconds.
const PATIENCE: &str = "60";

/// Check licences, sources, bans, yanked versions and known vulnerabilities of all dependencies.
#[derive(clap::Args)]
pub struct Args {
    /// Fail if the database of vulnerabilities cannot be fetched, instead of skipping that check.
    #[arg(long)]
    advisories: bool,
}

/// Runs the verb.
///
/// # Errors
///
/// When a tool cannot be installed.
pub fn main(args: &Args) -> Result<ExitCode> {
    supply::ensure()?;
    let (mut passed, mut skipped, mut failed) = (0, 0, 0);
    let mut check = |what: &str, command: &mut Command| -> Result<()> {
        let holds = command.status().context("start a tool")?.success();
        println!("{} {what}", if holds { "ok     " } else { "FAILED " });
        *(if holds { &mut passed } else { &mut failed }) += 1;
        Ok(())
    };
    let denied = ["check", "--allow", "duplicate", "licenses", "bans", "sources"];
    check("cargo deny: licences, bans, sources", tool("cargo-deny").args(denied))?;
    if args.advisories || fetched()? {
        let mut deny = tool("cargo-deny");
        check("cargo deny: known vulnerabilities", deny.args(["check", "advisories"]))?;
        let mut audit = tool("cargo-audit");
        let what = "cargo audit: known vulnerabilities, withdrawn versions";
        check(what, audit.args(["audit", "--deny", "warnings"]))?;
    } else {
        let withdrawn = ["audit", "--deny", "warnings", "--no-fetch", "--stale", "--db"];
        let mut audit = tool("cargo-audit");
        check("cargo audit: withdrawn versions", audit.args(withdrawn).arg(no_advisories()?))?;
        println!("skipped known vulnerabilities: their database cannot be fetched from here");
        skipped = 1;
    }
    println!("{passed} passed, {skipped} skipped, {failed} failed");
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Whether the database of vulnerabilities is to be had.
fn fetched() -> Result<bool> {
    let deny = tool("cargo-deny");
    let mut fetch = Command::new("timeout");
    fetch.arg(PATIENCE).arg(deny.get_program()).args(["fetch", "db"]);
    let fetch = fetch.current_dir(place::workspace()).stdout(Stdio::null()).stderr(Stdio::null());
    Ok(fetch.status().context("start timeout(1)")?.success())
}

/// A database without an advisory: what was withdrawn, the crate registry itself tells.
fn no_advisories() -> Result<PathBuf> {
    let empty = place::target("tools/no-advisories");
    if !empty.join(".git/HEAD").exists() {
        let crates = empty.join("crates");
        fs::create_dir_all(&crates).with_context(|| format!("create {}", crates.display()))?;
        let own = ["-c", "user.name=floodmark", "-c", "user.email=floodmark@floodmark.invalid"];
        let commit = ["commit", "--quiet", "--allow-empty", "--message=None"];
        for arguments in [&["init", "--quiet"][..], &[&own[..], &commit].concat()] {
            let mut git = Command::new("git");
            step::must("supply: no advisories", "", git.args(arguments).current_dir(&empty))?;
        }
    }
    Ok(empty)
}
