//! Hands an outbox's messages over to a stream, one after the other, each until it is acknowledged.

use std::{sync::Arc, time::Duration};

use anyhow::Result;
use async_nats::{HeaderMap, jetstream::publish::PublishAck};
use log::{info, warn};
use tokio::{sync::mpsc, time::sleep};

use super::{
    bus::{Bus, MESSAGE_ID, subject},
    clock::Exchange,
    joiner::Joined,
    outbox::{Outbox, Outgoing},
};
use crate::time::UnixMs;

/// The header in which the exchange before is told.
pub(super) const EXCHANGE: &str = "Floodmark-Exchange";
/// How long is waited after a failure.
const PAUSE: Duration = Duration::from_millis(500);

/// Hands over what `host` has to tell, for ever.
pub async fn publish(bus: Bus, outbox: Arc<Outbox>, host: String) {
    let mut publisher = Publisher { bus, subject: subject("host", &host), before: None };
    let mut has_stream = false;
    loop {
        let message = outbox.next(1).await.remove(0);
        let told = publisher.tell(&message, &mut has_stream).await;
        match told {
            Ok(()) => {
                if outbox.stats().succeeded(1) {
                    info!("what is to be told reaches the NATS server");
                }
                outbox.done();
            }
            Err(error) => {
                if outbox.stats().failed() {
                    warn!("what is to be told waits: {error:#}");
                }
                has_stream = false;
                sleep(PAUSE).await;
            }
        }
    }
}

/// Hands over verdicts, for ever, and tells of each whether the stream had not had it before: of all
/// the readers that came to it one hears so.
pub async fn publish_verdicts(
    bus: Bus,
    outbox: Arc<Outbox>,
    published: mpsc::UnboundedSender<(Joined, bool)>,
) {
    loop {
        let message = outbox.next(1).await.remove(0);
        match tell_verdict(&bus, &message).await {
            Ok((verdict, is_new)) => {
                outbox.stats().succeeded(1);
                outbox.done();
                if published.send((verdict, is_new)).is_err() {
                    return;
                }
            }
            Err(error) => {
                if outbox.stats().failed() {
                    warn!("verdicts wait: {error:#}");
                }
                sleep(PAUSE).await;
            }
        }
    }
}

async fn tell_verdict(bus: &Bus, message: &Outgoing) -> Result<(Joined, bool)> {
    let verdict: Joined = serde_json::from_slice(&message.payload)?;
    bus.verdicts().await?;
    let mut headers = HeaderMap::new();
    headers.insert(MESSAGE_ID, message.id.as_str());
    let subject = subject("verdict", &verdict.verdict.event.upstream.to_string());
    let acknowledged = hand_over(bus, subject, headers, message).await?;
    Ok((verdict, !acknowledged.duplicate))
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
        let mut headers = HeaderMap::new();
        headers.insert(MESSAGE_ID, message.id.as_str());
        if let Some(exchange) = self.before {
            headers.insert(EXCHANGE, exchange.to_string());
        }
        let sent = UnixMs::now();
        let sequence = hand_over(&self.bus, self.subject.clone(), headers, message).await?.sequence;
        self.before = Some(Exchange { sequence, sent, acknowledged: UnixMs::now() });
        Ok(())
    }
}

/// Publishes a message and waits until the stream has it.
async fn hand_over(
    bus: &Bus,
    subject: String,
    headers: HeaderMap,
    message: &Outgoing,
) -> Result<PublishAck> {
    let payload = message.payload.clone();
    let publishing = bus.jetstream().publish_with_headers(subject, headers, payload).await?;
    Ok(publishing.await?)
}
