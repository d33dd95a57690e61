//! Small steps through a line of bytes, for every dialect.

use std::borrow::Cow;

pub(super) use memchr::memmem::find;

/// The decimal number that `bytes` begin with, and what follows it.
pub(super) fn number(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let end = bytes.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(bytes.len());
    let digits = std::str::from_utf8(&bytes[..end]).ok()?;
    Some((digits.parse().ok()?, &bytes[end..]))
}

/// What stands before the first `separator`, and what follows that.
pub(super) fn before<'a>(bytes: &'a [u8], separator: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let at = find(bytes, separator)?;
    Some((&bytes[..at], &bytes[at + separator.len()..]))
}

/// The rest of `bytes` after whichever of `starts` they begin with.
pub(super) fn after_any<'a>(bytes: &'a [u8], starts: &[&[u8]]) -> Option<&'a [u8]> {
    starts.iter().find_map(|start| bytes.strip_prefix(*start))
}

/// ASCII text, or none.
pub(super) fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}

/// Length of the ANSI colour (`ESC [ … m`) that `bytes` begin with.
fn ansi(bytes: &[u8]) -> Option<usize> {
    let inside = bytes.strip_prefix(b"\x1b[")?;
    let end = inside.iter().position(|byte| !byte.is_ascii_digit() && *byte != b';')?;
    (inside[end] == b'm').then_some(end + 3)
}

/// What follows the ANSI colours that `bytes` begin with.
pub(super) fn past_ansi(mut bytes: &[u8]) -> &[u8] {
    while let Some(length) = ansi(bytes) {
        bytes = &bytes[length..];
    }
    bytes
}

/// `bytes` without ANSI colours.
pub(super) fn without_ansi(bytes: &[u8]) -> Cow<'_, [u8]> {
    if memchr::memchr(0x1b, bytes).is_none() {
        return Cow::Borrowed(bytes);
    }
    let mut plain = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some(byte) = rest.first() {
        if let Some(length) = ansi(rest) {
            rest = &rest[length..];
        } else {
            plain.push(*byte);
            rest = &rest[1..];
        }
    }
    Cow::Owned(plain)
}
