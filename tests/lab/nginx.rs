//! A real nginx in a namespace, with the configuration of the incident or the mended one.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddrV4},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::topology::Namespace;

/// Debian's nginx.
pub(crate) const NGINX: &str = "/usr/sbin/nginx";
/// Where the proxy listens, inside its namespace.
pub const ADDR: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 8080);

/// What the two acts differ in, on the proxy's side.
#[derive(Clone, Copy, Debug)]
pub struct Tuning {
    /// Idle connections kept open to the upstream; `None` is nginx's default of 1.22, a new
    /// connection by HTTP/1.0 for every request.
    pub keepalive: Option<u32>,
    /// `proxy_connect_timeout`; `None` is the default, 60 s.
    pub connect_timeout: Option<Duration>,
}

/// A running nginx.
pub struct Nginx {
    master: Child,
    /// Error log, at level `warn`.
    pub error_log: PathBuf,
}

impl Nginx {
    /// Starts nginx in `namespace`, with its files in `directory`.
    pub fn start(
        namespace: &Namespace,
        directory: &Path,
        upstreams: &[SocketAddrV4],
        tuning: Tuning,
    ) -> Result<Self> {
        fs::write(directory.join("nginx.conf"), render(upstreams, tuning))
            .context("writing nginx.conf")?;
        let error_log = directory.join("error.log");
        fs::write(&error_log, "").context("making nginx's error log")?;
        let master = spawn(namespace.command(NGINX)?, directory)?;
        Ok(Self { master, error_log })
    }
}

/// Starts nginx by a command that runs it, with the `nginx.conf` and the error log of `directory`.
pub(crate) fn spawn(mut command: Command, directory: &Path) -> Result<Child> {
    command
        .arg("-p")
        .arg(directory)
        .arg("-c")
        .arg(directory.join("nginx.conf"))
        // Before it has read its configuration nginx would log to the system's file.
        .args(["-e", "error.log"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .context("starting nginx (package nginx-light)")
}

impl Nginx {
    /// Puts its error log aside and has it begin a new one, as logrotate does.
    pub fn rotate(&self) -> Result<()> {
        fs::rename(&self.error_log, self.error_log.with_extension("log.1"))
            .context("putting nginx's error log aside")?;
        kill(Pid::from_raw(self.master.id() as i32), Signal::SIGUSR1).context("telling nginx")
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // SIGTERM to the master ends its workers too.
        let _ = kill(Pid::from_raw(self.master.id() as i32), Signal::SIGTERM);
        let _ = self.master.wait();
    }
}

fn render(upstreams: &[SocketAddrV4], tuning: Tuning) -> String {
    let servers: String =
        upstreams.iter().map(|addr| format!("        server {addr};\n")).collect();
    let keepalive = tuning.keepalive.map(|n| format!("        keepalive {n};\n"));
    let reuse = tuning.keepalive.map(
        |_| "            proxy_http_version 1.1;\n            proxy_set_header Connection \"\";\n",
    );
    let timeout = tuning
        .connect_timeout
        .map(|timeout| format!("            proxy_connect_timeout {}s;\n", timeout.as_secs()));
    format!(
        "daemon off;
user root;
pid nginx.pid;
worker_processes 2;
worker_rlimit_nofile 65536;
error_log error.log warn;
events {{
    worker_connections 16384;
}}
http {{
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    upstream app {{
{servers}{keepalive}    }}
    server {{
        listen {ADDR} backlog=8192;
        location / {{
            proxy_pass http://app;
{reuse}{timeout}        }}
    }}
}}
",
        keepalive = keepalive.unwrap_or_default(),
        reuse = reuse.unwrap_or_default(),
        timeout = timeout.unwrap_or_default(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(tuning: Tuning) -> String {
        render(&["10.0.0.1:80".parse().unwrap(), "10.0.0.2:80".parse().unwrap()], tuning)
    }

    #[test]
    fn the_broken_configuration_keeps_every_default() {
        let text = rendered(Tuning { keepalive: None, connect_timeout: None });
        assert!(text.contains("server 10.0.0.1:80;") && text.contains("server 10.0.0.2:80;"));
        for changed in ["keepalive", "proxy_http_version", "timeout", "max_fails"] {
            assert!(!text.contains(changed), "{changed}");
        }
    }

    #[test]
    fn the_mended_one_reuses_connections() {
        let text = rendered(Tuning { keepalive: Some(64), connect_timeout: None });
        let needed =
            ["keepalive 64;", "proxy_http_version 1.1;", "proxy_set_header Connection \"\";"];
        assert!(needed.iter().all(|needed| text.contains(needed)), "{text}");
    }
}
