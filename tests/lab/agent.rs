//! The agent under test, as a user runs it: `floodmark diagnose --json`.

use std::{
    ffi::OsString,
    io::{BufRead, BufReader, Read},
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
    thread,
};

use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::de::DeserializeOwned;

/// The word by which the agent says that it is attached.
const WATCHING: &str = "watching";

/// A running `floodmark diagnose`.
pub struct Agent {
    child: Child,
    stdout: ChildStdout,
}

impl Agent {
    /// Starts it, to look into these namespaces only and at this log of nginx, and waits until it
    /// watches.
    pub fn start(
        program: &Path,
        nginx_error_log: Option<&Path>,
        namespaces: &[&str],
    ) -> Result<Self> {
        let log = |log: &Path| [OsString::from("--nginx-error-log"), log.into()];
        let mut child = Command::new(program)
            .args(["diagnose", "--duration", "30m", "--full", "--json"])
            .args(nginx_error_log.into_iter().flat_map(log))
            .args(namespaces.iter().flat_map(|name| ["--netns", name]))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {}", program.display()))?;
        let stdout = child.stdout.take().context("the agent's output")?;
        let mut stderr = BufReader::new(child.stderr.take().context("the agent's messages")?);
        let mut line = String::new();
        while !line.contains(WATCHING) {
            line.clear();
            if stderr.read_line(&mut line)? == 0 {
                bail!("the agent ended before it was watching: {:?}", child.wait()?);
            }
        }
        // What it says from now on belongs to whoever watches the lab.
        thread::spawn(move || stderr.lines().map_while(Result::ok).for_each(|l| eprintln!("{l}")));
        Ok(Self { child, stdout })
    }

    /// Interrupts it and takes its report, or its whole diagnosis.
    pub fn finish<T: DeserializeOwned>(mut self) -> Result<T> {
        kill(Pid::from_raw(self.child.id() as i32), Signal::SIGINT).context("interrupting it")?;
        let mut json = String::new();
        self.stdout.read_to_string(&mut json).context("reading the agent's report")?;
        let status = self.child.wait().context("waiting for the agent")?;
        serde_json::from_str(&json).with_context(|| format!("the agent's report ({status})"))
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
