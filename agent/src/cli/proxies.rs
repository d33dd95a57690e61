//! Where the proxies speak, on the command line.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use crate::{
    agent::AgentConfig,
    proxy::{Dialect, source::Source},
};

/// Where the proxies speak.
#[derive(Debug, Args)]
pub(super) struct ProxyArgs {
    /// nginx error log to follow, through rotation; its level should be warn or lower (repeatable)
    #[arg(long = "nginx-error-log", value_name = "FILE")]
    nginx_error_logs: Vec<PathBuf>,
    /// Proxy's log to follow: nginx, haproxy, envoy or caddy; its file, a container's log of it, or `-`
    /// for standard input. DIALECT:TAG also names the program as syslog or journald calls it, if that
    /// is not its usual name (repeatable)
    #[arg(long = "proxy-log", value_name = "DIALECT=FILE", value_parser = Source::of_log)]
    proxy_logs: Vec<Source>,
    /// Receive proxies' syslog at udp://ADDR:PORT, tcp://ADDR:PORT or unix:///PATH. DIALECT=URL accepts one
    /// format only; DIALECT:TAG=URL also names the program, if that is not its usual name
    /// (repeatable)
    #[arg(long = "syslog", value_name = "URL", value_parser = Source::of_syslog)]
    syslog: Vec<Source>,
    /// HAProxy's command socket, or a file with its `show servers state`: tells the addresses of
    /// servers, which its log names only (repeatable)
    #[arg(long = "haproxy-servers", value_name = "PATH")]
    haproxy_servers: Vec<PathBuf>,
    /// Watch every nginx of this host by uprobes: its markings, also where its log's level hides them,
    /// with the connection's local port
    #[arg(long)]
    nginx_uprobes: bool,
    /// Keep in this directory how far logs have been read, and go on there after a restart
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
}

impl ProxyArgs {
    /// What the agent is asked to do.
    pub(super) fn config(&self) -> Result<AgentConfig> {
        let nginx = self.nginx_error_logs.iter().cloned();
        let nginx = nginx.map(|path| Source::File(Dialect::Nginx.into(), path));
        let sources: Vec<Source> =
            nginx.chain(self.proxy_logs.clone()).chain(self.syslog.clone()).collect();
        let inputs = sources.iter().filter(|source| matches!(source, Source::StandardInput(_)));
        anyhow::ensure!(inputs.count() <= 1, "there is only one standard input");
        Ok(AgentConfig {
            sources,
            state_directory: self.state_dir.clone(),
            haproxy_servers: self.haproxy_servers.clone(),
            nginx_uprobes: self.nginx_uprobes,
            ..AgentConfig::default()
        })
    }
}
