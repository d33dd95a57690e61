//! The connection to a NATS server and the streams on it.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use async_nats::{
    ConnectOptions, Event, Server, ServerAddr,
    jetstream::{
        Context,
        context::ContextBuilder,
        stream::{Config, DiscardPolicy, StorageType, Stream},
    },
};
use log::{info, warn};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

use super::{secret, subject, validate::MAX_PAYLOAD};
use crate::untrusted_file;

/// Longest file with certificates or a key.
const LARGEST: u64 = 8 << 20;
/// The stream of what agents saw and heard.
pub const EVIDENCE_STREAM: &str = "FLOODMARK_V1_EVIDENCE";
/// The stream of verdicts, one message for each event, kept for a day.
pub const VERDICT_STREAM: &str = "FLOODMARK_V1_VERDICTS";
/// How long a verdict on what was said may still be asked for: what is older than this is of no use
/// to anybody's join.
const EVIDENCE_AGE: Duration = Duration::from_secs(3600);
const VERDICT_AGE: Duration = Duration::from_secs(24 * 3600);
/// The most that either stream may take up where nobody has made it otherwise; the oldest goes first.
const STREAM_BYTES: i64 = 1 << 30;
/// Messages kept of one host, or of the verdicts on one upstream: one that publishes far too many drives
/// out its own before those of the others. An hour of a busy host has a tenth of it.
const MAX_MESSAGES: i64 = 100_000;
/// How long an acknowledgement is waited for.
const ACKNOWLEDGED: Duration = Duration::from_secs(5);
/// How long is waited between two attempts to connect.
const RECONNECT: Duration = Duration::from_secs(1);

/// Where the bus is, and how to get in.
#[derive(Clone, Debug, Default)]
pub struct BusConfig {
    /// `nats://HOST:PORT`, or `tls://`; several with commas between.
    pub servers: String,
    /// File with what a user is known by: a JWT and its seed, a seed, USER:PASSWORD or a token.
    pub credentials: Option<PathBuf>,
    /// File with certificates of authorities to trust instead of the system's.
    pub authorities: Option<PathBuf>,
    /// Files with the client's own certificate and its key.
    pub certificate: Option<(PathBuf, PathBuf)>,
}

/// A connection.
#[derive(Clone, Debug)]
pub struct Bus {
    jetstream: Context,
}

impl Bus {
    /// Begins to connect as `name`; a server that is away now is tried again and again.
    ///
    /// # Errors
    ///
    /// When an address or a file is not what it must be.
    pub async fn connect(config: &BusConfig, name: &str) -> Result<Self> {
        let servers = addresses(&config.servers)?;
        let has_complained = Arc::new(AtomicBool::new(false));
        let complained = Arc::clone(&has_complained);
        let mut options = ConnectOptions::new()
            .name(format!("floodmark {name}"))
            .custom_inbox_prefix(subject::inbox(name))
            .retry_on_initial_connect()
            .reconnect_delay_callback(|_| RECONNECT)
            // Chooses nothing, but is told before each attempt why the one before failed.
            .reconnect_to_server_callback(move |servers, _| {
                complain(&servers, &complained);
                async { None }
            })
            .event_callback(move |event| {
                let has_complained = Arc::clone(&has_complained);
                async move { say(&event, &has_complained) }
            });
        if let Some(file) = &config.credentials {
            options = secret::give(options, file)
                .with_context(|| format!("--nats-credentials {}", file.display()))?;
        }
        if let Some(file) = &config.authorities {
            certificates(file).with_context(|| format!("--nats-ca {}", file.display()))?;
            options = options.add_root_certificates(file.clone());
        }
        if let Some((certificate, key)) = &config.certificate {
            certificates(certificate)
                .with_context(|| format!("--nats-certificate {}", certificate.display()))?;
            let read = untrusted_file::read(key, LARGEST).map_err(anyhow::Error::new);
            read.and_then(|key| Ok(PrivateKeyDer::from_pem_slice(&key)?))
                .with_context(|| format!("--nats-key {}", key.display()))?;
            options = options.add_client_certificate(certificate.clone(), key.clone());
        }
        let client = options
            .connect(servers)
            .await
            .with_context(|| format!("cannot connect to --nats {}", config.servers))?;
        let jetstream = ContextBuilder::new().ack_timeout(ACKNOWLEDGED).build(client);
        Ok(Self { jetstream })
    }

    /// For whoever publishes or reads.
    pub fn jetstream(&self) -> &Context {
        &self.jetstream
    }

    /// The stream of what agents saw and heard; made, where there is none.
    ///
    /// # Errors
    ///
    /// When the server is away, has no JetStream, or does not let this user.
    pub async fn evidence(&self) -> Result<Stream> {
        self.stream(EVIDENCE_STREAM, "host", EVIDENCE_AGE).await
    }

    /// The stream of verdicts; made, where there is none.
    ///
    /// # Errors
    ///
    /// As for [`evidence`](Self::evidence).
    pub async fn verdicts(&self) -> Result<Stream> {
        self.stream(VERDICT_STREAM, "verdict", VERDICT_AGE).await
    }

    async fn stream(&self, name: &str, kind: &str, max_age: Duration) -> Result<Stream> {
        let config = Config {
            name: name.to_owned(),
            subjects: vec![subject::all(kind)],
            max_age,
            max_bytes: STREAM_BYTES,
            max_messages_per_subject: MAX_MESSAGES,
            max_message_size: MAX_PAYLOAD as i32,
            discard: DiscardPolicy::Old,
            storage: StorageType::File,
            // Who was away for long tells again what was told already: as far back as evidence goes.
            duplicate_window: EVIDENCE_AGE,
            ..Config::default()
        };
        let stream = self.jetstream.get_or_create_stream(config).await;
        stream.with_context(|| format!("cannot get or create stream {name} on the NATS server"))
    }
}

fn addresses(servers: &str) -> Result<Vec<ServerAddr>> {
    let address = |server: &str| {
        // Not repeated in what is said: it may hold a password.
        let address: ServerAddr =
            server.parse().context("--nats: must be nats://HOST:PORT or tls://HOST:PORT")?;
        ensure!(
            !address.has_user_pass(),
            "--nats {}: every user of this host can read a command line; put USER:PASSWORD or the \
             token in a file and set --nats-credentials",
            address.host()
        );
        Ok(address)
    };
    servers.split(',').map(address).collect()
}

/// Looks whether a file holds certificates: without any, nobody would be trusted, and nothing said.
fn certificates(file: &Path) -> Result<()> {
    let text = untrusted_file::read(file, LARGEST)?;
    let mut certificates = CertificateDer::pem_slice_iter(&text);
    certificates.next().context("contains no certificate (PEM)")??;
    Ok(())
}

/// Says why there is no connection, once, not at each try.
fn complain(servers: &[Server], has_complained: &AtomicBool) {
    let failed = servers.iter().filter_map(|server| Some((server, server.last_error.as_ref()?)));
    let reasons: Vec<String> = failed
        .map(|(Server { addr, .. }, error)| {
            format!("{}:{}: {error}{}", addr.host(), addr.port(), remedy(error))
        })
        .collect();
    if !reasons.is_empty() && !has_complained.swap(true, Ordering::Relaxed) {
        warn!("cannot connect to NATS, retrying: {}", reasons.join("; "));
    }
}

/// What to do about an error, where that is known. The words are those of async-nats, rustls and
/// nats-server.
fn remedy(error: &str) -> &'static str {
    let says = |words: &str| error.to_lowercase().contains(words);
    if says("unknownissuer") {
        "; trust the CA of its certificate with --nats-ca"
    } else if says("authorization violation") {
        "; unknown user or wrong secret: see --nats-credentials"
    } else if says("permissions violation") {
        "; grant this user the permission, or use this host's own user: see docs/across-hosts.md"
    } else if says("certificaterequired") || says("fatal alert: badcertificate") {
        // The second is what a server before Go 1.21 says to whom shows none.
        "; it requires a client certificate: see --nats-certificate"
    } else {
        ""
    }
}

/// Says what becomes of the connection.
fn say(event: &Event, has_complained: &AtomicBool) {
    match event {
        Event::Connected => {
            has_complained.store(false, Ordering::Relaxed);
            info!("connected to the NATS server");
        }
        Event::Disconnected => warn!(
            "disconnected from the NATS server; messages wait in the \
                                      outbox"
        ),
        // Told with its reason before the next attempt.
        Event::ClientError(_) => {}
        Event::ServerError(error) => {
            if !has_complained.swap(true, Ordering::Relaxed) {
                let error = error.to_string();
                warn!("the NATS server reports: {}{}", error.escape_debug(), remedy(&error));
            }
        }
        other => info!("NATS: {other}"),
    }
}

/// What NATS calls the id by which it knows a message that it has already.
pub(super) const MESSAGE_ID: &str = "Nats-Msg-Id";
