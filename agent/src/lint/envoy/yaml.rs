//! YAML with places.

use anyhow::{Result, anyhow};
use saphyr::{LoadableYamlNode, MarkedYamlOwned, Marker, ScalarOwned, YamlDataOwned};

use crate::lint::text::{FileId, Place, Texts};

/// A value, with where it stands.
#[derive(Clone, Debug)]
pub struct Node {
    pub value: Value,
    pub place: Place,
}

/// What a value is.
#[derive(Clone, Debug)]
pub enum Value {
    Map(Vec<(Node, Node)>),
    List(Vec<Node>),
    /// A scalar, as it would be written; nothing for `null`.
    Scalar(String),
}

impl Node {
    /// What an empty file holds.
    pub fn nothing(file: FileId) -> Self {
        Self { value: Value::Scalar(String::new()), place: Place { file, start: 0, end: 0 } }
    }

    /// The value under a key; Envoy takes `connectTimeout` for `connect_timeout`, too.
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.entry(key).map(|(_, value)| value)
    }

    /// Key and value.
    pub fn entry(&self, key: &str) -> Option<(&Node, &Node)> {
        let Value::Map(entries) = &self.value else { return None };
        let is_it = |name: &str| name == key || name == camel(key);
        let found = entries.iter().find(|(name, _)| name.scalar().is_some_and(is_it));
        found.map(|(name, value)| (name, value))
    }

    /// The value at the end of a path of keys.
    pub fn at(&self, path: &[&str]) -> Option<&Node> {
        path.iter().try_fold(self, |node, key| node.get(key))
    }

    pub fn scalar(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar(text) => Some(text),
            _ => None,
        }
    }

    /// Whether it is `{}`.
    pub fn is_empty_map(&self) -> bool {
        matches!(&self.value, Value::Map(entries) if entries.is_empty())
    }

    pub fn number(&self) -> Option<f64> {
        self.scalar()?.parse().ok()
    }

    /// The entries of a list; none where it is something else.
    pub fn list(&self) -> &[Node] {
        match &self.value {
            Value::List(nodes) => nodes,
            _ => &[],
        }
    }

    /// The values of a map; none where it is something else.
    pub fn values(&self) -> impl Iterator<Item = &Node> {
        let entries = match &self.value {
            Value::Map(entries) => entries.as_slice(),
            _ => &[],
        };
        entries.iter().map(|(_, value)| value)
    }
}

fn camel(key: &str) -> String {
    let mut parts = key.split('_');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |mut camel, part| {
        let mut chars = part.chars();
        camel.extend(chars.next().map(|c| c.to_ascii_uppercase()));
        camel.push_str(chars.as_str());
        camel
    })
}

/// Reads all documents of a file.
///
/// # Errors
///
/// When it is no YAML: with its line.
pub fn read(file: FileId, texts: &Texts) -> Result<Vec<Node>> {
    let text = &texts.get(file).text;
    let documents = MarkedYamlOwned::load_from_str(text).map_err(|error| {
        let path = &texts.get(file).path;
        anyhow!("{path}:{}: no YAML: {}", error.marker().line(), error.info())
    })?;
    let starts = line_starts(text);
    let place = Placer { file, text, starts: &starts };
    Ok(documents.into_iter().map(|document| place.node(document)).collect())
}

fn line_starts(text: &str) -> Vec<usize> {
    std::iter::once(0).chain(memchr::memchr_iter(b'\n', text.as_bytes()).map(|at| at + 1)).collect()
}

struct Placer<'a> {
    file: FileId,
    text: &'a str,
    starts: &'a [usize],
}

impl Placer<'_> {
    /// A marker's byte: its line from 1, its column in characters from 0.
    fn byte(&self, marker: Marker) -> usize {
        let start = self.starts.get(marker.line().saturating_sub(1)).copied();
        let Some(start) = start else { return self.text.len() };
        let line = &self.text[start..];
        line.char_indices().nth(marker.col()).map_or(self.text.len(), |(at, _)| start + at)
    }

    fn node(&self, yaml: MarkedYamlOwned) -> Node {
        let (start, end) = (self.byte(yaml.span.start), self.byte(yaml.span.end));
        let length = self.text[start..end.max(start)].trim_end().len();
        let mut place = Place { file: self.file, start, end: start + length };
        // The span of an empty flow mapping ends before its closing brace.
        if matches!(&yaml.data, YamlDataOwned::Mapping(entries) if entries.is_empty())
            && let Some(closing) = self.text[start..].find('}')
        {
            place.end = place.end.max(start + closing + 1);
        }
        let value = match yaml.data {
            YamlDataOwned::Mapping(entries) => {
                let node = |(key, value)| (self.node(key), self.node(value));
                Value::Map(entries.into_iter().map(node).collect())
            }
            YamlDataOwned::Sequence(nodes) => {
                Value::List(nodes.into_iter().map(|node| self.node(node)).collect())
            }
            YamlDataOwned::Value(scalar) => Value::Scalar(match scalar {
                ScalarOwned::Null => String::new(),
                ScalarOwned::Boolean(value) => value.to_string(),
                ScalarOwned::Integer(value) => value.to_string(),
                ScalarOwned::FloatingPoint(value) => value.to_string(),
                ScalarOwned::String(value) => value,
            }),
            YamlDataOwned::Tagged(_, inner) => return self.node(*inner),
            YamlDataOwned::Representation(text, ..) => Value::Scalar(text),
            YamlDataOwned::Alias(_) | YamlDataOwned::BadValue => Value::Scalar(String::new()),
        };
        Node { value, place }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_bytes_in_yaml_and_json() {
        for text in ["a:\n  connect_timeout: 5s # ü\n", "{\"a\": {\"connectTimeout\": \"5s\"}}"] {
            let mut texts = Texts::default();
            let file = texts.add("envoy.yaml", text.as_bytes());
            let document = &read(file, &texts).unwrap()[0];
            let node = document.at(&["a", "connect_timeout"]).unwrap();
            assert_eq!(node.scalar(), Some("5s"));
            assert_eq!(texts.slice(&node.place).trim_matches('"'), "5s");
        }
    }

    #[test]
    fn what_is_no_yaml_is_told_with_its_line() {
        let mut texts = Texts::default();
        let file = texts.add("envoy.yaml", b"a: 1\nb: [1, 2\n");
        let error = read(file, &texts).unwrap_err().to_string();
        assert!(error.starts_with("envoy.yaml:"), "{error}");
    }
}
