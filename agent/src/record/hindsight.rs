//! The last minutes of a running agent, kept as packed blocks in bounded memory.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::Result;
use bytes::Bytes;
use tokio::{sync::Notify, time::timeout};

use super::{
    block::{Block, Header},
    recorder::Sink,
};

/// How long whoever wants all there is waits for the tick that brings it.
const TICK_COMES: Duration = Duration::from_secs(3);

/// How much to keep.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// At least this long a time, unless it takes more memory than that.
    pub period: Duration,
    /// About as many bytes at most.
    pub bytes: usize,
}

/// What is kept. Clones are of one and the same.
#[derive(Clone)]
pub struct Hindsight(Arc<Shared>);

struct Shared {
    header: Header,
    bounds: Bounds,
    ring: Mutex<Ring>,
    is_wanted: AtomicBool,
    came: Notify,
}

#[derive(Default)]
struct Ring {
    blocks: VecDeque<Block>,
    bytes: usize,
    since_start: usize,
}

impl Hindsight {
    /// Keeps what `bounds` allow.
    pub fn new(header: Header, bounds: Bounds) -> Self {
        Self(Arc::new(Shared {
            header,
            bounds,
            ring: Mutex::default(),
            is_wanted: AtomicBool::new(false),
            came: Notify::new(),
        }))
    }

    /// All that is kept, as the pieces of a recording. Waits for the tick under way, so that it ends
    /// now; but not for an agent that has come to a halt.
    pub async fn snapshot(&self) -> Vec<Bytes> {
        let came = self.0.came.notified();
        self.0.is_wanted.store(true, Ordering::Relaxed);
        let _ = timeout(TICK_COMES, came).await;
        self.kept()
    }

    fn kept(&self) -> Vec<Bytes> {
        let ring = self.0.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let mut pieces = vec![self.0.header.to_bytes().into()];
        pieces.extend(ring.blocks.iter().map(|block| block.bytes.clone()));
        let last = ring.blocks.back().map(|block| block.last);
        if let Some(Ok(end)) = last.map(Block::end) {
            pieces.push(end.bytes);
        }
        pieces
    }
}

impl Sink for Hindsight {
    fn take(&mut self, block: Block) -> Result<()> {
        let mut ring = self.0.ring.lock().unwrap_or_else(PoisonError::into_inner);
        ring.bytes += block.bytes.len();
        ring.since_start = if block.is_start { 0 } else { ring.since_start } + block.bytes.len();
        ring.blocks.push_back(block);
        ring.let_go(&self.0.bounds);
        self.0.is_wanted.store(false, Ordering::Relaxed);
        self.0.came.notify_waiters();
        Ok(())
    }

    fn wants_all(&self) -> bool {
        self.0.is_wanted.load(Ordering::Relaxed)
    }

    fn wants_start(&self) -> bool {
        let ring = self.0.ring.lock().unwrap_or_else(PoisonError::into_inner);
        ring.since_start > self.0.bounds.bytes / 4
    }
}

impl Ring {
    /// Lets the oldest go, up to a block with which reading may begin, as long as the bounds allow.
    fn let_go(&mut self, bounds: &Bounds) {
        loop {
            let mut starts = self.blocks.iter().enumerate().filter(|(_, block)| block.is_start);
            let Some((place, second)) = starts.nth(1) else { return };
            let enough = self.blocks.back().is_some_and(|last| {
                second.first.later(bounds.period) <= last.last || self.bytes > bounds.bytes
            });
            if !enough {
                return;
            }
            let gone: usize = self.blocks.drain(..place).map(|block| block.bytes.len()).sum();
            self.bytes -= gone;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::UnixMs;

    fn block(second: u64, is_start: bool, length: usize) -> Block {
        let at = UnixMs(1000 * second);
        Block { is_start, first: at, last: at, bytes: vec![0; length].into() }
    }

    fn keep(bounds: Bounds, blocks: impl Iterator<Item = Block>) -> Vec<(u64, bool)> {
        let mut hindsight = Hindsight::new(Header::default(), bounds);
        blocks.for_each(|block| hindsight.take(block).unwrap());
        let ring = hindsight.0.ring.lock().unwrap();
        assert_eq!(ring.bytes, ring.blocks.iter().map(|block| block.bytes.len()).sum::<usize>());
        ring.blocks.iter().map(|block| (block.first.0 / 1000, block.is_start)).collect()
    }

    #[test]
    fn at_least_the_period_is_kept_and_begins_where_reading_may() {
        let bounds = Bounds { period: Duration::from_secs(100), bytes: usize::MAX };
        let kept = keep(bounds, (0..=250).map(|second| block(second, second % 60 == 0, 10)));
        assert_eq!((kept[0], kept.len()), ((120, true), 131));
    }

    #[test]
    fn memory_is_bounded_whatever_the_period() {
        let bounds = Bounds { period: Duration::from_secs(1000), bytes: 1000 };
        let kept = keep(bounds, (0..=250).map(|second| block(second, second % 10 == 0, 10)));
        assert!(kept.len() <= 101 && kept[0].1, "{kept:?}");
    }

    #[test]
    fn one_stretch_alone_is_never_torn() {
        let bounds = Bounds { period: Duration::from_secs(1), bytes: 1 };
        let kept = keep(bounds, (0..5).map(|second| block(second, second == 0, 10)));
        assert_eq!(kept.len(), 5);
    }
}
