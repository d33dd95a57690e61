//! However a file grows, each of its lines is read once, and an end that is missing is waited for.

#![no_main]

use std::{
    fs::File,
    io::Write,
    sync::atomic::{AtomicU64, Ordering},
};

use floodmark::{
    proxy::{
        Dialect,
        source::{Follower, Interpreter},
    },
    time::UnixMs,
};
use libfuzzer_sys::fuzz_target;

static RUNS: AtomicU64 = AtomicU64::new(0);

fuzz_target!(|pieces: Vec<&[u8]>| {
    let run = RUNS.fetch_add(1, Ordering::Relaxed) % 16;
    let path = std::env::temp_dir().join(format!("floodmark-fuzz-{}-{run}", std::process::id()));
    let mut file = File::create(&path).unwrap();
    let reader = Interpreter::new(Some(Dialect::Nginx), "fuzz".to_owned());
    let mut follower = Follower::new(&path, reader, None);
    for piece in &pieces {
        file.write_all(piece).unwrap();
        follower.poll(UnixMs(1_795_204_075_000));
    }
    let all: Vec<u8> = pieces.concat();
    // Lines longer than are kept are not counted.
    let lines = all.iter().filter(|byte| **byte == b'\n').count() as u64;
    assert_eq!(follower.stats().lines.load(Ordering::Relaxed), lines);
    let _ = std::fs::remove_file(&path);
});
