//! Where the proxies speak, on the command line.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Error, Result};
use clap::Args;
use log::warn;

use crate::{
    agent::AgentConfig,
    lint::{haproxy::log_formats, root::LARGEST},
    proxy::{Dialect, LogFormat, source::Source},
    untrusted_file,
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
    /// Read HAProxy's traffic logs in this `log-format` too, or in each of a configuration file as @FILE. A
    /// format needs %ts or %tsc, and %b/%s or %si:%sp (repeatable)
    #[arg(long = "haproxy-log-format", value_name = "FORMAT")]
    haproxy_log_formats: Vec<String>,
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
        let log_formats = self.log_formats()?;
        let sources = sources.into_iter().map(|source| source.with_log_formats(&log_formats));
        Ok(AgentConfig {
            sources: sources.collect(),
            state_directory: self.state_dir.clone(),
            haproxy_servers: self.haproxy_servers.clone(),
            nginx_uprobes: self.nginx_uprobes,
            ..AgentConfig::default()
        })
    }

    /// HAProxy's formats, of which those of a file are left out that tell no failure.
    fn log_formats(&self) -> Result<Arc<[LogFormat]>> {
        let mut formats = Vec::new();
        for text in &self.haproxy_log_formats {
            let Some(path) = text.strip_prefix('@') else {
                let format = text.parse().map_err(Error::msg);
                formats.push(format.with_context(|| format!("--haproxy-log-format {text:?}"))?);
                continue;
            };
            let bytes = untrusted_file::read(Path::new(path), LARGEST)
                .with_context(|| format!("--haproxy-log-format: reading {path}"))?;
            for text in log_formats(path, &bytes) {
                match text.parse() {
                    Ok(format) => formats.push(format),
                    Err(error) => warn!("{path}: log-format {text:?} is not read: {error}"),
                }
            }
        }
        Ok(formats.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        proxy::{EventKind, Failure, Phase, source::Interpreter},
        time::UnixMs,
    };

    fn args(formats: &[&str]) -> ProxyArgs {
        ProxyArgs {
            proxy_logs: vec![Source::of_log("haproxy=-").unwrap()],
            haproxy_log_formats: formats.iter().map(|text| (*text).to_owned()).collect(),
            nginx_error_logs: Vec::new(),
            syslog: Vec::new(),
            haproxy_servers: Vec::new(),
            nginx_uprobes: false,
            state_dir: None,
        }
    }

    fn formats(wanted: &[&str]) -> Result<Vec<String>> {
        let config = args(wanted).config()?;
        let Source::StandardInput(format) = &config.sources[0] else { panic!() };
        Ok(format.log_formats.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn formats_are_given_or_read_from_a_configuration() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = "defaults\n log-format \"%b/%s %ts\"\nfrontend x\n log-format \"%ci\"\n";
        std::fs::write(file.path(), text).unwrap();
        let of_file = format!("@{}", file.path().display());
        assert_eq!(formats(&["%s %b %tsc", &of_file]).unwrap(), ["%s %b %tsc", "%b/%s %ts"]);
        let error = format!("{:#}", formats(&["%ci"]).unwrap_err());
        assert!(error.contains("%ci") && error.contains("neither %ts nor %tsc"), "{error}");
        assert!(formats(&["@/nonexistent"]).is_err());
    }

    /// Written by Debian's HAProxy 2.6 with four formats of an operator's and `option httplog clf`: two
    /// requests each, to a server that refuses or whose accept queue is full.
    #[test]
    fn a_real_log_is_read_by_its_configuration() {
        let corpus =
            concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/corpora/haproxy/debian-2.6-formats");
        let known = args(&[&format!("@{corpus}.cfg")]).config().unwrap();
        let Source::StandardInput(format) = &known.sources[0] else { panic!() };
        let mut reader = Interpreter::new(format.clone(), "test".to_owned());
        // 2026-11-29T08:09:11Z
        let read_at = UnixMs(1_795_939_751_000);
        let log = std::fs::read(format!("{corpus}.log")).unwrap();
        let lines = log.split(|byte| *byte == b'\n');
        let mut events: Vec<_> = lines.flat_map(|line| reader.read(line, read_at)).collect();
        events.append(&mut reader.settle());
        let found = events.iter().map(|event| match event.kind {
            EventKind::AttemptFailed { phase: Phase::Connect, failure } => {
                (event.upstream.to_string(), failure)
            }
            other => panic!("{other:?}"),
        });
        let twice = |name: &str, failure| vec![(name.to_owned(), failure); 2];
        let expected = [
            twice("refused/s1", Failure::REFUSED),
            twice("refused/s1", Failure::REFUSED),
            twice("slow/s1", Failure::TIMEOUT),
            twice("127.0.0.1:18099", Failure::REFUSED),
            twice("slow/s1", Failure::TIMEOUT),
        ];
        assert_eq!(found.collect::<Vec<_>>(), expected.concat());
    }
}
