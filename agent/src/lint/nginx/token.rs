//! nginx's words, after `ngx_conf_read_token` (ngx_conf_file.c, unchanged from 1.12 to 1.31), and the
//! blocks of Lua that lua-nginx-module reads by a lexer of its own.

use std::ops::Range;

use thiserror::Error;

/// A piece of a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// What it is.
    pub kind: Kind,
    /// Its bytes in the file, quotes included.
    pub span: Range<usize>,
}

/// What a piece is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A word, without its quotes and escapes.
    Word {
        /// What it message.
        value: String,
        /// Whether it stood in quotes.
        is_quoted: bool,
    },
    /// `{`
    Open,
    /// `}`
    Close,
    /// `;`
    End,
    /// Everything between the braces of a `..._by_lua_block`.
    Lua,
}

/// What is no configuration.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{message}")]
pub struct SyntaxError {
    /// What is wrong, and how it is fixed.
    pub message: String,
    /// Where, in bytes.
    pub at: usize,
}

/// Splits a file into its pieces.
///
/// # Errors
///
/// For whatever nginx would not read either.
pub fn tokens(text: &str) -> Result<Vec<Token>, SyntaxError> {
    if text.starts_with('\u{feff}') {
        let message =
            "a byte order mark stands in front of the first directive, and nginx takes it for \
                       a part of it; save the file without"
                .to_owned();
        return Err(SyntaxError { message, at: 0 });
    }
    let mut lexer = Lexer { bytes: text.as_bytes(), text, at: 0, tokens: Vec::new() };
    while lexer.next_token()? {}
    Ok(lexer.tokens)
}

struct Lexer<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
    tokens: Vec<Token>,
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

impl Lexer<'_> {
    /// False at the end of the file.
    fn next_token(&mut self) -> Result<bool, SyntaxError> {
        let Some(&byte) = self.bytes.get(self.at) else { return Ok(false) };
        match byte {
            _ if is_space(byte) => self.at += 1,
            b'#' => self.at = self.find(b'\n').unwrap_or(self.bytes.len()),
            b';' => self.punctuation(Kind::End),
            b'{' => {
                self.punctuation(Kind::Open);
                if self.is_lua_block() {
                    self.lua()?;
                }
            }
            b'}' => self.punctuation(Kind::Close),
            b'"' | b'\'' => self.quoted(byte)?,
            _ => self.bare(),
        }
        Ok(true)
    }

    fn find(&self, byte: u8) -> Option<usize> {
        memchr::memchr(byte, &self.bytes[self.at..]).map(|offset| self.at + offset)
    }

    fn punctuation(&mut self, kind: Kind) {
        self.tokens.push(Token { kind, span: self.at..self.at + 1 });
        self.at += 1;
    }

    fn word(&mut self, inner: Range<usize>, span: Range<usize>, is_quoted: bool) {
        let value = unescape(&self.text[inner]);
        self.tokens.push(Token { kind: Kind::Word { value, is_quoted }, span });
    }

    /// A word in quotes; after it only space, `;`, `{` or `)` may follow.
    fn quoted(&mut self, quote: u8) -> Result<(), SyntaxError> {
        let start = self.at;
        self.at += 1;
        loop {
            match self.bytes.get(self.at) {
                None => {
                    let message = "a quotation mark opens here and is never closed".to_owned();
                    return Err(SyntaxError { message, at: start });
                }
                Some(b'\\') => self.at += 2,
                Some(&byte) if byte == quote => break,
                Some(_) => self.at += 1,
            }
        }
        self.at += 1;
        self.word(start + 1..self.at - 1, start..self.at, true);
        match self.bytes.get(self.at) {
            None | Some(b';' | b'{' | b')') => Ok(()),
            Some(&byte) if is_space(byte) => Ok(()),
            Some(_) => {
                let next = self.text[self.at..].chars().next().unwrap_or_default();
                let message = format!("unexpected {next:?} right after a quotation mark");
                Err(SyntaxError { message, at: self.at })
            }
        }
    }

    /// A word without quotes: to the next space, `;` or `{` that neither a backslash nor a dollar
    /// sign precedes.
    fn bare(&mut self) {
        let start = self.at;
        let mut after_dollar = false;
        while let Some(&byte) = self.bytes.get(self.at) {
            match byte {
                b'\\' => {
                    self.at += 2;
                    after_dollar = false;
                    continue;
                }
                b'{' if after_dollar => {}
                b';' | b'{' => break,
                _ if is_space(byte) => break,
                _ => {}
            }
            after_dollar = byte == b'$';
            self.at += 1;
        }
        self.at = self.at.min(self.bytes.len());
        // A backslash keeps the byte after it, which may be the first of several.
        while !self.text.is_char_boundary(self.at) {
            self.at += 1;
        }
        self.word(start..self.at, start..self.at, false);
    }

    /// Whether the block just opened belongs to a directive `..._by_lua_block`.
    fn is_lua_block(&self) -> bool {
        let before = &self.tokens[..self.tokens.len() - 1];
        let begins = |token: &Token| matches!(token.kind, Kind::End | Kind::Open | Kind::Close);
        let first = before.iter().rposition(begins).map_or(0, |at| at + 1);
        let name = before.get(first).map(|token| &token.kind);
        matches!(name, Some(Kind::Word { value, .. }) if value.ends_with("_by_lua_block"))
    }

    /// Lua up to the brace that closes its block, which is left for the caller.
    fn lua(&mut self) -> Result<(), SyntaxError> {
        let start = self.at;
        let mut depth = 0usize;
        while let Some(&byte) = self.bytes.get(self.at) {
            match byte {
                b'{' => depth += 1,
                b'}' if depth == 0 => {
                    self.tokens.push(Token { kind: Kind::Lua, span: start..self.at });
                    return Ok(());
                }
                b'}' => depth -= 1,
                b'"' | b'\'' => self.lua_string(byte),
                b'[' => self.lua_long_bracket(),
                b'-' if self.bytes[self.at..].starts_with(b"--") => self.lua_comment(),
                _ => {}
            }
            self.at += 1;
        }
        let message = "this block of Lua is never closed: a `}` is missing".to_owned();
        Err(SyntaxError { message, at: start - 1 })
    }

    /// To the closing quotation mark; a string never goes past its line unescaped.
    fn lua_string(&mut self, quote: u8) {
        self.at += 1;
        while let Some(&byte) = self.bytes.get(self.at) {
            match byte {
                b'\\' => self.at += 1,
                b'\n' => return,
                _ if byte == quote => return,
                _ => {}
            }
            self.at += 1;
        }
    }

    /// `[[ ... ]]`, `[==[ ... ]==]`: to its last byte, where one begins here.
    fn lua_long_bracket(&mut self) {
        let after = &self.bytes[self.at + 1..];
        let level = after.iter().take_while(|byte| **byte == b'=').count();
        if after.get(level) != Some(&b'[') {
            return;
        }
        let close = [b"]".as_slice(), &b"=".repeat(level), b"]"].concat();
        let end = memchr::memmem::find(after, &close).map(|at| at + close.len());
        self.at = end.map_or(self.bytes.len(), |end| self.at + end);
    }

    fn lua_comment(&mut self) {
        self.at += 2;
        if self.bytes.get(self.at) == Some(&b'[') {
            let before = self.at;
            self.lua_long_bracket();
            if self.at != before {
                return;
            }
        }
        self.at = self.find(b'\n').unwrap_or(self.bytes.len());
    }
}

/// `\"`, `\'`, `\\`, `\t`, `\r` and `\n` mean what they say; before anything else the backslash stays.
fn unescape(raw: &str) -> String {
    let mut value = String::with_capacity(raw.len());
    let mut chars = raw.chars().peekable();
    while let Some(char) = chars.next() {
        let escaped = (char == '\\').then(|| chars.peek().copied()).flatten();
        let meant = escaped.and_then(|escaped| match escaped {
            '"' | '\'' | '\\' => Some(escaped),
            't' => Some('\t'),
            'r' => Some('\r'),
            'n' => Some('\n'),
            _ => None,
        });
        if meant.is_some() {
            chars.next();
        }
        value.push(meant.unwrap_or(char));
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Words as they are, quoted ones in guillemets, Lua in angle brackets.
    fn told(text: &str) -> String {
        let told = tokens(text).unwrap().into_iter().map(|token| match token.kind {
            Kind::Word { value, is_quoted: false } => value,
            Kind::Word { value, is_quoted: true } => format!("«{value}»"),
            Kind::Open => "{".to_owned(),
            Kind::Close => "}".to_owned(),
            Kind::End => ";".to_owned(),
            Kind::Lua => format!("<{}>", &text[token.span]),
        });
        told.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn words_end_where_nginx_ends_them() {
        for (text, expected) in [
            ("a b;c{d;}", "a b ; c { d ; }"),
            ("set $x ${host}y;", "set $x ${host}y ;"),
            ("a b#c; # d\ne;", "a b#c ; e ;"),
            (r#"a "b c;{}" 'd"e';"#, "a «b c;{}» «d\"e» ;"),
            (r#"a "b\"c\\d\te\x";"#, "a «b\"c\\d\te\\x» ;"),
            (r"rewrite ^/a\;b\ c{2} x;", "rewrite ^/a\\;b\\ c { 2} x ;"),
            (r#"if ($a = "b") { }"#, "if ($a = «b» ) { }"),
            ("a b'c d'e;", "a b'c d'e ;"),
            ("a\\é b;", "a\\é b ;"),
            ("", ""),
        ] {
            assert_eq!(told(text), expected, "{text}");
        }
    }

    #[test]
    fn lua_is_left_alone() {
        let lua = "if x then y = {'}', \"\\\"}\"} end -- }\n--[[ } ]] z = [==[ }]] ]==]";
        let text = format!("content_by_lua_block {{{lua}}} a b;");
        assert_eq!(told(&text), format!("content_by_lua_block {{ <{lua}> }} a b ;"));
        assert_eq!(
            told("set_by_lua_block $x { return 1 }"),
            "set_by_lua_block $x { < return 1 > }"
        );
    }

    #[test]
    fn what_is_never_closed_is_said_to_open() {
        for (text, at) in [("a \"b;\nc;", 2), ("a;\nx_by_lua_block { {}", 18), ("a \"b\"c;", 5)] {
            assert_eq!(tokens(text).unwrap_err().at, at, "{text}");
        }
    }

    /// Whatever the bytes: no panic, and tokens that lie in order within the text.
    #[test]
    fn any_bytes_at_all_are_survived() {
        let alphabet = b"a${}[]=;\"'\\#-\n \xc3\xa9_by_lua_block";
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        for _ in 0..20_000 {
            let bytes: Vec<u8> = (0..24)
                .map(|_| {
                    // xorshift64: reproducible, and spread well enough for this.
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    alphabet[(state % alphabet.len() as u64) as usize]
                })
                .collect();
            let text = String::from_utf8_lossy(&[b"x_by_lua_block {", &bytes[..12]].concat())
                .into_owned()
                + &String::from_utf8_lossy(&bytes);
            let mut last = 0;
            for token in tokens(&text).unwrap_or_default() {
                assert!(token.span.start >= last && token.span.end <= text.len(), "{text:?}");
                last = token.span.end;
            }
        }
    }
}
