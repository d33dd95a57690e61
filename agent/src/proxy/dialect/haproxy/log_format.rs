//! A `log-format` of an operator's own (configuration manual, 8.2.6 "Custom log format"): the items it is
//! made of, as `parse_logformat_string` (src/log.c) reads them.

use std::{fmt, str::FromStr};

use crate::proxy::bytes::number;

/// Items of a format; HAProxy's own have about 40.
const MOST_ITEMS: usize = 256;

/// A `log-format`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFormat {
    text: String,
    pub(super) items: Vec<Item>,
    /// Whether the line is a JSON object with the items' names as keys (`%{+json}o`, since 3.0).
    pub(super) is_json: bool,
}

/// A part of a format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Item {
    /// The same in every line, without blanks.
    Text(Vec<u8>),
    /// A blank, which HAProxy leaves out after another one (`LOG_FMT_SEPARATOR`).
    Blank,
    /// What differs.
    Value {
        value: Value,
        /// Whether HAProxy puts it in quotes if it is text.
        is_quoted: bool,
        /// `%(NAME)…`.
        name: String,
    },
}

/// What an item stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Value {
    /// `%ts`, `%tsc`.
    TerminationState,
    Frontend,
    Backend,
    Server,
    /// When the connection or the request came, in any form.
    Start,
    /// The same as seconds since 1970.
    StartSeconds,
    /// `%Tc`.
    Connect,
    /// `%Tr`.
    Response,
    /// `%Tt`, `%Ta`.
    Total,
    SourceAddress,
    SourcePort,
    ServerAddress,
    ServerPort,
    Pid,
    /// A number that is not needed.
    Number,
    /// Text of a client's in which HAProxy writes quotes as `#22` (`hdr_encode_map`, `url_encode_map`).
    Encoded,
    /// Anything.
    Free,
}

/// Aliases and the sample fetches that give the same.
const VALUES: &[(&str, Value)] = &[
    ("ts", Value::TerminationState),
    ("tsc", Value::TerminationState),
    ("[txn.sess_term_state]", Value::TerminationState),
    ("f", Value::Frontend),
    ("ft", Value::Frontend),
    ("[fe_name]", Value::Frontend),
    ("b", Value::Backend),
    ("[be_name]", Value::Backend),
    ("s", Value::Server),
    ("[srv_name]", Value::Server),
    ("t", Value::Start),
    ("T", Value::Start),
    ("Tl", Value::Start),
    ("tr", Value::Start),
    ("trg", Value::Start),
    ("trl", Value::Start),
    ("Ts", Value::StartSeconds),
    ("[accept_date]", Value::StartSeconds),
    ("[request_date]", Value::StartSeconds),
    ("Tc", Value::Connect),
    ("[bc.timer.connect]", Value::Connect),
    ("Tr", Value::Response),
    ("[res.timer.hdr]", Value::Response),
    ("Tt", Value::Total),
    ("[fc.timer.total]", Value::Total),
    ("Ta", Value::Total),
    ("[txn.timer.total]", Value::Total),
    ("bi", Value::SourceAddress),
    ("[bc_src]", Value::SourceAddress),
    ("bp", Value::SourcePort),
    ("[bc_src_port]", Value::SourcePort),
    ("si", Value::ServerAddress),
    ("[bc_dst]", Value::ServerAddress),
    ("sp", Value::ServerPort),
    ("[bc_dst_port]", Value::ServerPort),
    ("pid", Value::Pid),
    ("[pid]", Value::Pid),
];
/// Other aliases that are numbers.
const NUMBERS: &[&str] = &[
    "B", "ST", "Th", "Ti", "Tq", "TR", "Td", "Tu", "Tw", "U", "ac", "bc", "bq", "cp", "fc", "fp",
    "lc", "ms", "rc", "rt", "sc", "sq",
];
/// Other aliases whose quotes are written as `#22`.
const ENCODED: &[&str] =
    &["hr", "hrl", "hs", "hsl", "HM", "HP", "HPO", "HQ", "HU", "HV", "r", "ci", "fi", "H"];
/// All others.
const FREE: &[&str] = &["CC", "CS", "ID", "OG", "sslc", "sslv"];

impl Value {
    fn of(item: &str) -> Option<Self> {
        // Expressions may be followed by converters, which change what they give.
        let named = VALUES.iter().find(|(name, _)| *name == item).map(|row| row.1);
        named.or_else(|| match item {
            _ if NUMBERS.contains(&item) => Some(Self::Number),
            _ if ENCODED.contains(&item) => Some(Self::Encoded),
            _ if FREE.contains(&item) || item.starts_with('[') => Some(Self::Free),
            _ => None,
        })
    }

    /// Whether events need it.
    pub fn is_wanted(self) -> bool {
        !matches!(self, Self::Number | Self::Encoded | Self::Free)
    }
}

impl LogFormat {
    /// Index of the last item that events need.
    pub(super) fn last_wanted(&self) -> usize {
        let is_wanted =
            |item: &Item| matches!(item, Item::Value { value, .. } if value.is_wanted());
        self.items.iter().rposition(is_wanted).unwrap_or(0)
    }

    /// Whether a client can write what looks like the items that events need: text of its own that no
    /// quote ends stands before one of them.
    pub(super) fn can_be_forged(&self) -> bool {
        let before = &self.items[..self.last_wanted()];
        let is_open = |(index, item): (usize, &Item)| match item {
            Item::Value { value: Value::Free, .. } => true,
            Item::Value { value: Value::Encoded, is_quoted: false, .. } => {
                !matches!(self.items.get(index + 1), Some(Item::Text(text)) if text[0] == b'"')
            }
            _ => false,
        };
        !self.is_json && before.iter().enumerate().any(is_open)
    }

    fn has(&self, wanted: Value) -> bool {
        let is_it = |item: &Item| matches!(item, Item::Value { value, .. } if *value == wanted);
        self.items.iter().any(is_it)
    }

    fn check(self) -> Result<Self, String> {
        if !self.has(Value::TerminationState) {
            return Err("it has neither %ts nor %tsc, which tell what failed; add one".to_owned());
        }
        let has_name = self.has(Value::Backend) && self.has(Value::Server);
        let has_address = self.has(Value::ServerAddress) && self.has(Value::ServerPort);
        if !has_name && !has_address {
            return Err("it does not say which server failed; add %b/%s or %si:%sp".to_owned());
        }
        Ok(self)
    }
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for LogFormat {
    type Err = String;

    /// Reads it as HAProxy does once its configuration's own quotes and backslashes are gone.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut format = Self { text: text.to_owned(), items: Vec::new(), is_json: false };
        let mut all_quoted = false;
        let mut rest = text;
        while !rest.is_empty() {
            if format.items.len() == MOST_ITEMS {
                return Err(format!("it has more than {MOST_ITEMS} items"));
            }
            let end = rest.find(['%', ' ', '\t']).unwrap_or(rest.len());
            let (plain, after) = rest.split_at(end);
            format.add_text(plain);
            rest = match after.strip_prefix('%') {
                None => {
                    if !after.is_empty() {
                        format.items.push(Item::Blank);
                    }
                    after.trim_start_matches([' ', '\t'])
                }
                Some(after) if after.starts_with('%') => {
                    format.add_text("%");
                    &after[1..]
                }
                Some(after) => {
                    let (written, after) = Written::read(after)?;
                    let is_quoted = written.flag("Q").unwrap_or(all_quoted);
                    if written.item == "o" {
                        all_quoted = is_quoted;
                        format.is_json |= written.flag("json") == Some(true);
                        if written.flag("cbor") == Some(true) {
                            return Err("lines in CBOR are not read".to_owned());
                        }
                    } else {
                        format.items.push(written.value(is_quoted)?);
                    }
                    after
                }
            };
        }
        format.check()
    }
}

impl LogFormat {
    fn add_text(&mut self, text: &str) {
        match self.items.last_mut() {
            _ if text.is_empty() => {}
            Some(Item::Text(before)) => before.extend(text.bytes()),
            _ => self.items.push(Item::Text(text.into())),
        }
    }
}

/// An item as it is written: `%(NAME:TYPE){FLAGS}ITEM`.
struct Written<'a> {
    name: &'a str,
    flags: &'a str,
    item: &'a str,
}

impl<'a> Written<'a> {
    /// Reads what follows `%`, and gives what follows the item.
    fn read(rest: &'a str) -> Result<(Self, &'a str), String> {
        let inside = |rest: &'a str, open: char, close: char| match rest.strip_prefix(open) {
            Some(rest) => {
                rest.split_once(close).ok_or_else(|| format!("a {open} has no {close} after it"))
            }
            None => Ok(("", rest)),
        };
        let (name, rest) = inside(rest, '(', ')')?;
        let (flags, rest) = inside(rest, '{', '}')?;
        let end = if rest.starts_with('[') {
            expression(rest).ok_or("a [ has no ] after it")?
        } else {
            rest.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(rest.len())
        };
        let (item, rest) = rest.split_at(end);
        let name = name.split(':').next().unwrap_or_default();
        Ok((Self { name, flags, item }, rest))
    }

    /// Whether a flag is set or cleared.
    fn flag(&self, flag: &str) -> Option<bool> {
        let mut flags = self.flags.split(',').map(str::trim).rev();
        flags.find_map(|it| match it.split_at_checked(1)? {
            ("+", name) if name == flag => Some(true),
            ("-", name) if name == flag => Some(false),
            _ => None,
        })
    }

    fn value(&self, is_quoted: bool) -> Result<Item, String> {
        let value = Value::of(self.item)
            .ok_or_else(|| format!("%{} is no item of HAProxy's", self.item))?;
        // As hexadecimal digits it is not read.
        let value = if self.flag("X") == Some(true) { Value::Free } else { value };
        Ok(Item::Value { value, is_quoted, name: self.name.to_owned() })
    }
}

/// Length of the expression in brackets that `rest` begins with: brackets inside parentheses belong to an
/// argument.
fn expression(rest: &str) -> Option<usize> {
    let mut depth = 0_u32;
    for (at, byte) in rest.bytes().enumerate() {
        match byte {
            b'(' => depth += 1,
            b')' => depth = depth.saturating_sub(1),
            b']' if depth == 0 => return Some(at + 1),
            _ => {}
        }
    }
    None
}

impl Value {
    /// How many of the bytes at the start of `line` it may take.
    pub(super) fn longest(self, line: &[u8]) -> usize {
        let run = |allowed: fn(u8) -> bool| {
            line.iter().position(|byte| !allowed(*byte)).unwrap_or(line.len())
        };
        match self {
            Self::TerminationState => run(|b| b.is_ascii_alphabetic() || b == b'-').min(4),
            // Names hold no other (`invalid_char`); `<NOSRV>`, `<STATS>`; `fe~` for TLS.
            Self::Frontend | Self::Backend | Self::Server => {
                run(|b| b.is_ascii_alphanumeric() || b"_-.:<>~".contains(&b))
            }
            Self::SourceAddress | Self::ServerAddress => {
                run(|b| b.is_ascii_hexdigit() || b".:-".contains(&b))
            }
            Self::Start => run(|b| b.is_ascii_alphanumeric() || b"/:.+- ".contains(&b)),
            Self::Encoded => run(|b| b != b'"'),
            Self::Free => line.len(),
            // An incomplete number has a plus (`option logasap`), a missing one is `-`.
            _ => {
                let sign = usize::from(matches!(line.first(), Some(b'+' | b'-')));
                match number(&line[sign..]) {
                    Some((_, rest)) => line.len() - rest.len(),
                    None => usize::from(line.first() == Some(&b'-')),
                }
            }
        }
    }

    /// Whether it may be empty.
    pub(super) fn may_be_empty(self) -> bool {
        matches!(self, Self::Encoded | Self::Free)
    }
}
