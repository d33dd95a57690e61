//! What the targets of all dialects do with a line.

use floodmark::{
    proxy::{Carrier, Dialect},
    time::UnixMs,
};

/// Whatever the line, the dialect returns, and what it finds can be told.
pub fn read(dialect: Dialect, line: &[u8]) {
    let carrier = Carrier::plain("fuzz", UnixMs(1_795_204_075_000));
    if let Some(event) = dialect.parse(line, &carrier) {
        assert_eq!(event.proxy, dialect.proxy());
        let _ = (event.upstream.to_string(), event.addr(), event.group_name().is_some());
    }
}
