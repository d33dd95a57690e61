//! What the proxy says: dialects, and the sources they are read from.

mod bytes;
mod dialect;
mod directory;
mod event;
mod home;
mod local_time;
pub(crate) mod process;
pub mod source;
pub mod uprobe;

pub use dialect::{Dialect, haproxy::servers::Servers};
pub use directory::Directory;
pub use event::{Carrier, EventKind, Failure, Phase, ProxyEvent, ProxyKind, Trust, Upstream};
pub use home::Homes;
pub use source::SourceStats;
