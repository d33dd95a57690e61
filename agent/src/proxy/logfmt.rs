//! logfmt: `key=value key="value with \"quotes\""`, as Go's logrus and slog write it.

use std::borrow::Cow;

/// Pairs of a line at most.
const MOST: usize = 64;

/// The pairs of one line.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Pairs<'a>(Vec<(&'a str, Cow<'a, str>)>);

impl<'a> Pairs<'a> {
    /// Reads a line that is nothing but pairs.
    pub fn read(line: &'a [u8]) -> Option<Self> {
        if !line.first()?.is_ascii_alphabetic()
            || memchr::memchr(b'=', line.get(..64).unwrap_or(line)).is_none()
        {
            return None;
        }
        let mut rest = std::str::from_utf8(line).ok()?.trim_end();
        let mut pairs = Vec::new();
        while !rest.is_empty() && pairs.len() < MOST {
            let (key, after) = rest.split_once('=')?;
            if key.is_empty() || key.contains(|c: char| c.is_whitespace() || c == '"') {
                return None;
            }
            let (value, after) = value(after)?;
            pairs.push((key, value));
            rest = after.trim_start_matches(' ');
        }
        Some(Self(pairs))
    }

    /// The value of the first pair with that key.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(own, _)| *own == key).map(|(_, value)| &**value)
    }
}

/// A value, quoted or not, and what follows it.
fn value(text: &str) -> Option<(Cow<'_, str>, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find(' ').unwrap_or(text.len());
        return Some((Cow::Borrowed(&text[..end]), &text[end..]));
    };
    let mut plain = String::new();
    let mut from = 0;
    loop {
        let at = from + quoted[from..].find(['"', '\\'])?;
        plain.push_str(&quoted[from..at]);
        if quoted.as_bytes()[at] == b'"' {
            return Some((Cow::Owned(plain), &quoted[at + 1..]));
        }
        let escaped = quoted[at + 1..].chars().next()?;
        match escaped {
            'n' => plain.push('\n'),
            't' => plain.push('\t'),
            'r' => plain.push('\r'),
            // `\u00e9` and the like stay as they are: nothing that is read here needs them.
            'u' | 'x' => plain.extend(['\\', escaped]),
            other => plain.push(other),
        }
        from = at + 1 + escaped.len_utf8();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_read_with_and_without_quotes() {
        let pairs = Pairs::read(br#"time="a b" level=info msg="x \"y\"\n" n=1"#).unwrap();
        for (key, value) in [("time", "a b"), ("level", "info"), ("msg", "x \"y\"\n"), ("n", "1")] {
            assert_eq!(pairs.get(key), Some(value));
        }
        assert_eq!(pairs.get("x"), None);
    }

    #[test]
    fn anything_else_is_none() {
        for line in ["", "a", "a b=c", "2026/11/20 a=b", "a=\"b", "a=\"b\\", "=b", "\"a=b"] {
            assert_eq!(Pairs::read(line.as_bytes()), None, "{line}");
        }
    }
}
