//! What the agent heard, found and counted, to an OpenTelemetry Collector: OTLP logs over gRPC.

mod records;

use std::{error::Error, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use log::{info, warn};
use opentelemetry_proto::tonic::{
    collector::logs::v1::{ExportLogsServiceRequest, logs_service_client::LogsServiceClient},
    common::v1::InstrumentationScope,
    logs::v1::{LogRecord, ResourceLogs, ScopeLogs},
    resource::v1::Resource,
};
use prost::Message;
use tokio::time::sleep;
use tonic::{
    Code, Status,
    transport::{Channel, ClientTlsConfig, Endpoint},
};

use crate::{
    across::{Outbox, OutletStats},
    agent::Outlet,
    inventory::Inventory,
    verdict::{Heard, Inputs, Verdict},
};
use records::{attribute, of_event, of_losses, of_verdict, text};

/// Records in one request: a Collector takes 4 MiB, and a record is well below 4 KiB.
const BATCH: usize = 500;
/// How long an answer is waited for.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long is waited after a failure at first, and at most.
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Records on their way.
pub type Records = Outbox<LogRecord>;

/// Has the agent tell a Collector.
pub struct OtlpLogs {
    outbox: Arc<Records>,
}

impl OtlpLogs {
    /// By way of an outbox.
    pub fn new(outbox: Arc<Records>) -> Self {
        Self { outbox }
    }

    fn put(&self, record: LogRecord) {
        let size = record.encoded_len();
        self.outbox.put(record, size);
    }
}

impl Outlet for OtlpLogs {
    fn tick(
        &mut self,
        inputs: &Inputs<'_>,
        heard: &[Heard],
        verdicts: &[Verdict],
        inventory: &Inventory,
    ) {
        // A Collector takes the wall clock's times.
        let (shift_ms, wall) = (inputs.clock.shift_ms, |at| inputs.clock.wall(at));
        for heard in heard {
            self.put(of_event(&heard.event.clone().shifted(shift_ms), wall(heard.at)));
        }
        for delta in &inputs.sample.listeners {
            let listener = inventory.get(&delta.listener);
            self.put(of_losses(delta, inputs.sample.window.shifted(shift_ms), listener));
        }
        for verdict in verdicts {
            self.put(of_verdict(&verdict.clone().shifted(shift_ms), wall(inputs.now)));
        }
    }

    fn stats(&self) -> (String, Arc<OutletStats>) {
        ("otlp".to_owned(), self.outbox.stats())
    }
}

/// The channel to a Collector, opened when it is needed.
///
/// # Errors
///
/// When `url` is none of http or https.
pub fn channel(url: &str) -> Result<Channel> {
    let remedy = || format!("--otlp {url}: must be http://HOST:PORT or https://HOST:PORT");
    let mut endpoint = Endpoint::from_shared(url.to_owned()).with_context(remedy)?.timeout(TIMEOUT);
    if url.starts_with("https://") {
        let tls = ClientTlsConfig::new().with_native_roots();
        endpoint = endpoint.tls_config(tls).with_context(remedy)?;
    } else {
        anyhow::ensure!(url.starts_with("http://"), remedy());
    }
    Ok(endpoint.connect_lazy())
}

/// Hands an outbox's records over as those of `host`, for ever.
pub async fn export_logs(channel: Channel, outbox: Arc<Records>, host: String) {
    let mut client = LogsServiceClient::new(channel);
    let stats = outbox.stats();
    let mut pause = PAUSE;
    loop {
        let records = outbox.next(BATCH).await;
        let count = records.len();
        match client.export(request(&host, records)).await {
            Ok(answer) => {
                let partial = answer.into_inner().partial_success.unwrap_or_default();
                let rejected = u64::try_from(partial.rejected_log_records).unwrap_or(0);
                if rejected > 0 {
                    stats.rejected(rejected);
                    warn!("the Collector rejected {rejected} records: {}", partial.error_message);
                }
                if stats.succeeded(count - usize::try_from(rejected).unwrap_or(0).min(count)) {
                    info!("connected to the Collector");
                }
                outbox.done();
                pause = PAUSE;
            }
            Err(status) if is_final(&status) => {
                warn!("the Collector rejected {count} records: {}", reason(&status));
                stats.failed();
                stats.rejected(count as u64);
                outbox.done();
            }
            Err(status) => {
                if stats.failed() {
                    warn!("cannot send records to the Collector, retrying: {}", reason(&status));
                }
                sleep(pause).await;
                pause = (2 * pause).min(LONGEST_PAUSE);
            }
        }
    }
}

/// What a person wants to know of a failure: what it says, and what lies at its root.
fn reason(status: &Status) -> String {
    let mut root = status.source();
    while let Some(below) = root.and_then(Error::source) {
        root = Some(below);
    }
    root.map_or_else(
        || format!("{}: {}", status.code().description(), status.message()),
        |root| format!("{}: {root}", status.message()),
    )
}

/// Whether it is of no use to try again. OTLP/gRPC names the codes that are worth another try
/// (<https://opentelemetry.io/docs/specs/otlp/#failures>); for what a wrong set-up answers there may
/// be a remedy.
fn is_final(status: &Status) -> bool {
    matches!(status.code(), Code::InvalidArgument | Code::FailedPrecondition | Code::Internal)
}

fn request(host: &str, log_records: Vec<LogRecord>) -> ExportLogsServiceRequest {
    let (name, version) = (env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"));
    let attributes = vec![
        attribute("service.name", text(name)),
        attribute("service.version", text(version)),
        attribute("service.instance.id", text(host)),
        attribute("host.name", text(host)),
    ];
    let scope = InstrumentationScope {
        name: name.to_owned(),
        version: version.to_owned(),
        ..InstrumentationScope::default()
    };
    let scope_logs = ScopeLogs { scope: Some(scope), log_records, schema_url: String::new() };
    let resource_logs = ResourceLogs {
        resource: Some(Resource { attributes, ..Resource::default() }),
        scope_logs: vec![scope_logs],
        schema_url: String::new(),
    };
    ExportLogsServiceRequest { resource_logs: vec![resource_logs] }
}

#[cfg(test)]
mod tests;
