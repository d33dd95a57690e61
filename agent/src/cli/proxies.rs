//! Where the proxies speak, on the command line.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use crate::{
    agent::AgentConfig,
    proxy::{Dialect, source::Source},
};

/// The proxies' logs.
#[derive(Debug, Args)]
pub(super) struct ProxyArgs {
    /// Follow this nginx error log, also through rotation (repeatable). Set its level to warn or lower
    #[arg(long = "nginx-error-log", value_name = "FILE")]
    nginx_error_logs: Vec<PathBuf>,
    /// Follow this proxy log (repeatable). DIALECT: nginx, haproxy, envoy, caddy, apache or traefik. FILE:
    /// its log, its container's log, or `-` for standard input. DIALECT:TAG=FILE also sets the program name
    /// in syslog or journald, if it is not the usual one
    #[arg(long = "proxy-log", value_name = "DIALECT=FILE", value_parser = Source::of_log)]
    proxy_logs: Vec<Source>,
    /// Receive proxies' syslog at udp://ADDR:PORT, tcp://ADDR:PORT or unix:///PATH (repeatable). DIALECT=URL
    /// accepts only one format; DIALECT:TAG=URL also sets the program name, if it is not the usual one
    #[arg(long = "syslog", value_name = "URL", value_parser = Source::of_syslog)]
    syslog: Vec<Source>,
    /// Read the addresses of HAProxy's servers from this command socket, or from a file with the output of
    /// `show servers state` (repeatable). HAProxy's log contains only the servers' names
    #[arg(long = "haproxy-servers", value_name = "PATH")]
    haproxy_servers: Vec<PathBuf>,
    /// Observe every nginx of this host with uprobes: its markings at any log level, with the connection's
    /// local port
    #[arg(long)]
    nginx_uprobes: bool,
    /// Store the read positions of logs in this directory, and continue there after a restart
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
}

impl ProxyArgs {
    /// The agent's configuration.
    pub(super) fn config(&self) -> Result<AgentConfig> {
        let nginx = self.nginx_error_logs.iter().cloned();
        let nginx = nginx.map(|path| Source::File(Dialect::Nginx.into(), path));
        let sources: Vec<Source> =
            nginx.chain(self.proxy_logs.clone()).chain(self.syslog.clone()).collect();
        let inputs = sources.iter().filter(|source| matches!(source, Source::StandardInput(_)));
        anyhow::ensure!(inputs.count() <= 1, "only one log can be read from standard input");
        Ok(AgentConfig {
            sources,
            state_directory: self.state_dir.clone(),
            haproxy_servers: self.haproxy_servers.clone(),
            nginx_uprobes: self.nginx_uprobes,
            ..AgentConfig::default()
        })
    }
}
