//! What a source has read and what it has lost.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters of one source, for metrics.
#[derive(Debug, Default)]
pub struct SourceStats {
    /// Complete lines.
    pub lines: AtomicU64,
    /// Lines that were an event.
    pub events: AtomicU64,
    /// Lines longer than is kept, thrown away.
    pub lines_too_long: AtomicU64,
    /// Lines that the proxy itself had cut, whose end is unknown.
    pub lines_cut: AtomicU64,
    /// Events of which nobody can say from here which process wrote them.
    pub events_unverified: AtomicU64,
    /// Lines in the form of an event that are not, or may not be, the proxy's own.
    pub lines_foreign: AtomicU64,
    /// Lines in the form of an event that were written longer ago than the agent remembers.
    pub lines_old: AtomicU64,
    /// Messages that the kernel threw away because the socket's buffer was full, and connections
    /// refused because there were too many.
    pub dropped: AtomicU64,
    /// Times another file took the name, or the file was cut short.
    pub rotations: AtomicU64,
    /// Failed reads and opens.
    pub errors: AtomicU64,
    /// Bytes of a file that were left out, because too many waited to be read.
    pub skipped_bytes: AtomicU64,
    /// Bytes written and not read yet, when last looked at.
    pub lag_bytes: AtomicU64,
}

impl SourceStats {
    /// One more.
    pub(in crate::proxy) fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}
