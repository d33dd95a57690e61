//! What waits to be handed over: bounded, the oldest goes first, and what had to go is counted.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use log::warn;
use tokio::sync::Notify;

use super::validate::MAX_PAYLOAD;

/// Room for a message's headers, which count as part of it.
const HEADERS: usize = 4096;

/// A message ready to be handed over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// What no other message bears.
    pub id: String,
    /// The message.
    pub payload: Bytes,
}

/// Counters of an outlet, for metrics.
#[derive(Debug, Default)]
pub struct OutletStats {
    /// Whether the last attempt to hand something over succeeded.
    pub is_connected: AtomicBool,
    /// Handed over and acknowledged.
    pub sent: AtomicU64,
    /// Thrown away, because the outbox was full or the receiver would not have it.
    pub dropped: AtomicU64,
    /// Failed attempts.
    pub errors: AtomicU64,
    /// Messages that are not acknowledged yet.
    pub waiting: AtomicU64,
    /// Their size.
    pub waiting_bytes: AtomicU64,
}

impl OutletStats {
    /// Notes that the receiver would not have so many.
    pub fn rejected(&self, count: u64) {
        self.dropped.fetch_add(count, Ordering::Relaxed);
    }

    /// Notes an attempt that succeeded; true where the one before had not.
    pub fn succeeded(&self, sent: usize) -> bool {
        self.sent.fetch_add(sent as u64, Ordering::Relaxed);
        !self.is_connected.swap(true, Ordering::Relaxed)
    }

    /// Notes one that failed; true where the one before had not, or there was none.
    pub fn failed(&self) -> bool {
        let is_first = self.errors.fetch_add(1, Ordering::Relaxed) == 0;
        self.is_connected.swap(false, Ordering::Relaxed) || is_first
    }
}

/// A bounded queue between the agent, which never waits, and an outlet that may be away.
#[derive(Debug)]
pub struct Outbox<T = Outgoing> {
    most_bytes: usize,
    queue: Mutex<Queue<T>>,
    more: Notify,
    stats: Arc<OutletStats>,
}

#[derive(Debug)]
struct Queue<T> {
    /// Each with its size.
    waiting: VecDeque<(T, usize)>,
    bytes: usize,
    /// How many of the first are being handed over.
    under_way: usize,
}

impl Outbox {
    /// Puts a message in, which takes up as much room as its text.
    pub fn put_message(&self, message: Outgoing) {
        let size = message.payload.len();
        if size > MAX_PAYLOAD - HEADERS {
            // The server would refuse it again and again.
            self.stats.rejected(1);
            warn!("dropped a message of {size} bytes: the limit is {MAX_PAYLOAD}");
            return;
        }
        self.put(message, size);
    }
}

impl<T: Clone> Outbox<T> {
    /// Keeps at most `most_bytes`.
    pub fn new(most_bytes: usize) -> Self {
        let queue = Mutex::new(Queue { waiting: VecDeque::new(), bytes: 0, under_way: 0 });
        Self { most_bytes, queue, more: Notify::new(), stats: Arc::default() }
    }

    /// What became of what was put in.
    pub fn stats(&self) -> Arc<OutletStats> {
        Arc::clone(&self.stats)
    }

    /// Puts something of `size` bytes in; where there is no room, the oldest that are not under way
    /// are dropped.
    pub fn put(&self, message: T, size: usize) {
        let mut queue = self.locked();
        queue.bytes += size;
        queue.waiting.push_back((message, size));
        while queue.bytes > self.most_bytes {
            let at = queue.under_way;
            let Some((_, size)) = queue.waiting.remove(at) else { break };
            queue.bytes -= size;
            self.stats.dropped.fetch_add(1, Ordering::Relaxed);
        }
        self.note(&queue);
        self.more.notify_one();
    }

    /// The oldest messages, `most` at most, as soon as there is any. They stay in until
    /// [`done`](Self::done) is called; asked again before that, it hands out the same.
    pub async fn next(&self, most: usize) -> Vec<T> {
        loop {
            let more = self.more.notified();
            {
                let mut queue = self.locked();
                if !queue.waiting.is_empty() {
                    let count = queue.waiting.len().min(most);
                    queue.under_way = count;
                    let first = queue.waiting.range(..count);
                    return first.map(|(message, _)| message.clone()).collect();
                }
            }
            more.await;
        }
    }

    /// Takes out what was handed out last.
    pub fn done(&self) {
        self.done_first(usize::MAX);
    }

    /// Takes out so many of them, and hands out the others again.
    pub fn done_first(&self, count: usize) {
        let mut queue = self.locked();
        for _ in 0..std::mem::take(&mut queue.under_way).min(count) {
            if let Some((_, size)) = queue.waiting.pop_front() {
                queue.bytes -= size;
            }
        }
        self.note(&queue);
    }

    fn note(&self, queue: &Queue<T>) {
        self.stats.waiting.store(queue.waiting.len() as u64, Ordering::Relaxed);
        self.stats.waiting_bytes.store(queue.bytes as u64, Ordering::Relaxed);
    }

    fn locked(&self) -> MutexGuard<'_, Queue<T>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(number: u32) -> Outgoing {
        Outgoing { id: number.to_string(), payload: Bytes::from_static(b"0123456789") }
    }

    fn ids(messages: &[Outgoing]) -> Vec<&str> {
        messages.iter().map(|message| message.id.as_str()).collect()
    }

    #[tokio::test]
    async fn what_is_not_done_is_handed_out_again() {
        let outbox = Outbox::new(100);
        (1..=3).for_each(|number| outbox.put_message(message(number)));
        assert_eq!(ids(&outbox.next(2).await), ["1", "2"]);
        assert_eq!(ids(&outbox.next(2).await), ["1", "2"]);
        outbox.done_first(1);
        assert_eq!(ids(&outbox.next(1).await), ["2"]);
        outbox.done();
        assert_eq!(ids(&outbox.next(2).await), ["3"]);
        outbox.done();
        assert_eq!(outbox.stats().waiting.load(Ordering::Relaxed), 0);
        assert_eq!(outbox.stats().waiting_bytes.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn what_no_server_takes_does_not_block_the_rest() {
        let outbox = Outbox::new(usize::MAX);
        let payload = Bytes::from(vec![0; MAX_PAYLOAD]);
        outbox.put_message(Outgoing { payload, ..message(1) });
        outbox.put_message(message(2));
        assert_eq!(ids(&outbox.next(9).await), ["2"]);
        assert_eq!(outbox.stats().dropped.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn the_oldest_go_where_there_is_no_room_but_not_those_under_way() {
        let outbox = Outbox::new(30);
        (1..=3).for_each(|number| outbox.put_message(message(number)));
        assert_eq!(ids(&outbox.next(1).await), ["1"]);
        (4..=5).for_each(|number| outbox.put_message(message(number)));
        assert_eq!(outbox.stats().dropped.load(Ordering::Relaxed), 2);
        outbox.done();
        assert_eq!(ids(&outbox.next(9).await), ["4", "5"]);
    }
}
