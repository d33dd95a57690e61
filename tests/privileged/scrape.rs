//! The agent itself, by what it exports, to the test and to a real Prometheus.

#![expect(clippy::unwrap_used, reason = "a test's helpers may fail as the test may")]

mod support;

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use support::{Namespace, knock, wait};

/// An agent that serves, ended with the value.
struct Agent {
    process: Child,
    addr: SocketAddr,
}

impl Agent {
    /// Starts one that looks into this namespace only.
    fn start(namespace: &Namespace) -> Option<Self> {
        let Some(agent) = std::env::var_os("FLOODMARK_AGENT").map(PathBuf::from) else {
            println!("skipped: FLOODMARK_AGENT does not say where the agent is");
            return None;
        };
        let addr = free_address();
        let process = Command::new(agent)
            .args([
                "run",
                "--watch-connections",
                "--trace-system-calls",
                "--listen",
                &addr.to_string(),
                "--netns",
                &namespace.discovered().name,
            ])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let agent = Self { process, addr };
        agent.until("it serves", |text| !text.is_empty());
        Some(agent)
    }

    /// The body of one scrape; empty while there is none.
    fn scrape(&self) -> String {
        let Ok(mut stream) = TcpStream::connect(self.addr) else { return String::new() };
        let request = "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        let mut text = String::new();
        let asked = stream.write_all(request.as_bytes());
        if asked.and_then(|()| stream.read_to_string(&mut text)).is_err() {
            return String::new();
        }
        if text.starts_with("HTTP/1.1 200 ") { text } else { String::new() }
    }

    /// Scrapes until it shows what is wanted; a slow machine takes its time.
    fn until(&self, what: &str, is_there: impl Fn(&str) -> bool) -> String {
        let started = Instant::now();
        loop {
            let text = self.scrape();
            if is_there(&text) {
                return text;
            }
            assert!(started.elapsed() < Duration::from_secs(60), "waiting until {what}:\n{text}");
            wait(200);
        }
    }
}

/// Free a moment ago, and for as long as nobody else takes it.
fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn value(text: &str, name: &str, labels: &str) -> Option<f64> {
    let is_it = |line: &&str| line.starts_with(&format!("{name}{{")) && line.contains(labels);
    text.lines().find(is_it)?.rsplit(' ').next()?.parse().ok()
}

#[test]
fn root_a_burst_between_two_scrapes_shows_at_the_second_and_a_closed_listener_at_none() {
    let Some(namespace) = Namespace::new() else { return };
    let Some(agent) = Agent::start(&namespace) else { return };
    let listener = namespace.run(|| TcpListener::bind("127.0.0.1:0").unwrap());
    let addr = listener.local_addr().unwrap();
    let labels = format!("listener=\"{addr}\"");
    let of = |text: &str, name: &str| value(text, name, &labels);
    let new = agent.until("a new listener shows", |text| text.contains(&labels));
    if of(&new, "floodmark_listener_accept_queue_high").is_none() {
        println!("skipped: no program counts here");
        return;
    }
    let clients: Vec<_> = namespace.run(|| (0..70).map(|_| knock(addr)).collect());
    wait(200);
    let accepted: Vec<_> = (0..70).map(|_| listener.accept().unwrap()).collect();
    // Whoever scrapes before the next tick has the state before the burst, and takes nothing away.
    let seen = agent.until("the burst shows", |text| {
        of(text, "floodmark_listener_accept_queue_high_since_scrape") > Some(0.0)
    });
    assert_eq!(of(&seen, "floodmark_listener_accept_queue_high_since_scrape"), Some(70.0));
    assert_eq!(of(&seen, "floodmark_listener_accept_queue_length"), Some(0.0));
    let later = agent.until("the mark begins anew", |text| {
        of(text, "floodmark_listener_accept_queue_high_since_scrape") == Some(0.0)
    });
    assert_eq!(of(&later, "floodmark_listener_accept_queue_high"), Some(70.0));
    let waited = "floodmark_listener_accept_wait_seconds_count";
    assert_eq!(of(&later, waited), Some(70.0));
    drop((clients, accepted, listener));
    agent.until("it has gone", |text| !text.contains(&labels));
}

/// A Prometheus that takes native histograms and scrapes one agent, ended with the value.
struct Prometheus {
    process: Child,
    addr: SocketAddr,
    _directory: tempfile::TempDir,
}

impl Prometheus {
    fn start(agent: &Agent) -> Option<Self> {
        let Some(root) = std::env::var_os("FLOODMARK_PROMETHEUS").map(PathBuf::from) else {
            println!("skipped: FLOODMARK_PROMETHEUS does not say where Prometheus is unpacked");
            return None;
        };
        let directory = tempfile::tempdir().unwrap();
        let configuration = directory.path().join("prometheus.yml");
        let text = format!(
            "global: {{scrape_interval: 1s}}\n\
             scrape_configs: [{{job_name: agent, static_configs: [{{targets: ['{}']}}]}}]\n",
            agent.addr
        );
        std::fs::write(&configuration, text).unwrap();
        let addr = free_address();
        let process = Command::new(root.join("usr/bin/prometheus"))
            .arg(format!("--config.file={}", configuration.display()))
            .arg(format!("--storage.tsdb.path={}", directory.path().join("tsdb").display()))
            .arg(format!("--web.listen-address={addr}"))
            .arg("--enable-feature=native-histograms")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Some(Self { process, addr, _directory: directory })
    }

    /// The value of the only series that `expression` has now.
    fn query(&self, expression: &str) -> Option<f64> {
        let url = format!("http://{}/api/v1/query", self.addr);
        let mut answer = ureq::get(url).query("query", expression).call().ok()?;
        let answer: serde_json::Value = answer.body_mut().read_json().ok()?;
        let series = answer["data"]["result"].as_array()?;
        assert!(series.len() <= 1, "{series:?}");
        series.first()?["value"][1].as_str()?.parse().ok()
    }

    /// Asks until the answer is what is wanted.
    fn until(&self, expression: &str, wanted: f64) {
        let started = Instant::now();
        loop {
            let answer = self.query(expression);
            if answer == Some(wanted) {
                return;
            }
            let waited = started.elapsed();
            assert!(waited < Duration::from_secs(60), "{expression} is {answer:?}, not {wanted}");
            wait(200);
        }
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn root_prometheus_scrapes_the_time_in_queue_as_a_native_histogram() {
    let Some(namespace) = Namespace::new() else { return };
    let Some(agent) = Agent::start(&namespace) else { return };
    let Some(prometheus) = Prometheus::start(&agent) else { return };
    let listener = namespace.run(|| TcpListener::bind("127.0.0.1:0").unwrap());
    let addr = listener.local_addr().unwrap();
    let labels = format!("listener=\"{addr}\"");
    agent.until("the listener shows", |text| text.contains(&labels));
    let _clients: Vec<_> = namespace.run(|| (0..70).map(|_| knock(addr)).collect());
    wait(200);
    let _accepted: Vec<_> = (0..70).map(|_| listener.accept().unwrap()).collect();
    let name = "floodmark_listener_accept_wait_seconds";
    let text = agent.until("a tick has passed", |text| {
        let high = value(text, "floodmark_listener_accept_queue_high", &labels);
        high.is_none_or(|high| high > 0.0)
    });
    if value(&text, "floodmark_listener_accept_queue_high", &labels).is_none() {
        println!("skipped: no program counts here");
        return;
    }
    let text = agent.until("all have waited", |text| {
        value(text, &format!("{name}_count"), &labels) == Some(70.0)
    });
    let series = format!("{name}{{{labels}}}");
    prometheus.until(&format!("histogram_count({series})"), 70.0);
    let sum = value(&text, &format!("{name}_sum"), &labels).unwrap();
    assert_eq!(prometheus.query(&format!("histogram_sum({series})")), Some(sum));
    // Each had waited at least 0.2 s, the bucket of which begins at 0.125 s.
    let shortest = prometheus.query(&format!("histogram_quantile(0, {series})")).unwrap();
    assert!(shortest >= 0.125, "{shortest}");
    // The native form came instead of the classic one, not besides.
    assert_eq!(prometheus.query(&format!("count({name}_bucket{{{labels}}})")), None);
}
