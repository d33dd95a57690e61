//! JSON objects whose keys operators choose.

use std::{borrow::Cow, collections::BTreeMap};

use serde_json::Value;

/// Objects inside an object are read so deep.
const DEEPEST: usize = 3;

/// The values of an object and of objects in it, each by its key's letters and digits alone, in lower
/// case: `responseFlags`, `response_flags` and `RESPONSE-FLAGS` are one. Of several, the outermost and
/// first counts.
pub(super) struct Keys(BTreeMap<String, Value>);

impl Keys {
    /// Reads a line that is an object.
    pub fn read(line: &[u8]) -> Option<Self> {
        let mut keys = Self(BTreeMap::new());
        keys.take(serde_json::from_slice(line).ok()?, DEEPEST);
        Some(keys)
    }

    fn take(&mut self, value: Value, depth: usize) {
        let Value::Object(object) = value else { return };
        let mut inner = Vec::new();
        for (key, value) in object {
            if value.is_object() {
                inner.push(value);
            } else {
                self.0.entry(normal(&key)).or_insert(value);
            }
        }
        for value in inner.into_iter().filter(|_| depth > 0) {
            self.take(value, depth - 1);
        }
    }

    fn get(&self, names: &[&str]) -> Option<&Value> {
        names.iter().find_map(|name| self.0.get(&normal(name)))
    }

    /// Whether there is such a key, whatever its value.
    pub fn has(&self, names: &[&str]) -> bool {
        self.get(names).is_some()
    }

    /// Text, or a number as text, that is neither empty nor `-`.
    pub fn text(&self, names: &[&str]) -> Option<Cow<'_, str>> {
        let text = match self.get(names)? {
            Value::String(text) => Cow::Borrowed(text.as_str()),
            Value::Number(number) => Cow::Owned(number.to_string()),
            _ => return None,
        };
        (!text.is_empty() && text != "-").then_some(text)
    }

    /// A whole number, in quotes or not.
    pub fn number(&self, names: &[&str]) -> Option<i64> {
        match self.get(names)? {
            Value::Number(number) => number.as_i64().or(number.as_f64().map(|it| it as i64)),
            Value::String(text) => text.trim_start_matches('+').parse().ok(),
            _ => None,
        }
    }
}

fn normal(key: &str) -> String {
    key.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_known_by_their_letters() {
        let keys =
            Keys::read(br#"{"responseFlags":"UF","a":{"b":{"duration_ms":"+12"}},"n":null}"#);
        let keys = keys.unwrap();
        assert_eq!(keys.text(&["response_flags"]).as_deref(), Some("UF"));
        assert_eq!(keys.number(&["duration", "duration_ms"]), Some(12));
        assert!(keys.has(&["n"]) && !keys.has(&["m"]));
        assert_eq!(keys.text(&["n"]), None);
    }

    #[test]
    fn the_outermost_counts() {
        let keys = Keys::read(br#"{"request":{"flags":"forged"},"flags":"UF"}"#).unwrap();
        assert_eq!(keys.text(&["flags"]).as_deref(), Some("UF"));
    }
}
