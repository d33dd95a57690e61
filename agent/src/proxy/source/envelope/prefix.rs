//! What commands put before each line that print the logs of several containers:
//!
//! ```text
//! [pod/web-0/nginx] …           kubectl logs --prefix
//! [web-0 nginx] …               kubetail
//! web-0 nginx …                 stern
//! nginx-1  | …                  docker compose logs, docker service logs
//! ```
//!
//! with or without colours.

use super::{Peeled, Stamp};
use crate::{
    proxy::bytes::{past_ansi, text},
    time::UnixMs,
};

/// Names are no longer (RFC 1123 allows 253 for a pod's).
const LONGEST_NAME: usize = 253;

pub(super) fn any(line: &[u8], _near: UnixMs) -> Option<Peeled> {
    let (name, rest) = compose(line).or_else(|| bracketed(line)).or_else(|| stern(line))?;
    let stamp = Stamp { origin: Some(name.to_owned()), is_relayed: true, ..Stamp::default() };
    Some(Peeled::rest(line, rest, stamp))
}

/// `NAME  | `.
fn compose(line: &[u8]) -> Option<(&str, &[u8])> {
    let (name, rest) = word(line)?;
    let rest = past_blanks(rest).strip_prefix(b"|")?;
    let rest = past_ansi(rest);
    Some((name, rest.strip_prefix(b" ").unwrap_or(rest)))
}

/// `[pod/NAME/CONTAINER] `, `[NAME] ` and `[NAME CONTAINER] `.
fn bracketed(line: &[u8]) -> Option<(&str, &[u8])> {
    let inside = line.strip_prefix(b"[")?;
    let end = inside.iter().take(2 * LONGEST_NAME).position(|byte| *byte == b']')?;
    let (name, rest) = (text(&inside[..end])?, &inside[end + 1..]);
    let is_kubectl = ["pod/", "pods/"].iter().any(|kind| name.starts_with(kind));
    let mut words = name.split(['/', ' ']);
    let is_pods = is_kubectl || words.clone().next().is_some_and(is_generated);
    let is_named = words.all(|word| !word.is_empty() && word.bytes().all(is_name));
    (is_pods && is_named).then_some(())?;
    Some((name, rest.strip_prefix(b" ")?))
}

/// `POD CONTAINER ` and `NAMESPACE POD CONTAINER `.
fn stern(line: &[u8]) -> Option<(&str, &[u8])> {
    let mut rest = line;
    let mut pod = None;
    for _ in 0..3 {
        let (name, after) = word(rest)?;
        rest = past_blanks(after);
        if rest.len() == after.len() {
            return None;
        }
        if pod.is_some() {
            return Some((pod?, rest));
        }
        pod = Some(name).filter(|name| is_generated(name));
    }
    None
}

fn word(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let bytes = past_ansi(bytes);
    let length = bytes.iter().take(LONGEST_NAME).take_while(|byte| is_name(**byte)).count();
    (length > 0).then_some(())?;
    Some((text(&bytes[..length])?, past_ansi(&bytes[length..])))
}

fn is_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-_.@".contains(&byte)
}

/// A pod's name as controllers make them: `web-7d4b9c-x2k5q`, `db-0`.
fn is_generated(name: &str) -> bool {
    name.contains('-')
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b))
}

fn past_blanks(mut bytes: &[u8]) -> &[u8] {
    loop {
        let rest = past_ansi(bytes);
        match rest.strip_prefix(b" ").or(rest.strip_prefix(b"\xe2\x80\xba")) {
            Some(after) => bytes = after,
            None => return rest,
        }
    }
}
