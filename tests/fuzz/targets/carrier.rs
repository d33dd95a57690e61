//! Whatever a container runtime, journald or syslog writes, its wrapping comes off or stays on.

#![no_main]

use floodmark::{proxy::source::{Format, Interpreter}, time::UnixMs};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|lines: &[u8]| {
    let mut interpreter = Interpreter::new(Format::default(), "fuzz".to_owned());
    for line in lines.split(|byte| *byte == b'\n') {
        interpreter.read(line, UnixMs(1_795_204_075_000));
    }
    interpreter.settle();
});
