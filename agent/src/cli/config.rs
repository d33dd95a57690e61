//! `floodmark config`: is the file right, and what is in force.

use std::{fmt::Write, path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::{Arg, ArgAction, ArgMatches, Args, FromArgMatches, Subcommand, parser::ValueSource};

use super::{
    HEALTHY,
    output::print,
    run::RunArgs,
    settings::{self, DEFAULT_FILE, Layers},
};

/// Arguments of `floodmark config`.
#[derive(Debug, Args)]
pub(super) struct ConfigArgs {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Check a configuration file, and print the line of the first error
    Check {
        /// Configuration file
        #[arg(default_value = DEFAULT_FILE)]
        file: PathBuf,
    },
    /// Print the effective settings and their source, as `floodmark run` with the same options uses them;
    /// secrets are hidden
    Show(Box<RunArgs>),
}

/// Runs the command.
pub(super) fn config(args: ConfigArgs, matches: &ArgMatches, layers: &Layers) -> Result<ExitCode> {
    match args.command {
        ConfigCommand::Check { file } => {
            let layers = settings::of_file(&file)?;
            let words = ["floodmark", "run"];
            let matches = settings::with_layers(&layers).try_get_matches_from(words)?;
            let options = settings::options(&matches).unwrap_or(&matches);
            RunArgs::from_arg_matches(options)?.check()?;
            print(&format!("{}: {} settings, valid\n", file.display(), layers.len()))?;
        }
        ConfigCommand::Show(args) => {
            let options = settings::options(matches).unwrap_or(matches);
            print(&shown(options, layers))?;
            args.check()?;
        }
    }
    Ok(ExitCode::from(HEALTHY))
}

/// As a configuration file would have it.
fn shown(options: &ArgMatches, layers: &Layers) -> String {
    let mut text = String::new();
    for definition in settings::definitions() {
        let name = definition.get_long().unwrap_or_default();
        let values = values(options, &definition);
        let origin = match (options.value_source(definition.get_id().as_str()), layers.get(name)) {
            (Some(ValueSource::CommandLine), _) => "command line".to_owned(),
            (_, Some(given)) => given.origin.to_string(),
            _ => "default".to_owned(),
        };
        let values: Vec<String> = values.iter().map(|value| written(value)).collect();
        let value = match (definition.get_action(), values.as_slice()) {
            (ArgAction::Append, values) => format!("[{}]", values.join(", ")),
            (_, [value]) => value.clone(),
            _ => {
                let _ = writeln!(text, "# {name} is not set");
                continue;
            }
        };
        let _ = writeln!(text, "{name} = {value}  # {origin}");
    }
    text
}

/// The effective values as they were written, except passwords in URLs: the only secrets that an option
/// may contain.
fn values(options: &ArgMatches, definition: &Arg) -> Vec<String> {
    let raw = options.get_raw(definition.get_id().as_str()).into_iter().flatten();
    raw.map(|value| without_password(&value.to_string_lossy())).collect()
}

/// A URL without the password it may hold.
fn without_password(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else { return text.to_owned() };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    match authority.rsplit_once('@') {
        Some((user, host)) => {
            let user = user.split_once(':').map_or("(hidden)", |(user, _)| user);
            format!("{scheme}://{user}:(hidden)@{host}{path}")
        }
        None => text.to_owned(),
    }
}

/// In TOML.
fn written(value: &str) -> String {
    match value.parse::<toml::Value>() {
        Ok(bare @ (toml::Value::Integer(_) | toml::Value::Boolean(_))) => bare.to_string(),
        _ => toml::Value::String(value.to_owned()).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_shown_without_its_password() {
        assert_eq!(without_password("nats://u:p@h:4222/x"), "nats://u:(hidden)@h:4222/x");
        assert_eq!(without_password("nats://token@h"), "nats://(hidden):(hidden)@h");
        assert_eq!(without_password("udp://127.0.0.1:514"), "udp://127.0.0.1:514");
        assert_eq!(without_password("/a@b"), "/a@b");
    }
}
