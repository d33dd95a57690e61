//! Envoy: the event logs of outlier detection (`outlier.rs`) and of health checks (`health.rs`), and
//! access logs in its own and Istio's text formats and as JSON (`access.rs`).

mod access;
mod health;
mod outlier;
mod words;

use crate::proxy::event::{Carrier, ProxyEvent};

/// Reads one line, without its line feed. `None` for everything that is no event of an upstream.
pub fn parse(line: &[u8], carrier: &Carrier<'_>) -> Option<ProxyEvent> {
    match line.first()? {
        b'{' => outlier::event_of(line, carrier)
            .or_else(|| health::event_of(line, carrier))
            .or_else(|| access::of_json(line, carrier)),
        b'[' => access::of_text(line, carrier),
        _ => None,
    }
}
