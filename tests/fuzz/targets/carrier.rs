//! Whatever a container runtime, journald or syslog writes, its wrapping comes off or stays on.

#![no_main]

use floodmark::{proxy::source::Interpreter, time::UnixMs};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|lines: &[u8]| {
    let mut interpreter = Interpreter::new(None, "fuzz".to_owned());
    for line in lines.split(|byte| *byte == b'\n') {
        interpreter.read(line, UnixMs(1_795_204_075_000));
    }
});
