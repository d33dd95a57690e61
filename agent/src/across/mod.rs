//! The join across hosts: each agent tells on a NATS JetStream subject what it saw and heard, and
//! whoever reads that makes the verdicts that no agent could give alone, by the same code.
//!
//! `message.rs` is what goes over the wire; `witness.rs` puts it together at each tick, `outbox.rs`
//! keeps it while the bus is away, `publisher.rs` hands it over, `bus.rs` connects, as whom `secret.rs`
//! says, and `subject.rs` names the subjects. On the other side `reader.rs` reads, `validate.rs` checks
//! each message, `share.rs` limits what a host may send and `punctuality.rs` how long it is waited for,
//! `clock.rs` measures clocks against the bus', `fleet.rs` keeps what the hosts told, and `joiner.rs`
//! joins it.

mod bus;
mod clock;
mod fleet;
mod joiner;
mod message;
mod outbox;
mod publisher;
mod punctuality;
mod reader;
mod secret;
mod share;
mod subject;
mod validate;
mod witness;

pub use bus::{Bus, BusConfig, EVIDENCE_STREAM, VERDICT_STREAM};
pub use clock::Exchange;
pub use fleet::HostState;
pub use joiner::{Joined, Joiner, Stored};
pub use message::{Content, Message, Tick, VERSION};
pub use outbox::{Outbox, Outgoing, OutletStats};
pub use publisher::{publish, publish_verdicts};
pub use reader::{Delivery, Reader};
pub use subject::check_host_name;
pub use validate::{Refusal, Refusals, Refused};
pub use witness::Witness;
