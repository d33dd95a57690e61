//! From a source's raw lines to events.

use std::sync::Arc;

use super::{
    SourceStats,
    carrier::{Unwrapped, Unwrapper},
};
use crate::{
    proxy::{
        dialect::{Dialect, nginx},
        event::ProxyEvent,
    },
    time::UnixMs,
};

/// As much of an event's line is kept with it.
const LINE_KEPT: usize = 2048;

/// Reads the lines of one source.
#[derive(Debug)]
pub struct Interpreter {
    /// None where each line's own looks decide.
    dialect: Option<Dialect>,
    name: String,
    stats: Arc<SourceStats>,
    unwrapper: Unwrapper,
}

impl Interpreter {
    /// Reads lines in `dialect`, or in whichever each shows itself to be, of the source `name`.
    pub fn new(dialect: Option<Dialect>, name: String) -> Self {
        Self { dialect, name, stats: Arc::default(), unwrapper: Unwrapper::default() }
    }

    /// Another one for the same source, to read a second stream beside it.
    pub fn twin(&self) -> Self {
        Self {
            dialect: self.dialect,
            name: self.name.clone(),
            stats: Arc::clone(&self.stats),
            unwrapper: Unwrapper::default(),
        }
    }

    /// Name of the source.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The source's counters.
    pub fn stats(&self) -> &Arc<SourceStats> {
        &self.stats
    }

    /// Reads one line, without its line feed, that came at `read_at`.
    pub fn read(&mut self, line: &[u8], read_at: UnixMs) -> Option<ProxyEvent> {
        SourceStats::count(&self.stats.lines);
        let (line, stamp) = match self.unwrapper.unwrap(line) {
            Unwrapped::Line(line, stamp) => (line, stamp),
            Unwrapped::Piece => return None,
            Unwrapped::TooLong => {
                SourceStats::count(&self.stats.lines_too_long);
                return None;
            }
        };
        let dialect = self.dialect.or_else(|| Dialect::of_line(&line))?;
        if dialect == Dialect::Nginx && line.len() >= nginx::LONGEST_LINE {
            SourceStats::count(&self.stats.lines_cut);
        }
        let event = dialect.parse(&line, &stamp.carrier(&self.name, read_at))?;
        SourceStats::count(&self.stats.events);
        let beginning = &line[..line.len().min(LINE_KEPT)];
        Some(ProxyEvent { line: Some(String::from_utf8_lossy(beginning).into_owned()), ..event })
    }
}
