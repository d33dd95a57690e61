//! Where the bus is, on the command line.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Args;
use nix::unistd::gethostname;

use crate::across::{Bus, BusConfig, check_host_name};

/// How to reach a NATS server.
#[derive(Debug, Args)]
pub(super) struct BusArgs {
    /// File with what the NATS server knows this user by: a JWT and its seed, a seed, USER:PASSWORD or
    /// a token
    #[arg(long, value_name = "FILE")]
    nats_credentials: Option<PathBuf>,
    /// File with certificates (PEM) of authorities to trust for tls:// instead of the system's
    #[arg(long, value_name = "FILE")]
    nats_ca: Option<PathBuf>,
    /// File with this client's certificate (PEM), where the server asks for one
    #[arg(long, value_name = "FILE")]
    nats_certificate: Option<PathBuf>,
    /// File with that certificate's key (PEM)
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
            "--nats-certificate and --nats-key go together"
        );
        let certificate = self.nats_certificate.zip(self.nats_key);
        let authorities = self.nats_ca;
        let config =
            BusConfig { servers, credentials: self.nats_credentials, authorities, certificate };
        Bus::connect(&config, name).await
    }
}

/// The name of this host among others: the one given, or the kernel's.
pub(super) fn host_name(given: Option<String>) -> Result<String> {
    let name = match given {
        Some(name) => name,
        None => gethostname().context("asking for the host's name")?.to_string_lossy().into_owned(),
    };
    check_host_name(&name).context("give another by --host-name or --name")?;
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
