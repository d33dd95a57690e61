//! Whatever the line, the apache dialect returns, and what it finds can be told.

#![no_main]

use floodmark::{
    proxy::{Carrier, Dialect},
    time::UnixMs,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|line: &[u8]| {
    let carrier = Carrier::plain("fuzz", UnixMs(1_795_204_075_000));
    if let Some(event) = Dialect::Apache.parse(line, &carrier) {
        assert_eq!(event.proxy, Dialect::Apache.proxy());
        let _ = (event.upstream.to_string(), event.addr(), event.group_name().is_some());
    }
});
