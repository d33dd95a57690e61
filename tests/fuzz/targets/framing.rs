//! However a stream is cut in pieces, its messages are the same, and no more is held than one.

#![no_main]

use floodmark::proxy::source::{Frames, LONGEST_LINE};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u8, &[u8])| {
    let (size, stream) = input;
    let read = |size: usize| {
        let mut frames = Frames::default();
        let mut found = Vec::new();
        for piece in stream.chunks(size) {
            frames.push(piece);
            found.extend(frames.by_ref().map(|frame| format!("{frame:?}")));
            assert!(frames.held() <= LONGEST_LINE + size + 8);
        }
        found.extend(frames.ending().map(|bytes| format!("{bytes:?}")));
        found
    };
    assert_eq!(read(usize::from(size).max(1)), read(stream.len().max(1)));
});
