//! `time=… level=info msg="LINE"`, as many Go programs relay lines.

use super::{Peeled, Stamp};
use crate::{
    proxy::{logfmt::Pairs, timestamp::whole},
    time::UnixMs,
};

const LINE: &[&str] = &["msg", "message", "log", "line"];
const TIME: &[&str] = &["time", "ts", "timestamp", "t"];

pub(super) fn any(line: &[u8], near: UnixMs) -> Option<Peeled> {
    let pairs = Pairs::read(line)?;
    let message = LINE.iter().find_map(|key| pairs.get(key))?.trim_end_matches('\n').to_owned();
    let at = TIME.iter().find_map(|key| whole(pairs.get(key)?, near));
    Some(Peeled::decoded(message, Stamp { at, is_relayed: true, ..Stamp::default() }))
}
