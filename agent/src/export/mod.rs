//! What leaves the agent: Prometheus metrics and a few pages, over HTTP.

mod correlation;
mod families;
#[cfg(test)]
mod fixture;
mod flows;
mod http;
mod listeners;
mod metrics;
pub mod otlp;
mod outlets;
mod protobuf;
#[cfg(test)]
mod reference;

pub use correlation::{Correlation, serve_correlation};
pub use http::{bind, serve};
pub use metrics::render;
