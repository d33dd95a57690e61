//! What the proxy says: dialects, and the sources they are read from.

mod event;
mod follow;
pub mod nginx;

pub use event::{EventKind, Failure, Phase, ProxyEvent, ProxyKind, Upstream};
pub use follow::{Follower, SourceStats};
