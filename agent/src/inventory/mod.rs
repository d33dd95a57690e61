//! Who owns what.

mod listener;

pub use listener::{Listener, Owner};
