//! Where the bus is, on the command line.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Args;
use nix::unistd::gethostname;

use crate::across::{Bus, BusConfig, check_host_name};

/// How to reach a NATS server.
#[derive(Debug, Args)]
pub(super) struct BusArgs {
    /// Read the NATS user's credentials from this file: a JWT and its seed, the seed of an nkey,
    /// USER:PASSWORD or a token
    #[arg(long, value_name = "FILE")]
    nats_credentials: Option<PathBuf>,
    /// Trust the CA certificates (PEM) in this file for tls:// instead of the system's
    #[arg(long, value_name = "FILE")]
    nats_ca: Option<PathBuf>,
    /// Use the client certificate (PEM) in this file, if the server requires one
    #[arg(long, value_name = "FILE")]
    nats_certificate: Option<PathBuf>,
    /// Use the key (PEM) in this file for the client certificate
    #[arg(long, value_name = "FILE")]
    nats_key: Option<PathBuf>,
}

impl BusArgs {
    /// Whether any of them was given.
    pub(super) fn is_given(&self) -> bool {
        let files = [&self.nats_credentials, &self.nats_ca, &self.nats_certificate, &self.nats_key];
        files.into_iter().any(Option::is_some)
    }

    /// Connects to `servers` as `name`.
    pub(super) async fn connect(self, servers: String, name: &str) -> Result<Bus> {
        ensure!(
            self.nats_certificate.is_some() == self.nats_key.is_some(),
            "--nats-certificate and --nats-key need each other"
        );
        let certificate = self.nats_certificate.zip(self.nats_key);
        let authorities = self.nats_ca;
        let config =
            BusConfig { servers, credentials: self.nats_credentials, authorities, certificate };
        Bus::connect(&config, name).await
    }
}

/// The name under which this host publishes: the given one, or the kernel's host name.
pub(super) fn host_name(given: Option<String>) -> Result<String> {
    let name = match given {
        Some(name) => name,
        None => {
            gethostname().context("reading the kernel's host name")?.to_string_lossy().into_owned()
        }
    };
    check_host_name(&name).context("set another name with --host-name or --name")?;
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_has_a_plain_name() {
        assert_eq!(host_name(Some("web-1.example".to_owned())).unwrap(), "web-1.example");
        for name in ["", "a b", "a>b", "a:b"] {
            assert!(host_name(Some(name.to_owned())).is_err(), "{name}");
        }
        assert!(!host_name(None).unwrap().is_empty());
    }
}
