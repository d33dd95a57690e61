//! What the proxy says: dialects, and the sources they are read from.

mod event;

pub use event::{EventKind, Failure, Phase, ProxyEvent, ProxyKind, Upstream};
