//! `floodmark correlate`: the verdicts of many hosts' agents.

use std::{net::SocketAddr, process::ExitCode, sync::Arc, time::Duration};

use anyhow::Result;
use bytes::Bytes;
use clap::Args;
use tokio::{
    sync::{mpsc, watch},
    time::interval,
};

use super::{
    HEALTHY,
    bus::{BusArgs, host_name},
    diagnose::duration,
    output::{print, print_json_line, say},
    run::stop_signal,
};
use crate::{
    across::{Delivery, Joined, Joiner, Outbox, Outgoing, Reader, publish_verdicts},
    essential,
    export::{self, Correlation, Web, WebConfig, parse_host},
    printable::printable,
    verdict::ProxyAccounts,
};

/// Verdicts that wait for the bus take up no more than this.
const VERDICT_BYTES: usize = 64 << 20;
/// How often what is exported is brought up to date.
const UPDATE: Duration = Duration::from_secs(1);

/// Arguments of `floodmark correlate`.
#[derive(Debug, Args)]
pub(super) struct CorrelateArgs {
    /// Read evidence from this NATS server with JetStream: nats://HOST:PORT or tls://HOST:PORT; separate
    /// several with commas
    #[arg(long, value_name = "URL")]
    nats: String,
    #[command(flatten)]
    bus: BusArgs,
    /// Store the read position on the server under this name; each reader needs its own [default: the
    /// host's name]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Wait at most this long for a silent host before making verdicts without it
    #[arg(long, default_value = "60s", value_name = "DURATION", value_parser = duration)]
    patience: Duration,
    /// Serve metrics on this address
    #[arg(long, default_value = "127.0.0.1:9436", value_name = "ADDR:PORT")]
    listen: SocketAddr,
    /// Also answer requests for this host name while listening on loopback (repeatable)
    #[arg(long = "allowed-host", value_name = "NAME", value_parser = parse_host)]
    allowed_hosts: Vec<String>,
    /// Print each verdict as a line of JSON instead of text
    #[arg(long)]
    json: bool,
}

/// Runs until SIGINT or SIGTERM.
pub(super) async fn correlate(args: CorrelateArgs) -> Result<ExitCode> {
    let stop = stop_signal()?;
    let name = host_name(args.name)?.replace('.', "_");
    let listener = export::bind(args.listen).await?;
    let bus = args.bus.connect(args.nats.clone(), &name).await?;
    let addr = listener.local_addr()?;
    say(&format!("floodmark correlate, as {name}, serves http://{addr}/metrics"));
    let (snapshots, latest) = watch::channel(Correlation::default());
    let (stopping, stopped) = watch::channel(false);
    let web = Web::new(WebConfig::default(), args.allowed_hosts);
    let server = export::serve_correlation(listener, latest, web, stopped);
    let server = essential::task("the HTTP server", server);
    let outbox = Arc::new(Outbox::new(VERDICT_BYTES));
    let (sender, published) = mpsc::unbounded_channel();
    let publishing = publish_verdicts(bus.clone(), Arc::clone(&outbox), sender);
    let publisher = essential::task("publishing verdicts", async {
        publishing.await;
        Ok(())
    });
    let desk = Desk {
        reader: Reader::new(bus, name),
        joiner: Joiner::new(args.patience),
        accounts: ProxyAccounts::default(),
        outbox,
        published,
        json: args.json,
    };
    let outcome = tokio::select! {
        outcome = desk.run(&snapshots, stop) => outcome,
        error = essential::ended() => Err(error),
    };
    publisher.abort();
    stopping.send_replace(true);
    server.finish().await?;
    outcome?;
    Ok(ExitCode::from(HEALTHY))
}

/// Where messages come in and verdicts go out.
struct Desk {
    reader: Reader,
    joiner: Joiner,
    /// Counts the verdicts that this reader was the first to publish.
    accounts: ProxyAccounts,
    outbox: Arc<Outbox>,
    published: mpsc::UnboundedReceiver<(Joined, bool)>,
    json: bool,
}

impl Desk {
    async fn run(
        mut self,
        snapshots: &watch::Sender<Correlation>,
        stop: impl Future<Output = ()>,
    ) -> Result<()> {
        tokio::pin!(stop);
        let mut updates = interval(UPDATE);
        loop {
            tokio::select! {
                () = &mut stop => return Ok(()),
                _ = updates.tick() => { snapshots.send_replace(self.correlation()); }
                Some((verdict, is_new)) = self.published.recv() => {
                    if is_new {
                        self.print(&verdict)?;
                        self.accounts.book_verdict(verdict.verdict);
                    }
                }
                Delivery { subject, payload, stored } = self.reader.next() => {
                    for verdict in self.joiner.receive(&subject, &payload, stored) {
                        let payload = Bytes::from(serde_json::to_vec(&verdict)?);
                        self.outbox.put_message(Outgoing { id: verdict.id, payload });
                    }
                }
            }
        }
    }

    fn print(&self, joined: &Joined) -> Result<()> {
        let Joined { proxy_host, listener_host, verdict, .. } = joined;
        if self.json {
            return print_json_line(joined);
        }
        let line = format!(
            "{proxy_host}: {} {}: {} ({}), {}: {}",
            verdict.event.kind.name(),
            verdict.event.upstream,
            verdict.cause.name(),
            verdict.confidence.name(),
            listener_host.as_deref().unwrap_or("no listener on any host"),
            verdict.because
        );
        print(&format!("{}\n", printable(&line)))
    }

    fn correlation(&self) -> Correlation {
        Correlation {
            hosts: self.joiner.hosts(),
            pending: self.joiner.pending(),
            refusals: self.joiner.refusals().clone(),
            left_out: self.joiner.left_out(),
            skipped: self.reader.skipped,
            waiting: self.reader.waiting,
            reading: Some(self.reader.stats()),
            publishing: Some(self.outbox.stats()),
            verdicts: self.accounts.verdict_counts().clone(),
        }
    }
}
