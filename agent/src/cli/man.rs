//! `floodmark man`: manual pages, made of what `--help` says.

use std::{
    fs,
    io::{Write, stdout},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result};
use clap::{Args, Command, CommandFactory};
use clap_mangen::Man;

use super::{Cli, HEALTHY};

/// Arguments of `floodmark man`.
#[derive(Debug, Args)]
pub(super) struct ManArgs {
    /// Write floodmark.1 and a page for each command into this directory, for a package
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
}

/// Prints the page, or writes all of them.
pub(super) fn man(args: &ManArgs) -> Result<ExitCode> {
    match &args.directory {
        Some(directory) => write(directory)?,
        None => stdout().write_all(&render(Cli::command())?).context("printing the page")?,
    }
    Ok(ExitCode::from(HEALTHY))
}

fn write(directory: &Path) -> Result<()> {
    fs::create_dir_all(directory).with_context(|| format!("making {}", directory.display()))?;
    for page in pages() {
        let path = directory.join(format!("{}.1", page.get_name()));
        fs::write(&path, render(page)?).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

/// The command, and each of its own, called by its page's name.
fn pages() -> Vec<Command> {
    let whole = Cli::command();
    let own = whole.get_subcommands().map(|own| {
        let name = format!("floodmark-{}", own.get_name());
        own.clone().name(name.clone()).bin_name(name.replacen('-', " ", 1)).display_name(name)
    });
    own.chain([whole.clone()]).collect()
}

fn render(page: Command) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    Man::new(page).render(&mut text).context("rendering a manual page")?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page_with_examples() {
        let directory = tempfile::tempdir().unwrap();
        write(directory.path()).unwrap();
        for name in ["floodmark", "floodmark-run", "floodmark-lint", "floodmark-watch"] {
            let page = fs::read_to_string(directory.path().join(format!("{name}.1"))).unwrap();
            assert!(page.contains(".TH floodmark"), "{page}");
            assert!(name == "floodmark" || page.contains("Examples:"), "{page}");
        }
    }
}
