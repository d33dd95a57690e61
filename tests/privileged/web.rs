//! The agent behind TLS and a password, asked by curl and scraped by a real Prometheus.

#![expect(clippy::unwrap_used, reason = "a test's helpers may fail as the test may")]

mod support;

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use support::until;

/// A process that ends with the value.
struct Process(Child);

impl Process {
    fn start(command: &mut Command) -> Self {
        Self(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Free a moment ago, and for as long as nobody else takes it.
fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// The status and body that curl has of `url`; status 0 where it would not speak.
fn curl(url: &str, more: &[&str]) -> (u16, String) {
    let output = Command::new("curl")
        .args(["--silent", "--max-time", "5", "--write-out", "\n%{http_code}", url])
        .args(more)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (body, status) = text.rsplit_once('\n').unwrap();
    (status.parse().unwrap(), body.to_owned())
}

fn programs() -> Option<(PathBuf, PathBuf)> {
    let prometheus =
        concat!(env!("CARGO_MANIFEST_DIR"), "/../target/tools/prometheus/usr/bin/prometheus");
    let Some(agent) = std::env::var_os("FLOODMARK_AGENT") else {
        println!("skipped: FLOODMARK_AGENT does not say where the agent is");
        return None;
    };
    if !Path::new(prometheus).exists() || Command::new("curl").arg("--version").output().is_err() {
        println!("skipped: curl and Prometheus are not both installed here");
        return None;
    }
    Some((agent.into(), prometheus.into()))
}

fn certify(directory: &Path) {
    let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    let made = rcgen::generate_simple_self_signed(names).unwrap();
    fs::write(directory.join("server.crt"), made.cert.pem()).unwrap();
    fs::write(directory.join("server.key"), made.signing_key.serialize_pem()).unwrap();
}

#[test]
fn root_prometheus_scrapes_over_tls_with_a_password_and_nobody_without() {
    let Some((agent, prometheus)) = programs() else { return };
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    certify(directory.path());
    let hash = bcrypt::hash("secret", 10).unwrap();
    let web = format!(
        "tls_server_config:\n  cert_file: server.crt\n  key_file: server.key\n  min_version: TLS13\n\
         basic_auth_users:\n  prometheus: {hash}\n"
    );
    fs::write(path("web.yml"), web).unwrap();
    let (addr, scraper) = (free(), free());
    let agent = Process::start(
        Command::new(agent)
            .args(["run", "--hindsight", "0", "--listen", &addr.to_string(), "--web-config-file"])
            .arg(path("web.yml")),
    );
    let (metrics, certificate) = (format!("https://{addr}/metrics"), path("server.crt"));
    let trusting = ["--cacert", certificate.to_str().unwrap()];
    let knowing = [&trusting[..], &["--user", "prometheus:secret"]].concat();
    until("it serves", || curl(&metrics, &knowing).0 == 200);
    assert_eq!(curl(&metrics, &trusting).0, 401, "without a password");
    let wrong = [&trusting[..], &["--user", "prometheus:guess"]].concat();
    assert_eq!(curl(&metrics, &wrong).0, 401, "with a wrong one");
    assert_eq!(curl(&metrics, &["--user", "prometheus:secret"]).0, 0, "a stranger's certificate");
    assert_eq!(curl(&metrics.replace("https", "http"), &[]).0, 0, "without TLS");
    let old = [&knowing[..], &["--tls-max", "1.2"]].concat();
    assert_eq!(curl(&metrics, &old).0, 0, "with an older TLS than is allowed");

    fs::write(path("password"), "secret").unwrap();
    let scrape = format!(
        "scrape_configs: [{{job_name: floodmark, scheme: https, scrape_interval: 1s, \
         tls_config: {{ca_file: server.crt}}, \
         basic_auth: {{username: prometheus, password_file: password}}, \
         static_configs: [{{targets: ['{addr}']}}]}}]\n"
    );
    fs::write(path("prometheus.yml"), scrape).unwrap();
    let _prometheus = Process::start(
        Command::new(prometheus)
            .arg(format!("--config.file={}", path("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", path("data").display()))
            .arg(format!("--web.listen-address={scraper}")),
    );
    let value = |query: &str| {
        let (_, body) = curl(&format!("http://{scraper}/api/v1/query?query={query}"), &[]);
        body.contains("\"status\":\"success\"") && body.contains(",\"1\"]")
    };
    until("Prometheus has scraped it", || value("up") && value("floodmark_build_info"));

    // Another certificate and another user, without a restart.
    certify(directory.path());
    let hash = bcrypt::hash("another", 4).unwrap();
    let web = fs::read_to_string(path("web.yml")).unwrap();
    let (tls, _) = web.split_once("basic_auth_users").unwrap();
    fs::write(path("web.yml"), format!("{tls}basic_auth_users:\n  other: {hash}\n")).unwrap();
    let pid = nix::unistd::Pid::from_raw(agent.0.id().cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGHUP).unwrap();
    let other = [&trusting[..], &["--user", "other:another"]].concat();
    until("the reload is in force", || curl(&metrics, &other).0 == 200);
    assert_eq!(curl(&metrics, &knowing).0, 401, "the former user");
}
