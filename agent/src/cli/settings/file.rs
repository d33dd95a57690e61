//! The configuration file: TOML whose keys are the names of `floodmark run`'s options.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Result, anyhow, bail};
use toml::de::{DeTable, DeValue};

/// How alike a key and an option's name must be for the one to be taken for a slip of the other.
const ALIKE: f64 = 0.7;

/// What stands at a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// One, or the members of an array, as they would be written on the command line.
    pub(super) values: Vec<String>,
    /// The line of the key, from 1.
    pub(super) line: usize,
}

/// Reads the entries of `text`, which may have the keys `known`. `path` is for messages.
///
/// # Errors
///
/// When it is not TOML, or has a key that is no option or a value that no option takes; in one line,
/// with the line of the file.
pub(super) fn entries(text: &str, path: &Path, known: &[&str]) -> Result<BTreeMap<String, Entry>> {
    let shown = path.display();
    let line_of = |offset: usize| text[..offset.min(text.len())].matches('\n').count() + 1;
    let table = DeTable::parse(text).map_err(|error| {
        let line = line_of(error.span().map_or(0, |span| span.start));
        anyhow!("{shown}:{line}: {}", error.message().replace('\n', ", "))
    })?;
    let mut entries = BTreeMap::new();
    for (key, value) in table.into_inner() {
        let line = line_of(key.span().start);
        let key = key.into_inner().into_owned();
        let values = match value.get_ref() {
            DeValue::Table(_) if !known.contains(&key.as_str()) => {
                bail!("{shown}:{line}: [{key}] is a table; put keys at the top level")
            }
            _ if !known.contains(&key.as_str()) => {
                bail!("{shown}:{line}: unknown key {key}{}", suggestion(&key, known))
            }
            DeValue::Array(members) => {
                members.iter().map(|member| written(member.get_ref())).collect()
            }
            value => written(value).map(|value| vec![value]),
        };
        let values = values.ok_or_else(|| {
            anyhow!(
                "{shown}:{line}: {key} takes a string, a number, a boolean or an array of these"
            )
        })?;
        entries.insert(key, Entry { values, line });
    }
    Ok(entries)
}

/// A value as it would be written on the command line.
fn written(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) => {
            let number = i64::from_str_radix(number.as_str(), number.radix());
            number.ok().map(|number| number.to_string())
        }
        DeValue::Float(number) => Some(number.to_string()),
        DeValue::Boolean(is_true) => Some(is_true.to_string()),
        DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => None,
    }
}

fn suggestion(key: &str, known: &[&str]) -> String {
    let likeness = |known: &&str| strsim::jaro(&key.replace('_', "-"), known);
    let best = known.iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
    match best {
        Some(best) if likeness(best) >= ALIKE => format!("; did you mean {best}?"),
        _ => "; `floodmark config show` lists all keys".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: [&str; 3] = ["listen", "nginx-error-log", "listeners"];

    fn read(text: &str) -> Result<BTreeMap<String, Entry>> {
        entries(text, Path::new("f.toml"), &KNOWN)
    }

    fn refusal(text: &str) -> String {
        read(text).unwrap_err().to_string()
    }

    #[test]
    fn keeps_each_key_with_its_line() {
        let text =
            "# why\nlisten = 'x'\n\nlisteners = 1_000\nnginx-error-log = [\n  'a',\n  'b',\n]\n";
        let entry = |values: &[&str], line| Entry {
            values: values.iter().map(ToString::to_string).collect(),
            line,
        };
        let read = read(text).unwrap();
        assert_eq!(read["listen"], entry(&["x"], 2));
        assert_eq!(read["listeners"], entry(&["1000"], 4));
        assert_eq!(read["nginx-error-log"], entry(&["a", "b"], 5));
    }

    #[test]
    fn says_the_line_and_the_likely_key() {
        let slip = refusal("listen = 'x'\nnginx_error_logs = []\n");
        assert_eq!(slip, "f.toml:2: unknown key nginx_error_logs; did you mean nginx-error-log?");
        assert!(refusal("frobnicate = 1").contains("`floodmark config show` lists all keys"));
        assert!(refusal("\n[proxy]\nlisten = 'x'").starts_with("f.toml:2: [proxy] is a table"));
        assert!(refusal("listen = 1979-05-27").starts_with("f.toml:1: listen takes a string"));
        assert!(refusal("listen = 'x'\nlisten = 'y'").starts_with("f.toml:2: "));
        let broken = refusal("listeners = 3\nlisten = 'x\n");
        assert!(broken.starts_with("f.toml:2: ") && !broken.contains('\n'), "{broken}");
    }
}
