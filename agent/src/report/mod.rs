//! A stretch of time as one page of HTML that needs nothing else: for whoever was not there.
//!
//! [`Timeline`] collects what is drawn while a recording is replayed, `chart.rs` draws it, `page.rs`
//! writes the page around it. Whatever comes from processes and logs goes through maud, which
//! escapes it.

mod chart;
mod limits;
mod page;
mod summary;
mod tables;
mod timeline;

pub use page::render;
pub use timeline::Timeline;

#[cfg(test)]
mod tests;
