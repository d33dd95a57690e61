//! Reads all that agents tell, in the stream's order, by a durable consumer.
//!
//! A message is acknowledged only once nothing can be asked of it any more: who is restarted reads
//! again whatever evidence may still be asked for, comes to the same verdicts once more, and the
//! stream of verdicts knows them already.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, anyhow, bail};
use async_nats::{
    datetime,
    jetstream::{
        self,
        consumer::{AckPolicy, DeliverPolicy, pull},
        stream::Stream,
    },
};
use bytes::Bytes;
use futures_util::StreamExt;
use log::warn;
use tokio::time::sleep;

use super::{bus::Bus, joiner::Stored, outbox::OutletStats, publisher::EXCHANGE};
use crate::{
    clock::AgentClock,
    time::UnixMs,
    verdict::{LONGEST_ATTEMPT, SETTLE},
};

/// How far back a new reader begins, and how much an old one reads again: a verdict may ask for as
/// much, and namespaces are told of once a minute.
const LOOK_BACK: Duration = Duration::from_secs(3 * LONGEST_ATTEMPT.as_secs() + SETTLE.as_secs());
/// How long the server remembers a reader that does not come back: for as long as it keeps messages.
const REMEMBERED: Duration = Duration::from_secs(3600);
/// Never redelivered by itself while the reader is there.
const ACK_WAIT: Duration = Duration::from_secs(3600);
/// Messages that may wait for their acknowledgement: the look back of some thousand hosts.
const MOST_UNACKNOWLEDGED: i64 = 10_000_000;
/// Acknowledgements are this far apart; each is for all messages before.
const ACK_EVERY: Duration = Duration::from_secs(5);
/// How long is waited after a failure.
const PAUSE: Duration = Duration::from_secs(1);

/// What was published, as the server stored it. Nothing of it has been checked.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// The subject it was published to: it must name the host of the message.
    pub subject: String,
    /// The message.
    pub payload: Bytes,
    /// Where and when it was stored.
    pub stored: Stored,
}

/// Reads the evidence stream in order, from where this name's consumer stopped.
pub struct Reader {
    bus: Bus,
    name: String,
    messages: Option<pull::Stream>,
    /// The last message read.
    last: u64,
    /// The last message acknowledged, with all before it.
    acknowledged: u64,
    unacknowledged: VecDeque<(UnixMs, jetstream::Message)>,
    /// Messages of the stream that were not read: gone before, or read by another of the same name.
    pub skipped: u64,
    /// Messages that wait in the stream.
    pub waiting: u64,
    stats: Arc<OutletStats>,
}

impl Reader {
    /// One called `name`; no other may be called so at the same time.
    pub fn new(bus: Bus, name: String) -> Self {
        let (messages, unacknowledged, stats) = Default::default();
        let (last, acknowledged, skipped, waiting) = Default::default();
        Self { bus, name, messages, last, acknowledged, unacknowledged, skipped, waiting, stats }
    }

    /// How reading goes.
    pub fn stats(&self) -> Arc<OutletStats> {
        Arc::clone(&self.stats)
    }

    /// The next message, however long the server may be away.
    pub async fn next(&mut self) -> Delivery {
        loop {
            match self.try_next().await {
                Ok(Some(next)) => return next,
                Ok(None) => {}
                Err(error) => {
                    if self.stats.failed() {
                        warn!("cannot read from the NATS server, retrying: {error:#}");
                    }
                    self.messages = None;
                    sleep(PAUSE).await;
                }
            }
        }
    }

    async fn try_next(&mut self) -> Result<Option<Delivery>> {
        if self.messages.is_none() {
            let stream = self.bus.evidence().await?;
            self.messages = Some(self.open(&stream).await?);
            self.stats.succeeded(0);
        }
        let Some(messages) = &mut self.messages else { return Ok(None) };
        let Some(message) = messages.next().await else { bail!("the consumer ended") };
        let message = message.context("reading a message")?;
        let info =
            message.info().map_err(|error| anyhow!("reading a message's position: {error}"))?;
        let at = UnixMs((info.published.unix_timestamp_nanos() / 1_000_000) as u64);
        let sequence = info.stream_sequence;
        self.waiting = info.pending;
        if sequence <= self.last {
            return Ok(None);
        }
        let expected = if self.last == 0 { sequence } else { self.last + 1 };
        if sequence > expected {
            warn!(
                "skipped {} messages: they were deleted before they were read, or another reader \
                 also uses the name {}",
                sequence - expected,
                self.name
            );
            self.skipped += sequence - expected;
        }
        self.last = sequence;
        self.stats.succeeded(1);
        let exchange = message.headers.as_ref().and_then(|headers| headers.get(EXCHANGE));
        let exchange = exchange.and_then(|exchange| exchange.as_str().parse().ok());
        let (subject, payload) = (message.subject.to_string(), message.payload.clone());
        self.acknowledge(at, message).await?;
        Ok(Some(Delivery { subject, payload, stored: Stored { sequence, at, exchange } }))
    }

    /// Makes the consumer anew, where it stood: what it was given and did not acknowledge would come
    /// again only after a long time.
    async fn open(&mut self, stream: &Stream) -> Result<pull::Stream> {
        if let Ok(known) = stream.consumer_info(&self.name).await {
            self.acknowledged = self.acknowledged.max(known.ack_floor.stream_sequence);
            stream.delete_consumer(&self.name).await.context("deleting the old consumer")?;
        }
        let deliver_policy = match self.acknowledged {
            0 => {
                let begin =
                    i128::from(AgentClock::own().wall_now().earlier(LOOK_BACK).0) * 1_000_000;
                let begin = datetime::from_nanos(begin);
                let start_time =
                    begin.map_err(|error| anyhow!("converting the start time: {error}"))?;
                DeliverPolicy::ByStartTime { start_time }
            }
            sequence => DeliverPolicy::ByStartSequence { start_sequence: sequence + 1 },
        };
        let config = pull::Config {
            durable_name: Some(self.name.clone()),
            deliver_policy,
            ack_policy: AckPolicy::All,
            ack_wait: ACK_WAIT,
            max_ack_pending: MOST_UNACKNOWLEDGED,
            inactive_threshold: REMEMBERED,
            ..pull::Config::default()
        };
        let consumer = stream.create_consumer(config).await.context("creating the consumer")?;
        consumer.messages().await.context("requesting messages")
    }

    async fn acknowledge(&mut self, now: UnixMs, message: jetstream::Message) -> Result<()> {
        let last = self.unacknowledged.back().map_or(UnixMs(0), |(at, _)| *at);
        if last.later(ACK_EVERY) <= now {
            self.unacknowledged.push_back((now, message));
        }
        let mut due = None;
        while let Some((at, _)) = self.unacknowledged.front()
            && at.later(LOOK_BACK) < now
        {
            due = self.unacknowledged.pop_front();
        }
        if let Some((_, message)) = due {
            if let Ok(info) = message.info() {
                self.acknowledged = info.stream_sequence;
            }
            let acknowledged = message.ack().await;
            acknowledged.map_err(|error| anyhow!("acknowledging messages: {error}"))?;
        }
        Ok(())
    }
}
