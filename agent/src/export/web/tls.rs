//! TLS, from the files that a web configuration names.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result, ensure};
use rustls::{
    RootCertStore, ServerConfig, SupportedProtocolVersion,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
    version::{TLS12, TLS13},
};
use serde::Deserialize;

use super::LARGEST;
use crate::untrusted_file;

/// `tls_server_config`. Cipher suites and curves are rustls's own, all of which are sound.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Settings {
    cert_file: PathBuf,
    key_file: PathBuf,
    #[serde(default)]
    client_auth_type: ClientAuth,
    client_ca_file: Option<PathBuf>,
    #[serde(default = "oldest")]
    min_version: Version,
    #[serde(default = "newest")]
    max_version: Version,
}

/// Go's words for what is asked of clients, so far as rustls offers it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
enum ClientAuth {
    #[default]
    NoClientCert,
    VerifyClientCertIfGiven,
    RequireAndVerifyClientCert,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum Version {
    Tls12,
    Tls13,
}

fn oldest() -> Version {
    Version::Tls12
}

fn newest() -> Version {
    Version::Tls13
}

impl Settings {
    pub(super) fn needs_client_certificate(&self) -> bool {
        self.client_auth_type == ClientAuth::RequireAndVerifyClientCert
    }

    /// Reads the files, relative to `directory`.
    pub(super) fn load(&self, directory: &Path) -> Result<Arc<ServerConfig>> {
        let provider = Arc::new(ring::default_provider());
        let clients = self.clients(directory, &provider)?;
        let builder = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&self.versions()?)
            .context("selecting the TLS versions")?;
        let builder = match clients {
            Some(verifier) => builder.with_client_cert_verifier(verifier),
            None => builder.with_no_client_auth(),
        };
        let key = untrusted_file::read(&directory.join(&self.key_file), LARGEST)
            .map_err(anyhow::Error::new)
            .and_then(|key| Ok(PrivateKeyDer::from_pem_slice(&key)?))
            .with_context(|| format!("key_file {}", self.key_file.display()))?;
        let certificates = certificates(directory, &self.cert_file, "cert_file")?;
        let mut config = builder
            .with_single_cert(certificates, key)
            .context("key_file does not match cert_file")?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }

    fn versions(&self) -> Result<Vec<&'static SupportedProtocolVersion>> {
        ensure!(self.min_version <= self.max_version, "min_version is above max_version");
        let all = [(Version::Tls12, &TLS12), (Version::Tls13, &TLS13)];
        let range = self.min_version..=self.max_version;
        Ok(all
            .into_iter()
            .filter(|(version, _)| range.contains(version))
            .map(|(_, it)| it)
            .collect())
    }

    fn clients(
        &self,
        directory: &Path,
        provider: &Arc<rustls::crypto::CryptoProvider>,
    ) -> Result<Option<Arc<dyn ClientCertVerifier>>> {
        if self.client_auth_type == ClientAuth::NoClientCert {
            return Ok(None);
        }
        let file = self.client_ca_file.as_deref().context("client_ca_file is missing")?;
        let mut roots = RootCertStore::empty();
        for certificate in certificates(directory, file, "client_ca_file")? {
            roots.add(certificate).with_context(|| format!("client_ca_file {}", file.display()))?;
        }
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone());
        let verifier = match self.client_auth_type {
            ClientAuth::VerifyClientCertIfGiven => verifier.allow_unauthenticated(),
            _ => verifier,
        };
        Ok(Some(verifier.build().context("client_ca_file")?))
    }
}

fn certificates(directory: &Path, file: &Path, key: &str) -> Result<Vec<CertificateDer<'static>>> {
    let shown = || format!("{key} {}", file.display());
    let text = untrusted_file::read(&directory.join(file), LARGEST).with_context(shown)?;
    let certificates: Vec<_> =
        CertificateDer::pem_slice_iter(&text).collect::<Result<_, _>>().with_context(shown)?;
    ensure!(!certificates.is_empty(), "{} contains no certificate", shown());
    Ok(certificates)
}
