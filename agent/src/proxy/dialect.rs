//! The languages that proxies' logs are written in, one file each.

mod apache;
pub mod caddy;
pub mod envoy;
mod go;
pub mod haproxy;
mod keys;
pub mod nginx;
mod traefik;

use super::event::{Carrier, ProxyEvent, ProxyKind};

/// A log format; `--proxy-log` selects it by [`name`](Self::name).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Dialect {
    /// nginx's error log, and that of OpenResty, APISIX, Tengine and ingress-nginx.
    Nginx,
    /// HAProxy's log.
    Haproxy,
    /// Envoy's outlier detection events and access logs.
    Envoy,
    /// Caddy's log.
    Caddy,
    /// Apache httpd's error log.
    Apache,
    /// Traefik's log.
    Traefik,
}

impl Dialect {
    /// Every dialect there is.
    pub const ALL: [Self; 6] =
        [Self::Nginx, Self::Haproxy, Self::Envoy, Self::Caddy, Self::Apache, Self::Traefik];

    /// The program that speaks it.
    pub fn proxy(self) -> ProxyKind {
        match self {
            Self::Nginx => ProxyKind::Nginx,
            Self::Haproxy => ProxyKind::Haproxy,
            Self::Envoy => ProxyKind::Envoy,
            Self::Caddy => ProxyKind::Caddy,
            Self::Apache => ProxyKind::Apache,
            Self::Traefik => ProxyKind::Traefik,
        }
    }

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        self.proxy().name()
    }

    /// Reads one line, without its line feed and without what its carrier put before it. `None` for
    /// everything that is no event of an upstream. Whatever the bytes, it returns.
    pub fn parse(self, line: &[u8], carrier: &Carrier<'_>) -> Option<ProxyEvent> {
        match self {
            Self::Nginx => nginx::parse(line, carrier),
            Self::Haproxy => haproxy::parse(line, carrier),
            Self::Envoy => envoy::parse(line, carrier),
            Self::Caddy => caddy::parse(line, carrier),
            Self::Apache => apache::parse(line, carrier),
            Self::Traefik => traefik::parse(line, carrier),
        }
    }
}

impl std::str::FromStr for Dialect {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|dialect| dialect.name() == name).ok_or_else(|| {
            let names: Vec<&str> = Self::ALL.iter().map(|dialect| dialect.name()).collect();
            format!("no dialect is called {name}; there are {}", names.join(", "))
        })
    }
}

#[cfg(test)]
mod tests;
