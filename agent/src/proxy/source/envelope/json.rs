//! JSON: of journald, and of whatever ships logs (Fluent Bit, Vector, Logstash, Filebeat, Loki, clouds).

use serde::Deserialize;
use serde_json::{Map, Value};

use super::{Peeled, Stamp, Stream, Tag};
use crate::{
    proxy::{
        bytes::find,
        timestamp::{When, of_number, whole},
    },
    time::UnixMs,
};

/// `journalctl -o json`: fields as text, or as an array of bytes where they are no UTF-8.
pub(super) fn journal(line: &[u8], _near: UnixMs) -> Option<Peeled> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Message {
        Text(String),
        Bytes(Vec<u8>),
    }
    #[derive(Deserialize)]
    struct Entry {
        #[serde(rename = "MESSAGE")]
        message: Message,
        #[serde(rename = "__REALTIME_TIMESTAMP")]
        microseconds: String,
        #[serde(rename = "_PID")]
        pid: Option<String>,
        #[serde(rename = "SYSLOG_IDENTIFIER")]
        identifier: Option<String>,
        /// Told by those who use syslog(3), and not of what a service's standard error brings.
        #[serde(rename = "SYSLOG_PID")]
        syslog_pid: Option<String>,
        /// Set by Docker's journald driver, whose identifier is the container's.
        #[serde(rename = "CONTAINER_ID")]
        container: Option<String>,
    }
    if line.first() != Some(&b'{') {
        return None;
    }
    find(line, b"\"__REALTIME_TIMESTAMP\"")?;
    let entry: Entry = serde_json::from_slice(line).ok()?;
    let at = entry.microseconds.parse::<u64>().ok().map(|us| When::exact(UnixMs(us / 1000)));
    let identifier = entry.identifier.filter(|_| entry.container.is_none());
    let tag = identifier.map(|name| Tag { name, has_pid: entry.syslog_pid.is_some() });
    let pid = entry.pid.and_then(|pid| pid.parse().ok());
    let origin = entry.container;
    let stamp = Stamp { at, pid, tag, origin, ..Stamp::default() };
    Some(match entry.message {
        Message::Text(text) => Peeled::decoded(text, stamp),
        Message::Bytes(bytes) => Peeled::decoded(bytes, stamp),
    })
}

/// Keys of the line, and of an object that holds it.
const LINE: &[&str] =
    &["log", "message", "msg", "MESSAGE", "line", "textPayload", "original", "body"];
/// Keys of an object further inside that a shipper puts around them.
const AROUND: &[&str] = &["event", "record", "jsonPayload", "data", "json", "stringValue"];
/// Keys of the time at which it was written.
const TIME: &[&str] = &["time", "@timestamp", "timestamp", "ts", "date", "datetime"];

/// An object with a line in it, in whatever order its keys stand.
pub(super) fn any(line: &[u8], near: UnixMs) -> Option<Peeled> {
    // RFC 7464 (`journalctl -o json-seq`).
    let line = line.strip_prefix(b"\x1e").unwrap_or(line);
    if line.first() != Some(&b'{') {
        return None;
    }
    let object: Map<String, Value> = serde_json::from_slice(line).ok()?;
    let at = TIME.iter().find_map(|key| match object.get(*key)? {
        Value::String(text) => whole(text, near),
        Value::Number(number) => of_number(number.as_f64()?),
        _ => None,
    });
    let stream = object.get("stream").and_then(Value::as_str).and_then(Stream::of);
    let stream = stream.unwrap_or_default();
    let stamp = Stamp { at, stream, is_relayed: true, ..Stamp::default() };
    let text = LINE.iter().find_map(|key| object.get(*key)?.as_str());
    if let Some(text) = text {
        return Some(Peeled::decoded(text.trim_end_matches(['\n', '\r']), stamp));
    }
    let inner = LINE.iter().chain(AROUND).find_map(|key| object.get(*key)?.as_object())?;
    Some(Peeled::decoded(serde_json::to_vec(inner).ok()?, stamp))
}
