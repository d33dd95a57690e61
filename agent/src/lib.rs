//! Floodmark: which listener dropped whose connections, at which step of the handshake, why, and
//! which proxy marking that explains. `ARCHITECTURE.md` is the map.

// Whatever is printed goes through `cli/output.rs`, which makes it printable.
#![cfg_attr(not(test), warn(clippy::print_stderr, clippy::print_stdout))]

pub mod across;
pub mod agent;
pub mod capabilities;
pub mod cli;
pub mod clock;
pub mod essential;
pub mod export;
pub mod inventory;
pub mod kernel;
pub mod lint;
pub mod new_file;
pub mod printable;
pub mod proxy;
pub mod raise;
pub mod record;
pub mod report;
pub mod shell;
pub mod stall;
pub mod stock;
pub mod system_calls;
pub mod time;
pub mod untrusted_file;
pub mod verdict;
