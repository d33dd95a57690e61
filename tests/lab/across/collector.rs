//! A real OpenTelemetry Collector (Rotel), that writes down what it receives and can be killed.

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result};
use serde::Serialize;

use super::bus::{free_port, listens};

pub struct Collector {
    /// Where it takes OTLP over gRPC.
    pub addr: SocketAddr,
    program: PathBuf,
    directory: PathBuf,
    running: Option<Child>,
}

/// A log record as the Collector received it, with values as it writes them: `Int(7)`, `Str(nginx)`.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Told {
    /// The resource's attributes.
    pub resource: BTreeMap<String, String>,
    /// The record's event name.
    pub name: String,
    pub severity: String,
    pub attributes: BTreeMap<String, String>,
}

impl Collector {
    /// One that is `program` and has its files in `directory`; not started yet.
    pub fn new(program: &Path, directory: &Path) -> Result<Self> {
        let addr = free_port()?;
        let (program, directory) = (program.to_owned(), directory.to_owned());
        Ok(Self { addr, program, directory, running: None })
    }

    /// Starts it and waits until it listens.
    pub fn start(&mut self) -> Result<()> {
        let log = fs::File::options().create(true).append(true).open(self.log())?;
        let running = Command::new(&self.program)
            .args(["start", "--exporter", "blackhole"])
            .args(["--debug-log", "logs", "--debug-log-verbosity", "detailed"])
            .args(["--otlp-grpc-endpoint", &self.addr.to_string()])
            .args(["--otlp-http-endpoint", &free_port()?.to_string()])
            .arg("--pid-file")
            .arg(self.directory.join("collector.pid"))
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("starting {}", self.program.display()))?;
        self.running = Some(running);
        listens(self.addr)
    }

    /// Kills it as a crash would.
    pub fn kill(&mut self) -> Result<()> {
        if let Some(mut running) = self.running.take() {
            running.kill().context("killing the Collector")?;
            running.wait()?;
        }
        Ok(())
    }

    /// All that it received.
    pub fn told(&self) -> Result<Vec<Told>> {
        Ok(read(&fs::read_to_string(self.log()).context("reading the Collector's log")?))
    }

    fn log(&self) -> PathBuf {
        self.directory.join("collector.log")
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

/// Reads a log of the kind that Collectors call detailed: a resource with its attributes, below it
/// scopes, below those records with theirs.
fn read(log: &str) -> Vec<Told> {
    let mut told: Vec<Told> = Vec::new();
    let mut resource = BTreeMap::new();
    let mut is_in_record = false;
    for line in log.lines() {
        if line.starts_with("ResourceLog #") {
            resource.clear();
            is_in_record = false;
        } else if line.starts_with("LogRecord #") {
            told.push(Told { resource: resource.clone(), ..Told::default() });
            is_in_record = true;
        }
        let attribute = line.trim().strip_prefix("-> ").and_then(|line| line.split_once(": "));
        let attribute = attribute.map(|(key, value)| (key.to_owned(), value.to_owned()));
        match told.last_mut().filter(|_| is_in_record) {
            None => resource.extend(attribute),
            Some(record) => {
                record.attributes.extend(attribute);
                if let Some(name) = line.strip_prefix("EventName: ") {
                    record.name = name.to_owned();
                }
                if let Some(severity) = line.strip_prefix("SeverityText: ") {
                    record.severity = severity.to_owned();
                }
            }
        }
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_belong_to_the_resource_above() {
        let log = "INFO Starting\nResourceLog #0\nResource attributes:\n     -> host.name: Str(a)\n\
            ScopeLogs #0\nLogRecord #0\nSeverityText: WARN\nEventName: x\nAttributes:\n     \
            -> n: Int(1)\nLogRecord #1\nEventName: y\nResourceLog #0\nResource attributes:\n     \
            -> host.name: Str(b)\nScopeLogs #0\nLogRecord #0\nEventName: z\n";
        let told = read(log);
        let shown: Vec<_> = told
            .iter()
            .map(|one| {
                (one.resource["host.name"].as_str(), one.name.as_str(), one.attributes.len())
            })
            .collect();
        assert_eq!(shown, [("Str(a)", "x", 1), ("Str(a)", "y", 0), ("Str(b)", "z", 0)]);
        assert_eq!((told[0].severity.as_str(), &*told[0].attributes["n"]), ("WARN", "Int(1)"));
    }
}
