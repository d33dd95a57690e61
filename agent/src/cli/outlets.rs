//! Whom the agent tells, on the command line.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use anyhow::{Result, ensure};
use clap::Args;
use tokio::time::{sleep, timeout};

use super::bus::{BusArgs, host_name};
use crate::{
    across::{Outbox, OutletStats, Witness, publish},
    agent::Agent,
    essential::{self, Task},
    export::otlp::{self, OtlpLogs, export_logs},
};

/// How long a stopping agent waits for unsent messages.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Where to publish.
#[derive(Debug, Args)]
pub(super) struct OutletArgs {
    /// Publish evidence to a NATS server with JetStream, for `floodmark correlate`: nats://HOST:PORT or
    /// tls://HOST:PORT; separate several with commas
    #[arg(long, value_name = "URL")]
    nats: Option<String>,
    #[command(flatten)]
    bus: BusArgs,
    /// Export proxy events, verdicts and losses to an OpenTelemetry Collector, as log records over gRPC:
    /// http://HOST:PORT or https://HOST:PORT
    #[arg(long, value_name = "URL")]
    otlp: Option<String>,
    /// Publish under this host name [default: the kernel's host name]
    #[arg(long, value_name = "NAME")]
    host_name: Option<String>,
    /// Keep at most MIB mebibytes of unsent messages; if full, drop the oldest
    #[arg(long, default_value_t = 64, value_name = "MIB")]
    outbox: usize,
}

/// The running outlets.
pub(super) struct Outlets {
    open: Vec<(Arc<OutletStats>, Task)>,
}

impl OutletArgs {
    /// Checks what clap cannot: options that exclude each other.
    ///
    /// # Errors
    ///
    /// When options contradict each other.
    pub(super) fn check(&self) -> Result<()> {
        ensure!(
            self.nats.is_some() || !self.bus.is_given(),
            "the --nats-... files need --nats URL"
        );
        match (&self.nats, &self.otlp, &self.host_name) {
            // Nobody asks for the name, and a machine need not have one.
            (None, None, None) => Ok(()),
            _ => host_name(self.host_name.clone()).map(drop),
        }
    }

    /// Opens the requested outlets and attaches them to the agent.
    pub(super) async fn open(self, agent: &mut Agent) -> Result<Outlets> {
        self.check()?;
        let mut open = Vec::new();
        if self.nats.is_none() && self.otlp.is_none() {
            return Ok(Outlets { open });
        }
        let host = host_name(self.host_name)?;
        if let Some(servers) = self.nats {
            let bus = self.bus.connect(servers, &host).await?;
            let outbox = Arc::new(Outbox::new(self.outbox << 20));
            agent.tell(Box::new(Witness::new(host.clone(), Arc::clone(&outbox))?));
            let task =
                essential::task("publishing", forever(publish(bus, outbox.clone(), host.clone())));
            open.push((outbox.stats(), task));
        }
        if let Some(url) = self.otlp {
            let channel = otlp::channel(&url)?;
            let outbox = Arc::new(otlp::Records::new(self.outbox << 20));
            agent.tell(Box::new(OtlpLogs::new(Arc::clone(&outbox))));
            let task = essential::task(
                "exporting logs",
                forever(export_logs(channel, outbox.clone(), host)),
            );
            open.push((outbox.stats(), task));
        }
        Ok(Outlets { open })
    }
}

async fn forever(work: impl Future<Output = ()>) -> Result<()> {
    work.await;
    Ok(())
}

impl Outlets {
    /// Waits a little for unsent messages.
    pub(super) async fn flush(self) {
        for (stats, task) in self.open {
            let told = async {
                while stats.waiting.load(Ordering::Relaxed) > 0 {
                    sleep(Duration::from_millis(20)).await;
                }
            };
            let _ = timeout(LAST_WORDS, told).await;
            task.abort();
        }
    }
}
