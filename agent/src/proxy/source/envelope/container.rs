//! Log files of container runtimes.

use std::borrow::Cow;

use serde::Deserialize;

use super::{Inside, Peeled, Stamp, Stream};
use crate::{
    proxy::{
        bytes::{before, text},
        timestamp::{leading, whole},
    },
    time::UnixMs,
};

/// The container runtime interface's log format: `TIME stderr F LINE`, and `P` for a piece.
pub(super) fn cri(line: &[u8], near: UnixMs) -> Option<Peeled> {
    if !line.first()?.is_ascii_digit() {
        return None;
    }
    let (at, rest) = leading(line, near)?;
    let (stream, rest) = before(rest.strip_prefix(b" ")?, b" ")?;
    let stream = Stream::of(text(stream)?)?;
    let (tags, payload) = before(rest, b" ").unwrap_or((rest, b""));
    let is_whole = match tags.split(|byte| *byte == b':').next()? {
        b"F" => true,
        b"P" => false,
        _ => return None,
    };
    let stamp = Stamp { at: Some(at), stream, ..Stamp::default() };
    Some(Peeled { is_whole, ..Peeled::rest(line, payload, stamp) })
}

/// Docker puts no more of a line in one entry (`defaultBufSize` in daemon/logger/copier.go).
const PIECE: usize = 16 * 1024;

/// Docker's json-file log. A longer line comes in pieces, of which the last alone ends in a line feed;
/// shippers drop it from short lines as well.
pub(super) fn docker(line: &[u8], near: UnixMs) -> Option<Peeled> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Entry<'a> {
        #[serde(borrow)]
        log: Cow<'a, str>,
        #[serde(borrow)]
        stream: Cow<'a, str>,
        #[serde(borrow)]
        time: Cow<'a, str>,
        #[serde(default, rename = "attrs")]
        _attrs: serde::de::IgnoredAny,
    }
    if line.first() != Some(&b'{') {
        return None;
    }
    let entry: Entry<'_> = serde_json::from_slice(line).ok()?;
    let stream = Stream::of(&entry.stream)?;
    let mut text = entry.log.into_owned().into_bytes();
    let is_ended = text.last() == Some(&b'\n');
    text.truncate(text.len() - usize::from(is_ended));
    let is_whole = is_ended || text.len() < PIECE;
    let stamp = Stamp { at: whole(&entry.time, near), stream, ..Stamp::default() };
    Some(Peeled { inside: Inside::Decoded(text), stamp, is_whole })
}
