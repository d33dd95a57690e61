//! Envoy: the outlier detection event log (`outlier.rs`), and access logs in the default text format
//! and as JSON (`access.rs`).

mod access;
mod outlier;
mod words;

use crate::proxy::event::{Carrier, ProxyEvent};

/// Reads one line, without its line feed. `None` for everything that is no event of an upstream.
pub fn parse(line: &[u8], carrier: &Carrier<'_>) -> Option<ProxyEvent> {
    match line.first()? {
        b'{' => outlier::event_of(line, carrier).or_else(|| access::of_json(line, carrier)),
        b'[' => access::of_text(line, carrier),
        _ => None,
    }
}
