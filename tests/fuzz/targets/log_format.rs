//! A `log-format` of HAProxy's on the first line, and a line in it on the second.

#![no_main]

use floodmark::{
    proxy::{Carrier, Dialect, LogFormat},
    time::UnixMs,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some(end) = input.iter().position(|byte| *byte == b'\n') else { return };
    let Ok(text) = std::str::from_utf8(&input[..end]) else { return };
    let Ok(format) = text.parse::<LogFormat>() else { return };
    let formats = [format];
    let carrier = Carrier {
        log_formats: &formats,
        ..Carrier::plain("fuzz", UnixMs(1_795_204_075_000))
    };
    if let Some(event) = Dialect::Haproxy.parse(&input[end + 1..], &carrier) {
        assert_eq!(event.proxy, Dialect::Haproxy.proxy());
    }
});
