//! `floodmark man`: manual pages, made of what `--help` says.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result};
use clap::{Args, Command, CommandFactory};
use clap_mangen::Man;

use super::{Cli, HEALTHY, output::print};
use crate::new_file;

/// Arguments of `floodmark man`.
#[derive(Debug, Args)]
pub(super) struct ManArgs {
    /// Write floodmark.1 and one page for each command, nested ones too, to this directory
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
}

/// Prints the page, or writes all of them.
pub(super) fn man(args: &ManArgs) -> Result<ExitCode> {
    match &args.directory {
        Some(directory) => write(directory)?,
        None => {
            let mut page = Vec::new();
            Man::new(whole()).render(&mut page).context("rendering the manual page")?;
            print(&String::from_utf8_lossy(&page))?;
        }
    }
    Ok(ExitCode::from(HEALTHY))
}

fn write(directory: &Path) -> Result<()> {
    fs::create_dir_all(directory)
        .with_context(|| format!("cannot create --directory {}", directory.display()))?;
    let mut command = whole();
    command.build();
    write_pages(command, directory)
        .with_context(|| format!("writing pages into {}", directory.display()))
}

/// Of a command and of all below it.
fn write_pages(command: Command, directory: &Path) -> io::Result<()> {
    for own in command.get_subcommands().filter(|own| !own.is_hide_set()) {
        write_pages(own.clone(), directory)?;
    }
    let page = Man::new(command);
    let mut text = Vec::new();
    page.render(&mut text)?;
    new_file::replace(&directory.join(page.get_filename()), &text, new_file::PUBLIC)
}

/// Without `help`, which is no command of its own and has no page.
fn whole() -> Command {
    Cli::command().disable_help_subcommand(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The pages that must be there: of a command and of all below it.
    fn expected(command: &Command, name: &str) -> Vec<String> {
        let below = command.get_subcommands().flat_map(|own| {
            let name = format!("{name}-{}", own.get_name());
            expected(own, &name)
        });
        below.chain([name.to_owned()]).collect()
    }

    #[test]
    fn every_command_has_a_page_and_every_page_named_is_there() {
        let directory = tempfile::tempdir().unwrap();
        write(directory.path()).unwrap();
        let names = expected(&Cli::command(), "floodmark");
        assert!(names.contains(&"floodmark-config-check".to_owned()), "{names:?}");
        for name in &names {
            let page = fs::read_to_string(directory.path().join(format!("{name}.1"))).unwrap();
            assert!(page.contains(&format!(".TH {name} ")), "{page}");
            let is_own = name.matches('-').count() == 1;
            assert!(!is_own || page.contains("Examples:"), "{page}");
            let synopsis = format!("\\fB{}\\fR", name.replace('-', " "));
            assert!(page.contains(&synopsis), "{page}");
        }
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), names.len());
    }
}
