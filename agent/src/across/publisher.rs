//! Hands an outbox's messages over to a stream, one after the other, each until it is acknowledged.

use std::{str::FromStr, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, anyhow};
use async_nats::{HeaderMap, HeaderValue, jetstream::context::PublishAckFuture};
use log::{info, warn};
use tokio::{sync::mpsc, time::sleep};

use super::{
    bus::{Bus, MESSAGE_ID},
    clock::Exchange,
    joiner::Joined,
    outbox::{Outbox, Outgoing},
    share::{PUBLISHED, Share},
    subject,
};
use crate::time::UnixMs;

/// The header in which the exchange before is told.
pub(super) const EXCHANGE: &str = "Floodmark-Exchange";
/// Verdicts under way at once.
const UNDER_WAY: usize = 256;
/// How long is waited after a failure.
const PAUSE: Duration = Duration::from_millis(500);

/// Hands over what `host` has to tell, for ever.
pub async fn publish(bus: Bus, outbox: Arc<Outbox>, host: String) {
    let mut publisher = Publisher { bus, subject: subject::of_host(&host), before: None };
    let mut share = Share::new(PUBLISHED);
    let mut has_stream = false;
    loop {
        let message = outbox.next(1).await.remove(0);
        // A reader would not take it.
        while !share.take_whole(message.payload.len() as u64, UnixMs::now()) {
            sleep(PAUSE).await;
        }
        let told = publisher.tell(&message, &mut has_stream).await;
        match told {
            Ok(()) => {
                if outbox.stats().succeeded(1) {
                    info!("publishing to the NATS server");
                }
                outbox.done();
            }
            Err(error) => {
                if outbox.stats().failed() {
                    warn!("cannot publish, messages wait in the outbox: {error:#}");
                }
                has_stream = false;
                sleep(PAUSE).await;
            }
        }
    }
}

/// Hands over verdicts, for ever, and tells of each whether the stream had not had it before: of all
/// the readers that came to it one hears so. Many are under way at once, so that those on one host's
/// events, however many, hold up nobody's for long.
pub async fn publish_verdicts(
    bus: Bus,
    outbox: Arc<Outbox>,
    published: mpsc::UnboundedSender<(Joined, bool)>,
) {
    let mut has_stream = false;
    loop {
        let messages = outbox.next(UNDER_WAY).await;
        let mut told = Vec::new();
        let outcome = tell_verdicts(&bus, &messages, &mut has_stream, &mut told).await;
        if !told.is_empty() {
            outbox.stats().succeeded(told.len());
        }
        outbox.done_first(told.len());
        if told.into_iter().any(|verdict| published.send(verdict).is_err()) {
            return;
        }
        if let Err(error) = outcome {
            if outbox.stats().failed() {
                warn!("cannot publish verdicts, retrying: {error:#}");
            }
            has_stream = false;
            sleep(PAUSE).await;
        }
    }
}

/// Hands over verdicts until one fails; `told` gets those that the stream has, with whether it had not
/// had it before.
async fn tell_verdicts(
    bus: &Bus,
    messages: &[Outgoing],
    has_stream: &mut bool,
    told: &mut Vec<(Joined, bool)>,
) -> Result<()> {
    if !*has_stream {
        bus.verdicts().await?;
        *has_stream = true;
    }
    let mut under_way = Vec::new();
    for message in messages {
        let verdict: Joined =
            serde_json::from_slice(&message.payload).context("decoding a queued verdict")?;
        let subject = subject::of_verdict(&verdict.verdict.event.upstream.to_string());
        under_way.push((verdict, send(bus, subject, headers(message)?, message).await?));
    }
    for (verdict, acknowledged) in under_way {
        let is_new = !acknowledged.await?.duplicate;
        told.push((verdict, is_new));
    }
    Ok(())
}

struct Publisher {
    bus: Bus,
    subject: String,
    /// The last message and its acknowledgement, which is told with the next.
    before: Option<Exchange>,
}

impl Publisher {
    async fn tell(&mut self, message: &Outgoing, has_stream: &mut bool) -> Result<()> {
        if !*has_stream {
            self.bus.evidence().await?;
            *has_stream = true;
        }
        let mut headers = headers(message)?;
        if let Some(exchange) = self.before {
            headers.insert(EXCHANGE, exchange.to_string());
        }
        let sent = UnixMs::now();
        let subject = self.subject.clone();
        let sequence = send(&self.bus, subject, headers, message).await?.await?.sequence;
        self.before = Some(Exchange { sequence, sent, acknowledged: UnixMs::now() });
        Ok(())
    }
}

/// The headers of a message, by which the server knows it again.
fn headers(message: &Outgoing) -> Result<HeaderMap> {
    let id = HeaderValue::from_str(&message.id);
    let id = id.map_err(|_| anyhow!("{:?} is not a message ID", message.id))?;
    let mut headers = HeaderMap::new();
    headers.insert(MESSAGE_ID, id);
    Ok(headers)
}

/// Publishes a message; what it gives waits until the stream has it.
async fn send(
    bus: &Bus,
    subject: String,
    headers: HeaderMap,
    message: &Outgoing,
) -> Result<PublishAckFuture> {
    let payload = message.payload.clone();
    Ok(bus.jetstream().publish_with_headers(subject, headers, payload).await?)
}
