//! A real Prometheus and Alertmanager with the shipped rules, routes and inhibitions, at intervals of
//! a second.

use std::{
    fs::{self, File},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::serving::{free_address, until_connected};

const SHIPPED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/prometheus");

/// Both of them; they end with the value.
pub struct Monitoring {
    children: Vec<Child>,
    prometheus: SocketAddr,
}

impl Monitoring {
    /// Starts them with their data in `directory`. `root` is where their packages are unpacked.
    pub fn start(
        root: &Path,
        directory: &Path,
        agent: SocketAddr,
        webhook: SocketAddr,
    ) -> Result<Self> {
        let (prometheus, alertmanager) = (free_address()?, free_address()?);
        let mut monitoring = Self { children: Vec::new(), prometheus };
        let shipped = |name: &str| {
            let path = Path::new(SHIPPED).join(name);
            fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
        };
        for rules in ["floodmark.rules.yml", "across-hosts.rules.yml"] {
            fs::write(directory.join(rules), impatient(&shipped(rules)?))?;
        }
        let configuration = shipped("prometheus.yml")?
            .replace("127.0.0.1:9435", &agent.to_string())
            .replace("127.0.0.1:9093", &alertmanager.to_string());
        let configuration =
            format!("global: {{evaluation_interval: 1s}}\n{}", hasty(&configuration));
        fs::write(directory.join("prometheus.yml"), configuration)?;
        let routes = shipped("alertmanager.yml")?.replace("127.0.0.1:9099", &webhook.to_string());
        fs::write(directory.join("alertmanager.yml"), hasty(&routes))?;

        let at = |name: &str| directory.join(name).display().to_string();
        let mut command = Command::new(root.join("usr/bin/prometheus"));
        command.args([
            &format!("--config.file={}", at("prometheus.yml")),
            &format!("--storage.tsdb.path={}", at("tsdb")),
            &format!("--web.listen-address={prometheus}"),
        ]);
        monitoring.spawn(command, &directory.join("prometheus.log"))?;
        // Alertmanager finds its templates below /usr/share only, and they are not installed.
        let mut command = Command::new("unshare");
        command.args([
            "--mount",
            "sh",
            "-ec",
            "mount --bind \"$1\" /usr/share; shift; exec \"$@\"",
            "sh",
        ]);
        command.arg(root.join("usr/share")).arg(root.join("usr/bin/prometheus-alertmanager")).args(
            [
                &format!("--config.file={}", at("alertmanager.yml")),
                &format!("--storage.path={}", at("alertmanager")),
                &format!("--web.listen-address={alertmanager}"),
                // No cluster.
                "--cluster.listen-address=",
            ],
        );
        monitoring.spawn(command, &directory.join("alertmanager.log"))?;
        until_connected(prometheus, "Prometheus")?;
        until_connected(alertmanager, "Alertmanager")?;
        monitoring.until_ready()?;
        Ok(monitoring)
    }

    /// Prometheus listens before it can answer queries; until then it says 503.
    fn until_ready(&self) -> Result<()> {
        let begun = Instant::now();
        while ureq::get(format!("http://{}/-/ready", self.prometheus)).call().is_err() {
            if begun.elapsed() > Duration::from_secs(60) {
                bail!("Prometheus does not become ready");
            }
            thread::sleep(Duration::from_millis(200));
        }
        Ok(())
    }

    fn spawn(&mut self, mut command: Command, log: &Path) -> Result<()> {
        let log = File::create(log)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("starting Prometheus or Alertmanager")?;
        self.children.push(child);
        Ok(())
    }

    /// Waits until the agent has been scraped three times.
    pub fn until_scraped(&self) -> Result<()> {
        let begun = Instant::now();
        while self.query("count_over_time(floodmark_build_info[1m]) >= 3")?.is_empty() {
            if begun.elapsed() > Duration::from_secs(60) {
                bail!("Prometheus does not scrape the agent");
            }
            thread::sleep(Duration::from_millis(200));
        }
        Ok(())
    }

    /// The series that `expression` has now.
    pub fn query(&self, expression: &str) -> Result<Vec<Value>> {
        let answer: Value = ureq::get(format!("http://{}/api/v1/query", self.prometheus))
            .config()
            .http_status_as_error(false)
            .build()
            .query("query", expression)
            .call()
            .context("asking Prometheus")?
            .body_mut()
            .read_json()
            .context("reading Prometheus's answer")?;
        match answer["data"]["result"].as_array() {
            Some(result) => Ok(result.clone()),
            None => bail!("{expression}: {}", answer["error"]),
        }
    }
}

impl Drop for Monitoring {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The rules, with each `for` a second: what is alerted on stays as it is, only how long it has to last
/// does not.
fn impatient(rules: &str) -> String {
    with_value(rules, &["for"], "1s")
}

/// A configuration, with each wait and interval a second but the one at which is told again.
fn hasty(configuration: &str) -> String {
    with_value(configuration, &["scrape_interval", "group_wait", "group_interval"], "1s")
}

fn with_value(yaml: &str, keys: &[&str], value: &str) -> String {
    let line = |line: &str| match line.split_once(':') {
        Some((key, _)) if keys.contains(&key.trim()) => format!("{key}: {value}\n"),
        _ => format!("{line}\n"),
    };
    yaml.lines().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn impatience_changes_how_long_and_not_what() {
        let shipped = fs::read_to_string(Path::new(SHIPPED).join("floodmark.rules.yml")).unwrap();
        let changed = impatient(&shipped);
        let mut differing = shipped.lines().zip(changed.lines()).filter(|(a, b)| a != b);
        assert!(differing.clone().count() > 5);
        assert!(differing.all(|(a, b)| a.trim().starts_with("for: ") && b.trim() == "for: 1s"));
        assert_eq!(shipped.lines().count(), changed.lines().count());
    }
}
