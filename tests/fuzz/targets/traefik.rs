//! Lines of the traefik dialect.

#![no_main]

#[path = "../dialect.rs"]
mod dialect;

use floodmark::proxy::Dialect;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|line: &[u8]| dialect::read(Dialect::Traefik, line));
