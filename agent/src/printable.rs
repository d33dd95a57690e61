//! Text of others, as people may see it: names of processes, sockets, hosts and upstreams, log lines and
//! file contents are chosen by whoever made them, and a terminal obeys what it is sent.
//!
//! What goes: control characters (C0, DEL, C1), format characters (bidirectional controls, zero-width
//! ones, tags), line and paragraph separators, private use, what is unassigned, and other characters that
//! show nothing. Each becomes a `?`. JSON keeps them, escaped.
//!
//! The last step of every output for people goes through here (`cli/output.rs`, the log's format, pages of
//! HTML), so that no name is forgotten; a field that must not begin a line of its own is put through
//! [`printable`] where the line is made.

use std::borrow::Cow;

use anyhow::Result;
use serde::Serialize;
use unicode_properties::{GeneralCategory as Category, UnicodeGeneralCategory};

/// Unicode's `Default_Ignorable_Code_Point` as far as its members are letters or marks: they show nothing,
/// so two names that differ by them look the same.
const INVISIBLE: [(char, char); 8] = [
    ('\u{34f}', '\u{34f}'),
    ('\u{115f}', '\u{1160}'),
    ('\u{17b4}', '\u{17b5}'),
    ('\u{180b}', '\u{180f}'),
    ('\u{3164}', '\u{3164}'),
    ('\u{fe00}', '\u{fe0f}'),
    ('\u{ffa0}', '\u{ffa0}'),
    ('\u{e0100}', '\u{e01ef}'),
];

/// Whether a terminal or browser shows `char` in its place and does nothing else.
pub fn is_printable(char: char) -> bool {
    if char.is_ascii() {
        return !char.is_ascii_control();
    }
    let is_hidden = matches!(
        char.general_category(),
        Category::Control
            | Category::Format
            | Category::Surrogate
            | Category::PrivateUse
            | Category::Unassigned
            | Category::LineSeparator
            | Category::ParagraphSeparator
    );
    !is_hidden && !INVISIBLE.iter().any(|(first, last)| (*first..=*last).contains(&char))
}

/// A name or line of others: one line, whatever was in it.
pub fn printable(text: &str) -> Cow<'_, str> {
    replaced(text, is_printable, "?")
}

/// Text of several lines, which keeps its line feeds and tabs.
pub fn printable_lines(text: &str) -> Cow<'_, str> {
    replaced(text, is_printable_or_layout, "?")
}

/// As [`printable_lines`], but each byte stays where it is, for text that others point into by offsets.
pub fn printable_in_place(text: &str) -> Cow<'_, str> {
    if text.chars().all(is_printable_or_layout) {
        return text.into();
    }
    let mut in_place = String::with_capacity(text.len());
    for char in text.chars() {
        match is_printable_or_layout(char) {
            true => in_place.push(char),
            false => in_place.extend(std::iter::repeat_n('?', char.len_utf8())),
        }
    }
    in_place.into()
}

/// An object as one line of JSON. What a terminal would obey is escaped, which no parser can tell from
/// the character itself.
///
/// # Errors
///
/// When the object cannot be written as JSON.
pub fn json(object: &impl Serialize) -> Result<String> {
    Ok(escaped(serde_json::to_string(object)?))
}

/// The same, with line feeds and indentation.
///
/// # Errors
///
/// When the object cannot be written as JSON.
pub fn json_pretty(object: &impl Serialize) -> Result<String> {
    Ok(escaped(serde_json::to_string_pretty(object)?))
}

fn is_printable_or_layout(char: char) -> bool {
    matches!(char, '\n' | '\t') || is_printable(char)
}

fn replaced<'a>(text: &'a str, keeps: fn(char) -> bool, by: &str) -> Cow<'a, str> {
    match text.chars().all(keeps) {
        true => text.into(),
        false => text.replace(|char| !keeps(char), by).into(),
    }
}

/// Outside of strings JSON has nothing that is not printable but line feeds, and those within are
/// escaped already.
fn escaped(json: String) -> String {
    if json.chars().all(is_printable_or_layout) {
        return json;
    }
    let mut text = String::with_capacity(json.len() + 64);
    for char in json.chars() {
        if is_printable_or_layout(char) {
            text.push(char);
        } else {
            // RFC 8259, section 7: as UTF-16, in one unit or two.
            let mut units = [0; 2];
            let units = char.encode_utf16(&mut units).iter();
            text.extend(units.map(|unit| format!("\\u{unit:04x}")));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One of each kind.
    const HOSTILE: [char; 22] = [
        '\0',
        '\x1b',
        '\x07',
        '\r',
        '\x7f',
        '\u{80}',
        '\u{9b}',
        '\u{9d}',
        '\u{ad}',
        '\u{200b}',
        '\u{200d}',
        '\u{202e}',
        '\u{2066}',
        '\u{2028}',
        '\u{2029}',
        '\u{feff}',
        '\u{e000}',
        '\u{e0041}',
        '\u{3164}',
        '\u{fe0f}',
        '\u{378}',
        '\u{10ffff}',
    ];

    #[test]
    fn a_terminal_has_nothing_to_obey() {
        for char in HOSTILE {
            let text = format!("a{char}b");
            assert_eq!(printable(&text), "a?b", "{char:?}");
            assert_eq!(printable_lines(&text), "a?b", "{char:?}");
            let in_place = printable_in_place(&text);
            assert_eq!(in_place.len(), text.len(), "{char:?}");
            assert!(in_place.starts_with("a?") && in_place.ends_with("?b"), "{char:?}");
        }
        assert_eq!(printable("a\nb\tc"), "a?b?c");
        assert_eq!(printable_lines("a\nb\tc"), "a\nb\tc");
    }

    #[test]
    fn what_people_write_stays() {
        for text in [
            "it's \\ \"quoted\"",
            "Zürich",
            "东京",
            "हिन्दी",
            "e\u{301}",
            "→ … ×",
            "\u{fffd}",
            "1\u{2009}000",
            "🦀",
        ] {
            assert_eq!(printable(text), text);
        }
    }

    #[test]
    fn json_says_the_same_in_printable_characters() {
        for char in HOSTILE {
            let object = [format!("a{char}b\n\"")];
            for text in [json(&object).unwrap(), json_pretty(&object).unwrap()] {
                assert!(text.chars().all(is_printable_or_layout), "{text:?}");
                assert_eq!(serde_json::from_str::<[String; 1]>(&text).unwrap(), object);
            }
        }
    }
}
