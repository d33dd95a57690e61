//! Directives and blocks, made of nginx's words.

use std::{ops::Range, vec::IntoIter};

use super::{
    arity,
    token::{Kind, SyntaxError, Token, tokens},
};
use crate::lint::text::{FileId, Place};

/// A word of a directive.
#[derive(Clone, Debug)]
pub struct Word {
    /// Without quotes and escapes.
    pub value: String,
    /// Where it stands, quotes included.
    pub place: Place,
}

/// A directive, with what its block holds.
#[derive(Clone, Debug)]
pub struct Directive {
    /// Its name.
    pub name: Word,
    /// What follows the name.
    pub args: Vec<Word>,
    /// Where it stands, with its `;`, or up to its `{`.
    pub place: Place,
    /// The byte after its `;`, or after the `}` of its block.
    pub end: usize,
    /// Its block, where it has one; included files are put in the place of their `include`.
    pub block: Option<Vec<Directive>>,
}

impl Directive {
    /// Whether it is called so.
    pub fn is(&self, name: &str) -> bool {
        self.name.value == name
    }

    /// An argument, counted from 0.
    pub fn arg(&self, index: usize) -> Option<&str> {
        self.args.get(index).map(|word| word.value.as_str())
    }

    /// What its block holds; nothing where it has none.
    pub fn inner(&self) -> &[Self] {
        self.block.as_deref().unwrap_or_default()
    }
}

/// Blocks within blocks; nginx itself reads them by recursion.
const DEEPEST: usize = 64;

/// Reads one file; its `include`s are left as they are.
///
/// # Errors
///
/// For the first thing that keeps the file from being a configuration.
pub fn parse(file: FileId, text: &str) -> Result<Vec<Directive>, SyntaxError> {
    let mut parser = Parser { file, text, tokens: tokens(text)?.into_iter(), depth: 0, end: 0 };
    parser.directives(None)
}

struct Parser<'a> {
    file: FileId,
    text: &'a str,
    tokens: IntoIter<Token>,
    depth: usize,
    /// The byte after the last `}`.
    end: usize,
}

impl Parser<'_> {
    /// The directives up to the end of the block that `opened`, or of the file.
    fn directives(&mut self, opened: Option<&Word>) -> Result<Vec<Directive>, SyntaxError> {
        let mut directives = Vec::new();
        loop {
            let Some(token) = self.tokens.next() else {
                let Some(opened) = opened else { return Ok(directives) };
                let message =
                    format!("the block of \"{}\" is never closed: a `}}` is missing", opened.value);
                return Err(SyntaxError { message, at: opened.place.start });
            };
            match token.kind {
                Kind::Word { value, .. } => {
                    let name = self.word(value, token.span);
                    directives.push(self.directive(name)?);
                }
                Kind::Close if opened.is_some() => {
                    self.end = token.span.end;
                    return Ok(directives);
                }
                Kind::Close => {
                    let message = "unexpected `}`: there is no block to close here".to_owned();
                    return Err(SyntaxError { message, at: token.span.start });
                }
                // Their block is nothing to nginx, and nothing to these rules.
                Kind::Lua => {}
                Kind::Open | Kind::End => {
                    let found = &self.text[token.span.clone()];
                    let message = format!("unexpected `{found}`: a directive's name is missing");
                    return Err(SyntaxError { message, at: token.span.start });
                }
            }
        }
    }

    fn directive(&mut self, name: Word) -> Result<Directive, SyntaxError> {
        let mut args: Vec<Word> = Vec::new();
        loop {
            let Some(token) = self.tokens.next() else {
                return Err(unended(&name, "the file ends before it"));
            };
            match token.kind {
                Kind::Word { value, is_quoted } => {
                    let word = self.word(value, token.span);
                    if !is_quoted && arity::of(&word.value).is_some() && self.begins_line(&word) {
                        return Err(unended(&name, &format!("\"{}\" follows", word.value)));
                    }
                    args.push(word);
                }
                Kind::Close | Kind::Lua => return Err(unended(&name, "a `}` follows")),
                Kind::End => {
                    let place = self.place(name.place.start..token.span.end);
                    let end = place.end;
                    return self.counted(Directive { name, args, place, end, block: None });
                }
                Kind::Open => {
                    let place = self.place(name.place.start..token.span.end);
                    let block = Some(self.block(&name)?);
                    let end = self.end;
                    return self.counted(Directive { name, args, place, end, block });
                }
            }
        }
    }

    fn block(&mut self, opened: &Word) -> Result<Vec<Directive>, SyntaxError> {
        if self.depth == DEEPEST {
            let message = format!("more than {DEEPEST} blocks within each other");
            return Err(SyntaxError { message, at: opened.place.start });
        }
        self.depth += 1;
        let block = self.directives(Some(opened));
        self.depth -= 1;
        block
    }

    /// A directive that the rules read has as many arguments as nginx would take.
    fn counted(&self, directive: Directive) -> Result<Directive, SyntaxError> {
        let count = directive.args.len();
        match arity::of(&directive.name.value) {
            Some(takes) if !takes.contains(&count) && directive.block.is_none() => {
                let message = format!(
                    "\"{}\" does not take {count} arguments; is the `;` missing at the end of its line?",
                    directive.name.value
                );
                Err(SyntaxError { message, at: directive.name.place.start })
            }
            _ => Ok(directive),
        }
    }

    fn begins_line(&self, word: &Word) -> bool {
        let before = &self.text[..word.place.start];
        before.rsplit('\n').next().is_some_and(|line| line.trim().is_empty())
    }

    fn word(&self, value: String, span: Range<usize>) -> Word {
        Word { value, place: self.place(span) }
    }

    fn place(&self, span: Range<usize>) -> Place {
        Place { file: self.file, start: span.start, end: span.end }
    }
}

fn unended(name: &Word, what: &str) -> SyntaxError {
    let message = format!("\"{}\" is not ended: a `;` is missing, and {what}", name.value);
    SyntaxError { message, at: name.place.start }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lint::text::{Texts, line_and_column};

    fn parsed(text: &str) -> Result<Vec<Directive>, SyntaxError> {
        let file = Texts::default().add("nginx.conf", text.as_bytes());
        parse(file, text)
    }

    fn error(text: &str) -> (usize, String) {
        let error = parsed(text).unwrap_err();
        (line_and_column(text, error.at).0, error.message)
    }

    #[test]
    fn blocks_hold_directives() {
        let tree = parsed("http {\n upstream a { server x:1; }\n}\nuser www;").unwrap();
        assert_eq!(tree.len(), 2);
        let upstream = &tree[0].inner()[0];
        assert_eq!((upstream.arg(0), upstream.inner()[0].arg(0)), (Some("a"), Some("x:1")));
    }

    #[test]
    fn what_is_missing_is_told_with_the_line_it_is_missing_from() {
        for (text, line, word) in [
            ("http {\n upstream a {\n  keepalive 32\n }\n}", 3, "\"keepalive\" is not ended"),
            ("http {\n root /a\n proxy_pass http://x;\n}", 2, "\"root\" is not ended"),
            ("proxy_http_version 1.1 1.0;", 1, "does not take 2 arguments"),
            ("http {\n server {\n }\n", 1, "\"http\" is never closed"),
            ("a b;\n}\n", 2, "unexpected `}`"),
            ("http {\n ;\n}", 2, "a directive's name is missing"),
            ("user www", 1, "the file ends"),
        ] {
            let (at, message) = error(text);
            assert_eq!(at, line, "{text}: {message}");
            assert!(message.contains(word), "{message}");
        }
    }

    #[test]
    fn an_argument_may_go_over_lines_and_look_like_a_directive() {
        let text =
            "log_format main\n  '$remote_addr'\n  \"proxy_pass\";\nmap $a $b {\n default 1;\n}";
        assert_eq!(parsed(text).unwrap()[0].args.len(), 3);
    }

    #[test]
    fn there_is_an_end_to_depth() {
        let text = "a { ".repeat(1000);
        assert!(parsed(&text).unwrap_err().message.contains("within each other"));
    }
}
