//! Who may ask, and how it is kept from others' eyes: the web configuration of Prometheus's own
//! exporters (exporter-toolkit, `docs/web-configuration.md` there), so far as it fits.
//!
//! ```yaml
//! tls_server_config:
//!   cert_file: server.crt
//!   key_file: server.key
//! basic_auth_users:
//!   prometheus: $2y$10$...
//! ```

mod auth;
mod tls;

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, PoisonError, RwLock},
};

use anyhow::{Context, Result, anyhow, ensure};
use rustls::ServerConfig;
use serde::Deserialize;

pub(super) use auth::{Users, authorised};

use crate::untrusted_file;

/// Longest file, of those that it names too: certificates of some thousand authorities.
const LARGEST: u64 = 8 << 20;

/// The file, as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct File {
    tls_server_config: Option<tls::Settings>,
    http_server_config: HttpSettings,
    basic_auth_users: BTreeMap<String, String>,
}

/// Taken for the sake of files that have it.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct HttpSettings {
    /// HTTP/1.1 is spoken whatever this says; it is what Prometheus falls back on.
    #[serde(rename = "http2")]
    _http2: bool,
}

/// What a web configuration says, checked.
#[derive(Debug, Default)]
pub struct WebConfig {
    tls: Option<Arc<ServerConfig>>,
    users: BTreeMap<String, String>,
    needs_client_certificate: bool,
}

impl WebConfig {
    /// Reads the file at `path`, and the certificates that it names, relative to itself.
    ///
    /// # Errors
    ///
    /// What is wrong with it, in one line with the file's line where there is one.
    pub fn read(path: &Path) -> Result<Self> {
        let shown = path.display();
        let text = untrusted_file::read_to_string(path, LARGEST)
            .with_context(|| format!("reading {shown}"))?;
        let file: File = serde_saphyr::from_str(&text).map_err(|error| {
            let line = error.location().map_or(1, |location| location.line());
            let said = error.without_snippet().to_string();
            let (said, _) = said.split_once(" at line ").unwrap_or((&said, ""));
            anyhow!("{shown}:{line}: {}", said.replace('\n', " "))
        })?;
        let directory = path.parent().unwrap_or(Path::new("."));
        let tls = file.tls_server_config.as_ref();
        let needs_client_certificate = tls.is_some_and(tls::Settings::needs_client_certificate);
        let tls = tls.map(|tls| tls.load(directory)).transpose();
        for (user, hash) in &file.basic_auth_users {
            ensure!(
                hash.parse::<bcrypt::HashParts>().is_ok(),
                "{shown}: basic_auth_users: the password of {user} is no bcrypt hash; create one \
                 with `htpasswd -nBC 10 {user}`"
            );
        }
        let tls = tls.with_context(|| format!("{shown}: tls_server_config"))?;
        Ok(Self { tls, users: file.basic_auth_users, needs_client_certificate })
    }

    /// Whether it asks for TLS.
    pub fn is_tls(&self) -> bool {
        self.tls.is_some()
    }
}

/// TLS as it is spoken to whoever connects next.
#[derive(Debug)]
pub(super) struct CurrentTls(RwLock<Arc<ServerConfig>>);

impl CurrentTls {
    pub(super) fn get(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn replace(&self, config: Arc<ServerConfig>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = config;
    }
}

/// The web configuration in force; copies share it.
#[derive(Clone, Debug)]
pub struct Web {
    pub(super) tls: Option<Arc<CurrentTls>>,
    pub(super) users: Arc<Users>,
    /// Whether, at start, nobody unknown could read a page.
    pub(super) authenticates: bool,
    /// Names to which a server on loopback answers, beside loopback's own.
    pub(super) allowed_hosts: Arc<[String]>,
}

impl Web {
    /// Puts `config` into force.
    pub fn new(config: WebConfig, allowed_hosts: Vec<String>) -> Self {
        Self {
            authenticates: config.needs_client_certificate || !config.users.is_empty(),
            tls: config.tls.map(|tls| Arc::new(CurrentTls(RwLock::new(tls)))),
            users: Arc::new(Users::new(config.users)),
            allowed_hosts: allowed_hosts.into(),
        }
    }

    /// Takes on other certificates and users, for connections and requests to come.
    ///
    /// # Errors
    ///
    /// When TLS would have to begin or end, which takes a restart.
    pub fn change(&self, config: WebConfig) -> Result<()> {
        match (&self.tls, config.tls) {
            (Some(tls), Some(new)) => tls.replace(new),
            (None, None) => {}
            _ => anyhow::bail!("enabling or disabling TLS takes a restart"),
        }
        self.users.change(config.users);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
