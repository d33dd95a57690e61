//! From ticks to blocks.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result};

use super::{
    block::{Block, Kind},
    entry::{Entry, Tick},
    events::EventColumns,
    redact::Redactor,
    state::{Present, State},
};
use crate::{
    inventory::{Inventory, peers::PeerReport},
    time::UnixMs,
    verdict::{Heard, Inputs, Verdict},
};

/// A block is closed after this time: what a writer that is killed loses at most.
const BLOCK_TIME: Duration = Duration::from_secs(5);
/// Or at this size, unpacked.
const BLOCK_SIZE: usize = 1 << 20;
/// The whole state is written again after this time, so that reading can begin there, ...
const WHOLE: Duration = Duration::from_secs(60);
/// ... unless it is larger than all that came since; but then after this.
const WHOLE_AT_LAST: Duration = Duration::from_secs(600);

/// Takes blocks.
pub trait Sink: Send {
    /// Takes the next block.
    ///
    /// # Errors
    ///
    /// When it cannot be kept.
    fn take(&mut self, block: Block) -> Result<()>;

    /// Whether somebody wants all there is, so that a block is to be closed at this tick.
    fn wants_all(&self) -> bool {
        false
    }

    /// Whether reading should be able to begin at the next block, so that what is older can go.
    fn wants_start(&self) -> bool {
        false
    }
}

/// A tick as the agent sees it.
pub struct Moment<'a> {
    /// What it brought.
    pub inputs: &'a Inputs<'a>,
    /// Who owns what.
    pub inventory: &'a Inventory,
    /// Who connects to whom.
    pub peers: Vec<PeerReport>,
    /// The agent's own troubles since its start, by name; only what is not 0.
    pub troubles: BTreeMap<String, u64>,
    /// The verdicts that it led to.
    pub verdicts: &'a [Verdict],
}

/// Records ticks.
pub struct Recorder {
    sink: Box<dyn Sink>,
    redactor: Option<Redactor>,
    state: State,
    heard_before: Vec<Heard>,
    /// Entries of the open block.
    entries: Vec<u8>,
    kind: Kind,
    first: Option<UnixMs>,
    last: UnixMs,
    /// When the whole state was last written, how large it was, and how much came since.
    whole: Option<(UnixMs, usize)>,
    since_whole: usize,
}

impl Recorder {
    /// Hands blocks to `sink`, through `redactor` where there is one.
    pub fn new(sink: Box<dyn Sink>, redactor: Option<Redactor>) -> Self {
        Self {
            sink,
            redactor,
            state: State::default(),
            heard_before: Vec::new(),
            entries: Vec::new(),
            kind: Kind::Ticks,
            first: None,
            last: UnixMs(0),
            whole: None,
            since_whole: 0,
        }
    }

    /// Takes in what was heard between two ticks.
    pub fn hear(&mut self, heard: &Heard) {
        self.heard_before.push(heard.clone());
    }

    /// Records a tick.
    ///
    /// # Errors
    ///
    /// When the sink cannot keep a block.
    pub fn tick(&mut self, moment: Moment<'_>) -> Result<()> {
        let Moment { inputs, inventory, peers, troubles, verdicts } = moment;
        let now = inputs.now;
        if self.is_whole_due(now) {
            self.close()?;
            self.kind = Kind::Start;
            let whole = Entry::Whole(Box::new(self.state.whole()));
            let size = self.write(whole)?;
            self.whole = Some((now, size));
            self.since_whole = 0;
        }
        let changes = self.state.bring(Present {
            inventory,
            totals: inputs.totals,
            peers,
            standings: inputs.standings,
            troubles,
            clock: inputs.clock,
        });
        let tick = Tick {
            now,
            heard_before: std::mem::take(&mut self.heard_before),
            changes,
            sample: inputs.sample.clone(),
            events: EventColumns::of(inputs.events),
            heard: inputs.heard.to_vec(),
            arrivals: inputs.arrivals.to_vec(),
            links: inputs.links.to_vec(),
            stalls: inputs.stalls.to_vec(),
            hears_proxies: inputs.hears_proxies,
            forgets: inputs.forgets,
            is_last: inputs.is_last,
            verdicts: verdicts.to_vec(),
        };
        self.since_whole += self.write(Entry::Tick(Box::new(tick)))?;
        let first = *self.first.get_or_insert(now);
        self.last = now;
        let is_full = self.entries.len() >= BLOCK_SIZE || first.later(BLOCK_TIME) <= now;
        if is_full || inputs.is_last || self.sink.wants_all() {
            self.close()?;
        }
        if inputs.is_last {
            self.sink.take(Block::end(now)?)?;
        }
        Ok(())
    }

    fn is_whole_due(&self, now: UnixMs) -> bool {
        let is_old = self.whole.is_none_or(|(at, size)| {
            let after = if self.since_whole < size { WHOLE_AT_LAST } else { WHOLE };
            at.later(after) <= now
        });
        is_old || self.sink.wants_start()
    }

    /// Adds an entry to the open block; tells its size.
    fn write(&mut self, mut entry: Entry) -> Result<usize> {
        if let Some(redactor) = &mut self.redactor {
            redactor.redact(&mut entry);
        }
        let before = self.entries.len();
        rmp_serde::encode::write_named(&mut self.entries, &entry).context("writing an entry")?;
        Ok(self.entries.len() - before)
    }

    fn close(&mut self) -> Result<()> {
        if self.entries.is_empty() {
            return Ok(());
        }
        let times = (self.first.take().unwrap_or(self.last), self.last);
        let block = Block::pack(self.kind, times, &self.entries)?;
        self.kind = Kind::Ticks;
        self.entries.clear();
        self.sink.take(block)
    }
}
