//! nginx's configuration, and what is built on it.

mod arity;
mod fixes;
mod load;
mod model;
pub mod rules;
pub mod token;
pub mod tree;

pub use load::{Loaded, from_dump, from_root};

use self::tree::Directive;
use super::{
    finding::{Facts, Finding},
    text::Texts,
};

/// Whether a directive or block is nginx's: one that every configuration, or piece of one, has.
fn is_nginxs(directive: &Directive) -> bool {
    const BLOCKS: [&str; 11] = [
        "http", "stream", "mail", "events", "server", "upstream", "location", "map", "geo",
        "types", "if",
    ];
    const PREFIXES: [&str; 18] = [
        "proxy_",
        "fastcgi_",
        "uwsgi_",
        "scgi_",
        "grpc_",
        "ssl_",
        "gzip",
        "add_header",
        "worker_",
        "error_",
        "access_log",
        "log_format",
        "client_",
        "keepalive",
        "server_",
        "listen",
        "include",
        "limit_",
    ];
    const OTHERS: [&str; 16] = [
        "user",
        "pid",
        "daemon",
        "load_module",
        "root",
        "index",
        "return",
        "rewrite",
        "set",
        "try_files",
        "allow",
        "deny",
        "resolver",
        "default_type",
        "charset",
        "expires",
    ];
    let name = directive.name.value.as_str();
    BLOCKS.contains(&name)
        || OTHERS.contains(&name)
        || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// Whether there is anything of nginx's in a configuration.
pub fn has_any(tree: &[Directive]) -> bool {
    tree.iter().any(|directive| is_nginxs(directive) || has_any(directive.inner()))
}

/// Applies every rule to a configuration.
pub fn check(loaded: &Loaded, texts: &Texts, facts: &Facts) -> Vec<Finding> {
    rules::check(&model::Model::of(&loaded.tree, texts, !loaded.broken.is_empty()), facts)
}
