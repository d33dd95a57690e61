//! `cargo xtask dist`: what is shipped.

mod build;
mod image;
mod machine;
mod provenance;
mod signature;
mod trial;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context, Result, ensure};

use crate::{
    place,
    setup::{self, Group, dist::TARGET},
    step,
};
use build::Source;

/// The digests of all that is shipped.
const SUMS: &str = "SHA256SUMS";

/// Build the release in target/dist/out: a static program, a Debian package, a container image, a bill of
/// materials, a provenance and checksums.
#[derive(clap::Args)]
pub struct Args {
    /// Build a second time, from a clone in another directory, and compare every byte; sign the checksums
    /// with a test key and verify the signature.
    #[arg(long)]
    check: bool,
    /// Install the package into a fresh Debian 12, run the agent there, and remove it.
    #[arg(long = "try")]
    try_it: bool,
    /// Do the same on a Debian 12 with systemd and Debian's kernel, in a virtual machine.
    #[arg(long)]
    try_systemd: bool,
    /// Use the last build instead of building.
    #[arg(long, conflicts_with = "check")]
    no_build: bool,
    /// Sign SHA256SUMS with this OpenSSH key: the file of a private key, or of the public key of one in
    /// ssh-agent. Default: FLOODMARK_SIGNING_KEY in the environment; without a key, do not sign.
    #[arg(long, value_name = "FILE")]
    signing_key: Option<PathBuf>,
}

/// Runs the verb.
///
/// # Errors
///
/// When something needed cannot be installed, a build fails, or two builds differ.
pub fn main(args: &Args) -> Result<ExitCode> {
    setup::ensure(&[Group::Build, Group::Dist])?;
    let out = place::target("dist/out");
    if !args.no_build {
        make(&Source::here()?, &out)?;
    }
    if args.check {
        let again = Source::clone_of_head(&place::target("dist/again"))?;
        let other = place::target("dist/out-again");
        make(&again, &other)?;
        compare(&out, &other)?;
    }
    provenance::check(&out)?;
    verify_sums(&out)?;
    if args.check {
        signature::check(&out)?;
    }
    let key = || env::var_os("FLOODMARK_SIGNING_KEY").map(PathBuf::from);
    if let Some(key) = args.signing_key.clone().or_else(key) {
        ensure!(!Source::here()?.has_changes()?, "commit first; a release is of a commit");
        signature::sign(&out, &key)?;
    }
    if args.try_it {
        trial::run(&package(&out)?)?;
    }
    if args.try_systemd {
        machine::run(&package(&out)?)?;
    }
    for name in names(&out)? {
        println!("{}", out.join(name).display());
    }
    Ok(ExitCode::SUCCESS)
}

/// Makes everything of one source.
fn make(source: &Source, out: &Path) -> Result<()> {
    if out.exists() {
        fs::remove_dir_all(out).with_context(|| format!("remove {}", out.display()))?;
    }
    fs::create_dir_all(out).with_context(|| format!("create {}", out.display()))?;
    let program = source.program()?;
    ensure!(is_static(&program)?, "{} needs an interpreter", program.display());
    fs::copy(&program, out.join(format!("floodmark-{TARGET}"))).context("copy the program")?;
    source.package(&program, out)?;
    source.bill_of_materials(out)?;
    image::write(&program, source, out)?;
    provenance::write(source, out)?;
    checksums(out)
}

/// An ELF file without an interpreter needs no libraries of its host.
fn is_static(program: &Path) -> Result<bool> {
    let output =
        Command::new("readelf").args(["--program-headers", "--wide"]).arg(program).output();
    let headers = output.context("start readelf, of Debian's binutils")?.stdout;
    Ok(!String::from_utf8_lossy(&headers).contains("INTERP"))
}

/// Names and digests of the files in `out`.
fn digests(out: &Path) -> Result<Vec<(String, String)>> {
    let sums = Command::new("sha256sum").args(names(out)?).current_dir(out).output()?;
    ensure!(sums.status.success(), "sha256sum: {}", sums.status);
    let text = String::from_utf8(sums.stdout).context("sha256sum")?;
    let lines = text.lines().filter_map(|line| line.split_once("  "));
    Ok(lines.map(|(digest, name)| (name.to_owned(), digest.to_owned())).collect())
}

fn checksums(out: &Path) -> Result<()> {
    let sums = digests(out)?.into_iter().filter(|(name, _)| name != SUMS);
    let text: String = sums.map(|(name, digest)| format!("{digest}  {name}\n")).collect();
    fs::write(out.join(SUMS), text).with_context(|| format!("write {SUMS}"))
}

fn verify_sums(out: &Path) -> Result<()> {
    let mut check = Command::new("sha256sum");
    let output = check.args(["--check", "--strict", "--quiet", SUMS]).current_dir(out).output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "{SUMS}: {}", said.trim());
    Ok(())
}

fn compare(one: &Path, other: &Path) -> Result<()> {
    let (names, others) = (names(one)?, names(other)?);
    ensure!(names == others, "one build made {names:?}, the other {others:?}");
    for name in &names {
        let is_same = fs::read(one.join(name))? == fs::read(other.join(name))?;
        println!("{} {name}", if is_same { "same  " } else { "DIFFER" });
        ensure!(is_same, "{name} differs between two builds");
    }
    Ok(())
}

/// The Debian package in `out`.
fn package(out: &Path) -> Result<PathBuf> {
    let name = names(out)?.into_iter().find(|name| name.ends_with(".deb"));
    Ok(out.join(name.context("no package was built")?))
}

fn names(directory: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(directory)?.collect::<Result<Vec<_>, _>>()?;
    let mut names: Vec<String> =
        entries.iter().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    Ok(names)
}

/// Where cargo keeps what it fetched.
fn cargo_home() -> PathBuf {
    let home = || PathBuf::from(env::var_os("HOME").unwrap_or_default()).join(".cargo");
    env::var_os("CARGO_HOME").map_or_else(home, PathBuf::from)
}

/// A command that must succeed, shown as a step.
fn must(title: &str, command: &mut Command) -> Result<()> {
    step::must(title, "see its messages above", command).map(drop)
}
