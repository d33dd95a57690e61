//! The incident file: everything from which the agent drew its conclusions, tick by tick, so that
//! the same code draws them again. `docs/recording.md` describes the format.
//!
//! A [`Recorder`] turns ticks into blocks and hands them to a [`Sink`]: a file of bounded size, or
//! the [`Hindsight`] of a running agent. [`Reader`] gives the ticks back, whatever befell the file,
//! and [`replay`](fn@replay) goes through them.

mod block;
mod entry;
mod events;
mod file;
mod hindsight;
mod reader;
mod recorder;
mod redact;
mod replay;
mod socket;
mod state;
mod weight;

pub use block::{Block, Header, NotARecording, VERSION};
pub use entry::{Entry, Tick};
pub use events::EventColumns;
pub use file::{FileSink, transcribe};
pub use hindsight::{Bounds, Hindsight};
pub use reader::{Damage, Reader};
pub use recorder::{Moment, Recorder, Sink};
pub use redact::Redactor;
pub use replay::{Comparison, Replay, replay};
pub use socket::{fetch, serve};
pub use state::{State, StateChanges};

#[cfg(test)]
mod tests;
