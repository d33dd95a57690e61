//! nginx's configuration, and what is built on it.

mod arity;
mod fixes;
mod load;
mod model;
pub mod rules;
pub mod token;
pub mod tree;

pub use load::{Loaded, from_dump, from_root};

use super::{
    finding::{Facts, Finding},
    text::Texts,
};

/// Applies every rule to a configuration.
pub fn check(loaded: &Loaded, texts: &Texts, facts: &Facts) -> Vec<Finding> {
    rules::check(&model::Model::of(&loaded.tree, texts, !loaded.broken.is_empty()), facts)
}
