//! The text to put into an nginx configuration, and where.

use super::tree::{Directive, Word};
use crate::lint::{
    finding::Fix,
    text::{Place, Texts},
};

/// A directive after another: on a line of its own where that has one.
pub fn after(texts: &Texts, directive: &Directive, text: &str) -> Fix {
    let file = directive.place.file;
    let before = texts.before_on_line(file, directive.place.start);
    let gap = if before.trim().is_empty() { format!("\n{before}") } else { " ".to_owned() };
    let place = Place { file, start: directive.end, end: directive.end };
    Fix { place, text: format!("{gap}{text}") }
}

/// A directive as the first of a block.
pub fn first_in(texts: &Texts, block: &Directive, text: &str) -> Fix {
    let file = block.place.file;
    let here = |directive: &&Directive| directive.place.file == file;
    let indent = match block.inner().iter().find(here) {
        Some(first) => texts.before_on_line(file, first.place.start),
        None => "",
    };
    let gap = if !indent.is_empty() && indent.trim().is_empty() {
        format!("\n{indent}")
    } else {
        " ".to_owned()
    };
    let place = Place { file, start: block.place.end, end: block.place.end };
    Fix { place, text: format!("{gap}{text}") }
}

/// A directive as the last of a block; nginx wants `keepalive` after the balancing method.
pub fn last_in(texts: &Texts, block: &Directive, text: &str) -> Fix {
    let last = block.inner().iter().rfind(|directive| directive.place.file == block.place.file);
    match last {
        Some(last) => after(texts, last, text),
        None => first_in(texts, block, text),
    }
}

/// Another word in the place of this one.
pub fn replaced(word: &Word, text: impl Into<String>) -> Fix {
    Fix { place: word.place.clone(), text: text.into() }
}

/// A further argument.
pub fn argument(directive: &Directive, text: &str) -> Fix {
    let last = directive.args.last().unwrap_or(&directive.name);
    let place = Place { start: last.place.end, ..last.place.clone() };
    Fix { place, text: format!(" {text}") }
}

/// Nothing in the place of a directive, and of its line where it stands alone on it.
pub fn removed(texts: &Texts, directive: &Directive) -> Fix {
    let file = directive.place.file;
    let before = texts.before_on_line(file, directive.place.start);
    let after = &texts.get(file).text[directive.end..];
    let is_alone = before.trim().is_empty() && after.starts_with('\n');
    let (start, end) = if is_alone {
        (directive.place.start - before.len(), directive.end + 1)
    } else {
        (directive.place.start, directive.end)
    };
    Fix { place: Place { file, start, end }, text: String::new() }
}
