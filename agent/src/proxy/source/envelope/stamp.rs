//! A time before the line, and no more: `docker logs -t`, `kubectl logs --timestamps`, `ts`, and
//! programs that run others.

use super::{Peeled, Stamp};
use crate::{proxy::timestamp::leading, time::UnixMs};

pub(super) fn any(line: &[u8], near: UnixMs) -> Option<Peeled> {
    let (at, rest) = match line.strip_prefix(b"[") {
        Some(inside) => {
            let (at, rest) = leading(inside, near)?;
            (at, rest.strip_prefix(b"]")?)
        }
        None => leading(line, near)?,
    };
    let stamp = Stamp { at: Some(at), ..Stamp::default() };
    Some(Peeled::rest(line, rest.strip_prefix(b" ")?.trim_ascii_start(), stamp))
}
