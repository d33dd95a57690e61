//! The drives, one file per theme.

mod acks;
mod closing;
mod cookies;
mod mixed;
mod namespaces;
mod options;
mod ports;
mod requests;
mod reuseport;
mod storms;
mod syn_queue;
mod syn_retransmits;
mod syns;
mod time_wait;

use crate::scenario::Scenario;

/// All of them, theme by theme.
pub const ALL: &[&[Scenario]] = &[
    syns::ALL,
    acks::ALL,
    syn_queue::ALL,
    cookies::ALL,
    requests::ALL,
    mixed::ALL,
    options::ALL,
    reuseport::ALL,
    storms::ALL,
    time_wait::ALL,
    ports::ALL,
    closing::ALL,
    syn_retransmits::ALL,
    namespaces::ALL,
];
