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

/// How long a stopping agent waits for what is still to be told.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Whom to tell.
#[derive(Debug, Args)]
pub(super) struct OutletArgs {
    /// Tell what is seen and heard to a NATS server with JetStream, for `floodmark correlate`:
    /// nats://HOST:PORT or tls://HOST:PORT; several with commas between
    #[arg(long, value_name = "URL")]
    nats: Option<String>,
    #[command(flatten)]
    bus: BusArgs,
    /// Tell what proxies say, verdicts and losses to an OpenTelemetry Collector, as log records over
    /// gRPC: http://HOST:PORT or https://HOST:PORT
    #[arg(long, value_name = "URL")]
    otlp: Option<String>,
    /// Name of this host among others [default: the kernel's]
    #[arg(long, value_name = "NAME")]
    host_name: Option<String>,
    /// Keep so many MiB at most of what is to be told while nobody takes it; the oldest goes first
    #[arg(long, default_value_t = 64, value_name = "MIB")]
    outbox: usize,
}

/// The outlets at work.
pub(super) struct Outlets {
    open: Vec<(Arc<OutletStats>, Task)>,
}

impl OutletArgs {
    /// Looks at what no option shows by itself.
    ///
    /// # Errors
    ///
    /// When options do not go together.
    pub(super) fn check(&self) -> Result<()> {
        ensure!(self.nats.is_some() || !self.bus.is_given(), "--nats-... files go with --nats URL");
        match (&self.nats, &self.otlp, &self.host_name) {
            // Nobody asks for the name, and a machine need not have one.
            (None, None, None) => Ok(()),
            _ => host_name(self.host_name.clone()).map(drop),
        }
    }

    /// Opens what was asked for and has the agent tell it.
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
    /// Waits a little until all has been told.
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
