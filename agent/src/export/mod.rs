//! What leaves the agent: Prometheus metrics and a few pages, over HTTP.

mod correlation;
mod families;
#[cfg(test)]
pub(crate) mod fixture;
mod flows;
mod health;
mod http;
mod landing;
mod listeners;
mod losses;
mod metrics;
pub mod otlp;
mod outlets;
mod protobuf;
mod proxies;
#[cfg(test)]
mod reference;
mod rendered;
mod server;
mod web;

pub use correlation::{Correlation, serve_correlation};
pub use http::serve;
pub use metrics::render;
pub use server::{bind, parse_host};
pub use web::{Web, WebConfig};
