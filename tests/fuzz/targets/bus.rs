//! Whatever a host publishes, on whatever subject and with whatever it says of its clock: a reader
//! returns, what it prints is printable, and honest hosts' verdicts still come.

#![no_main]

use std::time::Duration;

use floodmark::{
    across::{Joiner, Stored},
    time::UnixMs,
};
use libfuzzer_sys::fuzz_target;

const BEGIN: u64 = 1_795_204_075_000;

// A message on each line: the milliseconds since the one before, a subject, an exchange and the
// payload, with tabs between.
fuzz_target!(|input: &[u8]| {
    let mut joiner = Joiner::new(Duration::from_secs(60));
    let mut at = BEGIN;
    for (place, line) in input.split(|byte| *byte == b'\n').enumerate() {
        let mut fields = line.splitn(4, |byte| *byte == b'\t');
        let mut text = || String::from_utf8_lossy(fields.next().unwrap_or_default()).into_owned();
        let (later, subject, exchange) = (text(), text(), text());
        at += later.parse::<u64>().unwrap_or_default() % 100_000;
        let payload = fields.next().unwrap_or_default();
        let stored = Stored {
            sequence: place as u64 + 1,
            at: UnixMs(at),
            exchange: exchange.parse().ok(),
        };
        for joined in joiner.receive(&subject, payload, stored) {
            let hosts = joined.listener_host.iter().chain([&joined.proxy_host]);
            assert!(hosts.into_iter().all(|host| !host.contains(char::is_control)));
            serde_json::to_vec(&joined).unwrap();
        }
    }
    let most = input.len() as u64;
    assert!(joiner.pending() as u64 <= most && joiner.hosts().len() as u64 <= most);
});
