//! Whom the agent tells, on the command line.

use std::{sync::Arc, time::Duration};

use anyhow::Result;
use clap::Args;
use tokio::{
    task::JoinHandle,
    time::{sleep, timeout},
};

use super::bus::{BusArgs, host_name};
use crate::{
    across::{Outbox, Witness, publish},
    agent::Agent,
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
    /// Name of this host among others [default: the kernel's]
    #[arg(long, value_name = "NAME")]
    host_name: Option<String>,
    /// Keep so many MiB at most of what is to be told while nobody takes it; the oldest goes first
    #[arg(long, default_value_t = 64, value_name = "MIB")]
    outbox: usize,
}

/// The outlets at work.
pub(super) struct Outlets {
    open: Vec<(Arc<Outbox>, JoinHandle<()>)>,
}

impl OutletArgs {
    /// Opens what was asked for and has the agent tell it.
    pub(super) async fn open(self, agent: &mut Agent) -> Result<Outlets> {
        let host = host_name(self.host_name)?;
        let mut open = Vec::new();
        if let Some(servers) = self.nats {
            let bus = self.bus.connect(servers, &host).await?;
            let outbox = Arc::new(Outbox::new(self.outbox << 20));
            agent.tell(Box::new(Witness::new(host.clone(), Arc::clone(&outbox))));
            open.push((Arc::clone(&outbox), tokio::spawn(publish(bus, outbox, host.clone()))));
        }
        Ok(Outlets { open })
    }
}

impl Outlets {
    /// Waits a little until all has been told.
    pub(super) async fn flush(self) {
        for (outbox, task) in self.open {
            let told = async {
                while !outbox.is_empty() {
                    sleep(Duration::from_millis(20)).await;
                }
            };
            let _ = timeout(LAST_WORDS, told).await;
            task.abort();
        }
    }
}
