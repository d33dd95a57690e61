//! What is wrong with a command line, in one line.

use clap::{Error, error::ErrorKind};

/// Says it, with its remedy; none where help or the version was asked for, which is no error.
pub fn usage_error(error: &Error) -> Option<String> {
    let asked = [
        ErrorKind::DisplayHelp,
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand,
        ErrorKind::DisplayVersion,
    ];
    if asked.contains(&error.kind()) {
        return None;
    }
    let text = error.render().to_string();
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let is_telling =
        |line: &&str| !line.starts_with("Usage:") && !line.starts_with("For more information");
    let told: Vec<&str> = lines.take_while(is_telling).collect();
    let told = told.join(" ").replace(" tip: ", "; tip: ");
    let told = told.strip_prefix("error: ").unwrap_or(&told);
    Some(format!("{told} (see --help)"))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::{super::Cli, *};

    fn of(words: &str) -> Option<String> {
        let words = words.split_whitespace();
        usage_error(&Cli::command().try_get_matches_from(words).unwrap_err())
    }

    #[test]
    fn what_is_wrong_takes_one_line() {
        for (words, told) in [
            (
                "floodmark diagnose --durtion 5s",
                "unexpected argument '--durtion' found; tip: a similar argument exists: \
                 '--duration'",
            ),
            (
                "floodmark diagnose --duration x",
                "invalid value 'x' for '--duration <DURATION>': not a duration; write it like 30s, 5m \
                 or 1h30m",
            ),
            ("floodmark replay", "the following required arguments were not provided: <FILE>"),
            ("floodmark bogus", "unrecognized subcommand 'bogus'"),
        ] {
            assert_eq!(of(words), Some(format!("{told} (see --help)")));
        }
    }

    #[test]
    fn help_is_no_error() {
        for words in ["floodmark --help", "floodmark lint --help", "floodmark --version"] {
            assert_eq!(of(words), None, "{words}");
        }
    }
}
