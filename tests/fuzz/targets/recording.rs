//! Whatever is in a file that claims to be a recording, reading it ends and nothing panics; and what
//! is behind a whole header is read as far as it is whole.

#![no_main]

use floodmark::{
    record::{Header, Reader, replay},
    report::{Timeline, render},
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let behind_a_header = [&Header::default().to_bytes(), bytes].concat();
    for bytes in [bytes, &behind_a_header] {
        let Ok(reader) = Reader::open(bytes) else { continue };
        let mut timeline = Timeline::default();
        if let Ok(replayed) = replay(reader, |tick, state| timeline.add(tick, state)) {
            render(&replayed, &timeline, &[]);
        }
    }
});
