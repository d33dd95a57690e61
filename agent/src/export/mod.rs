//! What leaves the agent: Prometheus metrics and a few pages, over HTTP.

mod families;
#[cfg(test)]
mod fixture;
mod http;
mod metrics;

pub use http::{bind, serve};
pub use metrics::render;
