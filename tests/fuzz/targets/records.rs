//! Whatever a path holds, the record of a file that is not there is no event; nor is any line of it.

#![no_main]

use std::fmt::Write;

use floodmark::{
    proxy::{Dialect, source::Interpreter},
    time::UnixMs,
};
use libfuzzer_sys::fuzz_target;

/// NGX_MAX_ERROR_STR, and OpenResty's.
const LENGTHS: [usize; 2] = [2048, 4096];

fuzz_target!(|path: &[u8]| {
    let mut request = String::new();
    for byte in path {
        let _ = match byte {
            b'a'..=b'z' | b'0'..=b'9' => write!(request, "{}", char::from(*byte)),
            _ => write!(request, "%{byte:02x}"),
        };
    }
    for length in LENGTHS {
        let mut interpreter = Interpreter::new(Dialect::Nginx, "fuzz".to_owned());
        let mut record = b"2026/11/20 19:47:51 [error] 1#1: *4 open() \"/srv/www/".to_vec();
        record.extend_from_slice(path);
        let end = format!(
            "\" failed (2: No such file or directory), client: 127.0.0.1, server: , request: \"GET \
             /{request} HTTP/1.1\", host: \"h\""
        );
        record.extend_from_slice(end.as_bytes());
        record.truncate(length - 1);
        let mut events = Vec::new();
        for line in record.split(|byte| *byte == b'\n') {
            events.append(&mut interpreter.read(line, UnixMs(1_795_204_075_000)));
        }
        events.append(&mut interpreter.settle());
        assert!(events.is_empty(), "{:?}", String::from_utf8_lossy(&record));
    }
});
