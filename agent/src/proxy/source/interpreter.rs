//! From a source's raw lines to events.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
};

use log::info;

use super::{
    SourceStats,
    dating::{Dated, Dating, dated_in},
    envelope::{Found, Stamp, Stream, Unwrapped, Unwrapper, View},
    format::Format,
    writers::{Scope, Writers},
};
use crate::{
    clock::{AgentClock, ClockSteps},
    proxy::{
        dialect::{
            Dialect,
            nginx::{self, Judged, Records},
        },
        event::{Carrier, ProxyEvent, Trust},
    },
    time::UnixMs,
};

/// As much of an event's line is kept with it.
const LINE_KEPT: usize = 2048;
/// Hosts, pods and containers told apart in one source.
const MOST_ORIGINS: usize = 256;
/// The name for all others, which no wrapping can give.
const OTHERS: &str = "\n";

/// Reads the lines of one source.
#[derive(Debug)]
pub struct Interpreter {
    format: Format,
    name: String,
    stats: Arc<SourceStats>,
    unwrapper: Unwrapper,
    /// Those whose lines it brings, by the names that wrappings give them.
    origins: BTreeMap<String, Origin>,
    writers: Writers,
    clock: &'static AgentClock,
    /// Reads what was written while nobody looked: its writers may have ended unseen.
    is_behind: bool,
    /// Nothing has been waited for yet: what comes first may be what was written long before.
    may_be_history: bool,
}

/// One of those whose lines a source brings.
#[derive(Debug, Default)]
struct Origin {
    records: [Records; Stream::COUNT],
    dating: Dating,
}

impl Interpreter {
    /// Reads lines in `format` of the source `name`.
    pub fn new(format: impl Into<Format>, name: String) -> Self {
        Self {
            format: format.into(),
            name,
            stats: Arc::default(),
            unwrapper: Unwrapper::default(),
            origins: BTreeMap::new(),
            may_be_history: false,
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

    /// Has it know that what comes at once may have been written long before, as what
    /// `kubectl logs` prints first.
    pub fn with_history(self) -> Self {
        Self { may_be_history: true, ..self }
    }

    /// Has it know whether the next lines were written while nobody looked. Gives the events that are
    /// sure once there are no more of those.
    pub(super) fn catch_up(&mut self, is_behind: bool) -> Vec<ProxyEvent> {
        let was_behind = std::mem::replace(&mut self.is_behind, is_behind);
        let steps = self.clock.compare();
        let mut all = Dated::default();
        for origin in self.origins.values_mut().filter(|_| was_behind && !is_behind) {
            all.append(origin.dating.settle(&steps));
        }
        self.count(all)
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

    /// Reads one line, without its line feed, that came at `read_at` by the agent's clock. Gives the
    /// events that are sure by now, of this line or of earlier ones.
    pub fn read(&mut self, line: &[u8], read_at: UnixMs) -> Vec<ProxyEvent> {
        SourceStats::count(&self.stats.lines);
        let (format, name) = (&self.format, &self.name);
        let steps = self.clock.compare();
        // Those who write lines know the wall clock only.
        let wall = steps.wall(read_at);
        let mut parsed = None;
        let look = |View { line, stamp, fits }: View<'_>| {
            let line = without_return(line);
            let log_formats = &format.log_formats;
            let carrier = Carrier { log_formats, ..stamp.carrier(name, wall) };
            let is_nginx = fits && format.may_be(Dialect::Nginx) && nginx::is_record(line);
            let dialects = format.dialects().filter(|it| is_nginx || *it != Dialect::Nginx);
            parsed = dialects.into_iter().find_map(|it| Some((it, it.parse(line, &carrier)?)));
            match &parsed {
                _ if is_nginx => Found::First,
                Some(_) => Found::Line,
                None => Found::Nothing,
            }
        };
        let (line, stamp) = match self.unwrapper.unwrap(line, wall, look) {
            Unwrapped::Line(line, stamp) => (line, stamp),
            Unwrapped::Piece => return Vec::new(),
            Unwrapped::TooLong => {
                SourceStats::count(&self.stats.lines_too_long);
                return Vec::new();
            }
        };
        let length = line.len() + 1;
        let line = without_return(&line);
        let event = parsed.and_then(|(dialect, event)| {
            let event = event.heard_at(read_at);
            self.trusted(dialect, event, line, &stamp)
        });
        let may_be_old = self.may_be_old();
        let origin = self.origin(stamp.origin.as_deref());
        let origin = self.origins.entry(origin).or_default();
        // A source that may bring nginx's records may bring lines of one in any form.
        let judged = if self.format.may_be(Dialect::Nginx) {
            let is_nginx = self.format.dialect.is_some() || nginx::is_record(line);
            if is_nginx && line.len() >= nginx::LONGEST_LINE {
                SourceStats::count(&self.stats.lines_cut);
            }
            origin.records[stamp.stream as usize].read(line, length, event)
        } else {
            Judged { own: event.into_iter().collect(), foreign: 0 }
        };
        let dated = origin.date(judged, may_be_old, &steps);
        self.count(dated)
    }

    /// Takes in that nothing has followed for a while: whatever was written last has come to its end.
    /// Gives the events that are sure by that.
    pub fn settle(&mut self) -> Vec<ProxyEvent> {
        if let Some(dialect) = self.format.dialect {
            self.writers.refresh(dialect.proxy());
        }
        self.unwrapper.settle();
        let may_be_old = self.may_be_old();
        self.may_be_history = false;
        let steps = self.clock.compare();
        let mut all = Dated::default();
        for origin in self.origins.values_mut() {
            all.append(origin.settle(may_be_old, &steps));
        }
        self.count(all)
    }

    fn may_be_old(&self) -> bool {
        self.is_behind || self.may_be_history
    }

    /// The event, unless somebody else than the proxy wrote its line.
    fn trusted(
        &mut self,
        dialect: Dialect,
        event: ProxyEvent,
        line: &[u8],
        stamp: &Stamp,
    ) -> Option<ProxyEvent> {
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
        let is_local = event.undated.is_some_and(|reading| reading.is_local);
        let zone = is_local.then(|| self.writers.zone(dialect.proxy())).flatten();
        let event = match zone {
            Some(zone) => dated_in(event, zone),
            None => event,
        };
        let trust = if stamp.is_relayed { trust.max(Trust::Unverified) } else { trust };
        let trust = trust.max(event.trust);
        if trust != Trust::Verified
            && self.stats.events_unverified.fetch_add(1, Ordering::Relaxed) == 0
        {
            info!(
                "{}: cannot verify which process writes this log; its verdicts have at most \
                 medium confidence",
                self.name
            );
        }
        let beginning = String::from_utf8_lossy(&line[..line.len().min(LINE_KEPT)]).into_owned();
        Some(ProxyEvent { line: Some(beginning), trust, ..event })
    }

    /// Who wrote a line; all for whom there is no room share one place.
    fn origin(&self, name: Option<&str>) -> String {
        let name = name.unwrap_or_default();
        let has_room = self.origins.len() < MOST_ORIGINS || self.origins.contains_key(name);
        if has_room { name.to_owned() } else { OTHERS.to_owned() }
    }

    fn count(&self, dated: Dated) -> Vec<ProxyEvent> {
        self.stats.events.fetch_add(dated.events.len() as u64, Ordering::Relaxed);
        self.stats.lines_old.fetch_add(dated.old, Ordering::Relaxed);
        self.stats.lines_foreign.fetch_add(dated.foreign, Ordering::Relaxed);
        dated.events
    }
}

impl Origin {
    fn date(&mut self, judged: Judged, may_be_old: bool, steps: &ClockSteps) -> Dated {
        let mut dated = Dated { foreign: judged.foreign, ..Dated::default() };
        for event in judged.own {
            dated.append(self.dating.date(event, may_be_old, steps));
        }
        dated
    }

    fn settle(&mut self, may_be_old: bool, steps: &ClockSteps) -> Dated {
        let mut dated = Dated::default();
        for stream in 0..Stream::COUNT {
            let judged = self.records[stream].settle();
            dated.append(self.date(judged, may_be_old, steps));
        }
        dated.append(self.dating.settle(steps));
        dated
    }
}

fn without_return(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}
