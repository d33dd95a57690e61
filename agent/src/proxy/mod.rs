//! What the proxy says: dialects, and the sources they are read from.

mod bytes;
mod dialect;
mod directory;
mod event;
mod home;
mod logfmt;
pub(crate) mod process;
pub mod source;
#[cfg(test)]
mod tests;
mod timestamp;
pub mod uprobe;
mod zone;

pub use dialect::{
    Dialect,
    haproxy::{LogFormat, servers::Servers},
};
pub use directory::Directory;
pub use event::{
    Carrier, EventKind, Failure, Phase, ProxyEvent, ProxyKind, Reading, Trust, Upstream,
};
pub use home::Homes;
pub use source::SourceStats;
pub use timestamp::When;
