//! nginx, HAProxy and Envoy in the proxies' namespace, each with a group for every case.

use std::{
    fmt::Write as _,
    fs,
    io::{Read, Write},
    net::SocketAddrV4,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};

use super::case::{CASES, Case, Proxy};
use super::hosts::Hosts;
use crate::topology::Namespace;

/// First port of the applications; each case and proxy has its own.
const FIRST_PORT: u16 = 9100;

/// The port of a case's application for one proxy.
pub fn port(case: usize, proxy: Proxy) -> u16 {
    FIRST_PORT + 10 * case as u16 + proxy as u16
}

/// The running proxies, and where they speak.
pub struct Proxies {
    directory: PathBuf,
    children: Vec<Child>,
}

impl Proxies {
    /// Starts `playing`. `envoy` is its program.
    pub fn start(
        namespace: &Namespace,
        directory: &Path,
        playing: &[Proxy],
        envoy: &Path,
    ) -> Result<Self> {
        let mut proxies = Self { directory: directory.to_owned(), children: Vec::new() };
        let at = |name: &str| directory.join(name);
        fs::write(at("nginx.conf"), nginx(directory))?;
        fs::write(at("haproxy.cfg"), haproxy(directory))?;
        fs::write(at("envoy.json"), envoy_configuration(directory).to_string())?;
        for log in ["error.log", "access.json", "outlier.log"] {
            fs::write(at(log), "")?;
        }
        for proxy in playing {
            let program = match proxy {
                Proxy::Nginx => Path::new("/usr/sbin/nginx"),
                Proxy::Haproxy => Path::new("/usr/sbin/haproxy"),
                Proxy::Envoy => envoy,
            };
            let mut command = namespace.command(program)?;
            match proxy {
                Proxy::Nginx => {
                    command.arg("-p").arg(directory).arg("-c").arg(at("nginx.conf"));
                    command.args(["-e", "error.log"])
                }
                Proxy::Haproxy => command.arg("-db").arg("-f").arg(at("haproxy.cfg")),
                Proxy::Envoy => command.arg("-c").arg(at("envoy.json")).args([
                    "--concurrency",
                    "1",
                    "--file-flush-interval-msec",
                    "200",
                    "--disable-hot-restart",
                    "-l",
                    "error",
                ]),
            };
            proxies.spawn(command)?;
        }
        let begun = Instant::now();
        while playing.iter().any(|proxy| UnixStream::connect(proxies.socket(*proxy)).is_err()) {
            if begun.elapsed() > Duration::from_secs(60) {
                bail!("a proxy does not listen; see {}", directory.display());
            }
            thread::sleep(Duration::from_millis(100));
        }
        Ok(proxies)
    }

    fn spawn(&mut self, mut command: Command) -> Result<()> {
        let output = fs::File::options()
            .create(true)
            .append(true)
            .open(self.directory.join("output.log"))?;
        let shown = format!("{:?}", command.get_program());
        let child = command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("starting {shown}"))?;
        self.children.push(child);
        Ok(())
    }

    /// The agent's flags.
    pub fn sources(directory: &Path) -> Vec<String> {
        let at = |name: &str| directory.join(name).display().to_string();
        vec![
            "--nginx-error-log".to_owned(),
            at("error.log"),
            "--syslog".to_owned(),
            format!("unix://{}", at("syslog.sock")),
            "--haproxy-servers".to_owned(),
            at("admin.sock"),
            "--proxy-log".to_owned(),
            format!("envoy={}", at("outlier.log")),
            "--proxy-log".to_owned(),
            format!("envoy={}", at("access.json")),
        ]
    }

    fn socket(&self, proxy: Proxy) -> PathBuf {
        self.directory.join(format!("{}.sock", proxy.name()))
    }

    /// Sends `case.burst` requests at once and waits for all answers.
    pub fn request(&self, case: &Case, proxy: Proxy) -> Result<()> {
        let mut clients = Vec::new();
        for _ in 0..case.burst {
            let mut client = UnixStream::connect(self.socket(proxy)).context("reaching a proxy")?;
            client.set_read_timeout(Some(Duration::from_secs(20)))?;
            let name = case.name;
            write!(client, "GET /{name}/ HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n\r\n")?;
            clients.push(client);
        }
        for mut client in clients {
            let _ = client.read_to_end(&mut Vec::new());
        }
        Ok(())
    }
}

impl Drop for Proxies {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM);
        }
        for child in &mut self.children {
            let _ = child.wait();
        }
    }
}

/// The cases a proxy is part of, each with its two peers.
fn groups(proxy: Proxy) -> impl Iterator<Item = (&'static Case, [SocketAddrV4; 2])> {
    let own = CASES.iter().enumerate().filter(move |(_, case)| case.proxies.contains(&proxy));
    own.map(move |(number, case)| {
        let port = port(number, proxy);
        (case, Hosts::addresses(case.home).map(|addr| SocketAddrV4::new(addr, port)))
    })
}

fn nginx(directory: &Path) -> String {
    let (mut upstreams, mut locations) = (String::new(), String::new());
    for (case, peers) in groups(Proxy::Nginx) {
        let name = case.name;
        let limit = if name == "limit" { " max_conns=1" } else { "" };
        let servers =
            peers.map(|peer| format!("server {peer} max_fails=1 fail_timeout=1s{limit};"));
        let servers = if limit.is_empty() {
            servers.join(" ")
        } else {
            format!("{} server {} down;", servers[0], peers[1])
        };
        let _ = writeln!(upstreams, "upstream {name} {{ zone {name} 64k; {servers} }}");
        let _ = writeln!(locations, "location /{name}/ {{ proxy_pass http://{name}; }}");
    }
    let socket = directory.join("nginx.sock");
    format!(
        "daemon off; user root; pid nginx.pid; worker_processes 1; error_log error.log warn;
events {{ worker_connections 1024; }}
http {{
access_log off; client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;
uwsgi_temp_path uwsgi; scgi_temp_path scgi;
proxy_connect_timeout 2s; proxy_read_timeout 2s; proxy_http_version 1.1;
proxy_next_upstream error timeout invalid_header http_503;
{upstreams}
server {{ listen unix:{}; {locations} }}
}}
",
        socket.display()
    )
}

fn haproxy(directory: &Path) -> String {
    let (mut rules, mut backends) = (String::new(), String::new());
    for (case, peers) in groups(Proxy::Haproxy) {
        let name = case.name;
        let limit = if name == "limit" { " maxconn 1" } else { "" };
        let _ = writeln!(rules, "    use_backend {name} if {{ path_beg /{name}/ }}");
        let _ = writeln!(backends, "backend {name}\n    server s1 {}{limit}", peers[0]);
    }
    let at = |name: &str| directory.join(name).display().to_string();
    format!(
        "global
    log {} local0
    stats socket {}
defaults
    mode http
    log global
    timeout connect 2s
    timeout server 2s
    timeout client 20s
    timeout queue 300ms
    retries 0
    log-format \"%ci:%cp [%tr] %ft %b/%s bi=%bi:%bp si=%si:%sp %TR/%Tw/%Tc/%Tr/%Ta %ST %B %CC %CS %tsc %ac/%fc/%bc/%sc/%rc %sq/%bq %hr %hs %{{+Q}}r\"
frontend all
    bind unix@{}
{rules}{backends}",
        at("syslog.sock"),
        at("admin.sock"),
        at("haproxy.sock")
    )
}

fn envoy_configuration(directory: &Path) -> Value {
    let at = |name: &str| directory.join(name).display().to_string();
    let routes: Vec<Value> = groups(Proxy::Envoy)
        .map(|(case, _)| {
            json!({"match": {"prefix": format!("/{}/", case.name)},
                   "route": {"cluster": case.name, "timeout": "2.5s"}})
        })
        .collect();
    let clusters: Vec<Value> = groups(Proxy::Envoy)
        .map(|(case, peers)| {
            let limit = if case.name == "limit" { 1 } else { 1024 };
            let endpoints = peers.map(|peer| {
                json!({"endpoint": {"address": {"socket_address":
                    {"address": peer.ip().to_string(), "port_value": peer.port()}}}})
            });
            let endpoints = if limit == 1 { &endpoints[..1] } else { &endpoints[..] };
            json!({"name": case.name, "type": "STATIC", "connect_timeout": "1.5s",
                "load_assignment": {"cluster_name": case.name,
                    "endpoints": [{"lb_endpoints": endpoints}]},
                "circuit_breakers": {"thresholds": [{"max_requests": limit}]},
                "outlier_detection": {"consecutive_5xx": 1, "consecutive_gateway_failure": 1,
                    "enforcing_consecutive_gateway_failure": 100, "interval": "1s",
                    "base_ejection_time": "1s", "max_ejection_percent": 100}})
        })
        .collect();
    let access = json!({"name": "file", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
        "path": at("access.json"),
        "log_format": {"json_format": {
            "start_time": "%START_TIME%", "duration": "%DURATION%",
            "response_flags": "%RESPONSE_FLAGS%",
            "response_code_details": "%RESPONSE_CODE_DETAILS%",
            "upstream_cluster": "%UPSTREAM_CLUSTER%", "upstream_host": "%UPSTREAM_HOST%",
            "upstream_local_address": "%UPSTREAM_LOCAL_ADDRESS%"}}}});
    let manager = json!({"name": "http", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "lab", "access_log": [access],
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
        "http_filters": [{"name": "router", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}]}});
    json!({
        "cluster_manager": {"outlier_detection": {"event_log_path": at("outlier.log")}},
        "static_resources": {
            "listeners": [{"name": "all", "address": {"pipe": {"path": at("envoy.sock")}},
                "filter_chains": [{"filters": [manager]}]}],
            "clusters": clusters}
    })
}
