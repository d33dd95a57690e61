//! From a source's raw lines to events.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use log::info;

use super::{
    SourceStats,
    carrier::{Stamp, Stream, Unwrapped, Unwrapper},
    format::Format,
    writers::{Scope, Writers},
};
use crate::{
    clock::AgentClock,
    proxy::{
        dialect::{
            Dialect,
            nginx::{self, Judged, Records},
        },
        event::{ProxyEvent, Trust},
    },
    time::{UnixMs, Window},
};

/// As much of an event's line is kept with it.
const LINE_KEPT: usize = 2048;

/// Reads the lines of one source.
#[derive(Debug)]
pub struct Interpreter {
    format: Format,
    name: String,
    stats: Arc<SourceStats>,
    unwrapper: Unwrapper,
    records: [Records; Stream::COUNT],
    writers: Writers,
    clock: &'static AgentClock,
    /// Reads what was written while nobody looked: its writers may have ended unseen.
    is_behind: bool,
}

impl Interpreter {
    /// Reads lines in `format` of the source `name`.
    pub fn new(format: impl Into<Format>, name: String) -> Self {
        Self {
            format: format.into(),
            name,
            stats: Arc::default(),
            unwrapper: Unwrapper::default(),
            records: Default::default(),
            writers: Writers::default(),
            clock: AgentClock::own(),
            is_behind: false,
        }
    }

    /// Has it read time stamps by another clock than this process's.
    pub fn by_clock(self, clock: &'static AgentClock) -> Self {
        Self { clock, ..self }
    }

    /// Has it know whose lines the source may bring.
    pub(super) fn written_by(self, scope: Scope) -> Self {
        Self { writers: Writers::of(scope), ..self }
    }

    /// Has it know whether the next lines were written while nobody looked.
    pub(super) fn catch_up(&mut self, is_behind: bool) {
        self.is_behind = is_behind;
    }

    /// Another one for the same source, to read a second stream beside it.
    pub fn for_stream(&self) -> Self {
        let stats = Arc::clone(&self.stats);
        let other = Self::new(self.format.clone(), self.name.clone()).by_clock(self.clock);
        Self { stats, ..other.written_by(self.writers.scope().clone()) }
    }

    /// Name of the source.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The source's counters.
    pub fn stats(&self) -> &Arc<SourceStats> {
        &self.stats
    }

    /// Reads one line, without its line feed, that came at `read_at` by
    /// the agent's clock. Gives the events that are sure by
    /// now, of this line or of earlier ones.
    pub fn read(&mut self, line: &[u8], read_at: UnixMs) -> Vec<ProxyEvent> {
        SourceStats::count(&self.stats.lines);
        let (line, stamp) = match self.unwrapper.unwrap(line) {
            Unwrapped::Line(line, stamp) => (line, stamp),
            Unwrapped::Piece => return Vec::new(),
            Unwrapped::TooLong => {
                SourceStats::count(&self.stats.lines_too_long);
                return Vec::new();
            }
        };
        let length = line.len() + 1;
        let line = line.strip_suffix(b"\r").unwrap_or(&line);
        let dialect = self.format.dialect.or_else(|| Dialect::of_line(line));
        if dialect == Some(Dialect::Nginx) && line.len() >= nginx::LONGEST_LINE {
            SourceStats::count(&self.stats.lines_cut);
        }
        let event = dialect.and_then(|dialect| self.event(dialect, line, &stamp, read_at));
        // A source that may bring nginx's records may bring lines of one in any form.
        if self.format.dialect.is_some_and(|dialect| dialect != Dialect::Nginx) {
            self.stats.events.fetch_add(u64::from(event.is_some()), Ordering::Relaxed);
            return event.into_iter().collect();
        }
        let judged = self.records[stamp.stream as usize].read(line, length, event);
        self.count(judged)
    }

    /// Takes in that nothing has followed for a while: whatever was written last has come to its end.
    /// Gives the events that are sure by that.
    pub fn settle(&mut self) -> Vec<ProxyEvent> {
        if let Some(dialect) = self.format.dialect {
            self.writers.refresh(dialect.proxy());
        }
        let mut events = Vec::new();
        for stream in 0..Stream::COUNT {
            let judged = self.records[stream].settle();
            events.append(&mut self.count(judged));
        }
        events
    }

    fn event(
        &mut self,
        dialect: Dialect,
        line: &[u8],
        stamp: &Stamp,
        read_at: UnixMs,
    ) -> Option<ProxyEvent> {
        let event = self.parse(dialect, line, stamp, read_at)?;
        let fits = stamp.tag.as_ref().is_none_or(|tag| self.format.fits(dialect, tag));
        let numbers = match dialect {
            Dialect::Nginx => nginx::numbers(line),
            _ => event.pid.map(|pid| (pid, 0)),
        };
        let trust = self.writers.trust(dialect.proxy(), numbers);
        let trust = trust.or(self.is_behind.then_some(Trust::Unverified));
        let Some(trust) = trust.filter(|_| fits) else {
            SourceStats::count(&self.stats.lines_foreign);
            return None;
        };
        if trust != Trust::Verified
            && self.stats.events_unverified.fetch_add(1, Ordering::Relaxed) == 0
        {
            info!(
                "{}: cannot check which process writes it; verdicts on it have medium confidence at \
                 most",
                self.name
            );
        }
        let beginning = String::from_utf8_lossy(&line[..line.len().min(LINE_KEPT)]).into_owned();
        Some(ProxyEvent { line: Some(beginning), trust, ..event })
    }

    /// Parsers know the wall clock only: what they are told of time is by it, and what they tell. Where
    /// it has been set lately a line is parsed by each setting, see [`ClockSteps::place`].
    ///
    /// [`ClockSteps::place`]: crate::clock::ClockSteps::place
    fn parse(
        &self,
        dialect: Dialect,
        line: &[u8],
        stamp: &Stamp,
        read_at: UnixMs,
    ) -> Option<ProxyEvent> {
        self.clock.compare().place(read_at, |shift_ms| {
            let carrier = stamp.carrier(&self.name, read_at.shifted(shift_ms));
            let event = dialect.parse(line, &carrier)?.shifted(-shift_ms);
            let precision = Duration::from_millis(event.precision_ms.into());
            let written = Window { from: event.at, to: event.at.later(precision) };
            Some((event, written))
        })
    }

    fn count(&self, judged: Judged) -> Vec<ProxyEvent> {
        self.stats.events.fetch_add(judged.own.len() as u64, Ordering::Relaxed);
        self.stats.lines_foreign.fetch_add(judged.foreign, Ordering::Relaxed);
        judged.own
    }
}
