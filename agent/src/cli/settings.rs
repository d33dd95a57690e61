//! Where the options of `floodmark run` come from: the command line, else the environment, else the
//! configuration file, else their defaults.
//!
//! The options are defined once, as arguments. An option's name is its key in the file and, with
//! `FLOODMARK_` before it, its environment variable, so that whoever adds an option adds all three.
//! What file and environment say is handed to the parser of the command line as defaults.

mod file;

use std::{
    collections::BTreeMap,
    env,
    error::Error as _,
    ffi::OsString,
    fmt, fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, anyhow};
use clap::{Arg, ArgAction, ArgMatches, Command, CommandFactory};

use super::Cli;
use crate::untrusted_file;

/// The configuration file where none is named.
pub(super) const DEFAULT_FILE: &str = "/etc/floodmark/floodmark.toml";
/// More than any configuration file is long.
const LARGEST: u64 = 1 << 20;
/// The option that names another one.
const FILE_OPTION: &str = "config";
/// The commands with the agent's options.
const COMMANDS: [&[&str]; 2] = [&["run"], &["config", "show"]];

/// Where a value was given, other than on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// In this line of a file.
    File(PathBuf, usize),
    /// By an environment variable.
    Variable(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path, line) => write!(f, "{}:{line}", path.display()),
            Self::Variable(name) => f.write_str(name),
        }
    }
}

/// What was given for an option, other than on the command line.
#[derive(Clone, Debug)]
pub(super) struct Given {
    values: Vec<String>,
    pub(super) origin: Origin,
}

/// What was given other than on the command line, by the option's name.
pub(super) type Layers = BTreeMap<String, Given>;

/// Reads the command line `words`, with what the environment and the file say.
///
/// # Errors
///
/// A [`clap::Error`] for the command line, a line of text for the rest.
pub(super) fn parse(words: &[OsString]) -> Result<(ArgMatches, Layers)> {
    let first = with_layers(&Layers::new()).try_get_matches_from(words)?;
    let Some(options) = options(&first) else { return Ok((first, Layers::new())) };
    let named = options.get_one::<PathBuf>(FILE_OPTION).cloned();
    let named = named.or_else(|| env::var_os(variable(FILE_OPTION)).map(PathBuf::from));
    let layers = layers(named.as_deref(), env::vars_os())?;
    Ok((with_layers(&layers).try_get_matches_from(words)?, layers))
}

/// The command line's definition, with `layers` as defaults.
pub(super) fn with_layers(layers: &Layers) -> Command {
    let layered = |command: Command| {
        command.mut_args(|argument| match argument.get_long() {
            Some(name) => {
                let given = layers.get(name);
                settable(argument, given)
            }
            None => argument,
        })
    };
    COMMANDS.iter().fold(Cli::command(), |command, path| match path {
        [name] => command.mut_subcommand(name, layered),
        [group, name] => command.mut_subcommand(group, |group| group.mut_subcommand(name, layered)),
        _ => command,
    })
}

/// The agent's options among what was parsed, for the commands that have them.
pub(super) fn options(matches: &ArgMatches) -> Option<&ArgMatches> {
    COMMANDS.iter().find_map(|path| {
        path.iter().try_fold(matches, |matches, name| {
            let (given, below) = matches.subcommand()?;
            (given == *name).then_some(below)
        })
    })
}

/// The agent's options, as they are defined.
pub(super) fn definitions() -> Vec<Arg> {
    let command = Cli::command();
    let run = command.find_subcommand("run").map(Command::get_arguments);
    let run = run.into_iter().flatten();
    run.filter(|argument| argument.get_long().is_some_and(|name| name != FILE_OPTION))
        .cloned()
        .collect()
}

/// The environment variable of an option.
pub(super) fn variable(option: &str) -> String {
    format!("FLOODMARK_{}", option.to_uppercase().replace('-', "_"))
}

/// A flag can be said not to be so: on the command line, what the file says is otherwise final.
fn settable(argument: Arg, given: Option<&Given>) -> Arg {
    let argument = match argument.get_action() {
        ArgAction::SetTrue => argument
            .action(ArgAction::Set)
            .num_args(0..=1)
            .require_equals(true)
            .value_name("BOOL")
            .value_parser(clap::builder::BoolishValueParser::new())
            .default_missing_value("true")
            .default_value("false")
            .hide_default_value(true)
            .hide_possible_values(true),
        _ => argument,
    };
    match given {
        Some(given) => argument.default_values(given.values.clone()).hide_default_value(true),
        None => argument,
    }
}

/// What the file and the environment say.
fn layers(
    named: Option<&Path>,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Layers> {
    let definitions = definitions();
    let mut layers = match named {
        Some(path) => of_file(path)?,
        None => match fs::metadata(DEFAULT_FILE) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Layers::new(),
            _ => of_file(Path::new(DEFAULT_FILE))?,
        },
    };
    let environment: BTreeMap<OsString, OsString> = environment.into_iter().collect();
    for definition in &definitions {
        let name = definition.get_long().unwrap_or_default();
        let variable = variable(name);
        let Some(text) = environment.get(&OsString::from(&variable)) else { continue };
        let text = text.to_str().with_context(|| format!("{variable} is not UTF-8"))?;
        if text.is_empty() {
            continue;
        }
        let values = match definition.get_action() {
            ArgAction::Append => text.split(',').map(|value| value.trim().to_owned()).collect(),
            _ => vec![text.to_owned()],
        };
        let given = Given { values, origin: Origin::Variable(variable) };
        check(name, &given)?;
        layers.insert(name.to_owned(), given);
    }
    Ok(layers)
}

/// What the file at `path` says; each value is one that its option takes.
///
/// # Errors
///
/// What is wrong with it, in one line with the file's line.
pub(super) fn of_file(path: &Path) -> Result<Layers> {
    let text = untrusted_file::read_to_string(path, LARGEST).with_context(|| {
        format!("cannot read the configuration file {}; set another with --config", path.display())
    })?;
    let definitions = definitions();
    let known: Vec<&str> = definitions.iter().filter_map(Arg::get_long).collect();
    let mut layers = Layers::new();
    for (name, entry) in file::entries(&text, path, &known)? {
        let origin = Origin::File(path.to_owned(), entry.line);
        let given = Given { values: entry.values, origin };
        check(&name, &given)?;
        layers.insert(name, given);
    }
    Ok(layers)
}

/// Has the command line's parser look at the values by themselves, so that it is known which is wrong.
fn check(name: &str, given: &Given) -> Result<()> {
    let flags = given.values.iter().map(|value| format!("--{name}={value}"));
    let words = ["floodmark".to_owned(), "run".to_owned()].into_iter().chain(flags);
    let Err(error) = with_layers(&Layers::new()).try_get_matches_from(words) else { return Ok(()) };
    let reason = match (error.source(), error.get(clap::error::ContextKind::InvalidValue)) {
        (Some(source), Some(value)) => {
            format!("invalid value {value:?}: {source}", value = value.to_string())
        }
        _ => first_line(&error),
    };
    Err(anyhow!("{}: {name}: {reason}", given.origin))
}

/// What a [`clap::Error`] says, without how to use the command.
pub(super) fn first_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let line = text.lines().next().unwrap_or_default();
    line.strip_prefix("error: ").unwrap_or(line).to_owned()
}

#[cfg(test)]
mod tests;
