//! A tracing tool that people use today, running.

use std::{
    fs::{self, File},
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::stats;

/// Longest wait for a tool to compile and attach its programs.
const PATIENCE: Duration = Duration::from_secs(120);
/// A tool whose number of programs has not changed for so long has attached them all.
const SETTLED: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(100);

/// A running tool; ended when dropped.
pub struct Tool {
    child: Child,
    output: PathBuf,
}

impl Tool {
    /// Starts it and waits until its programs are attached.
    pub fn start(program: &str, args: &[String]) -> Result<Self> {
        let output = std::env::temp_dir().join("tool.log");
        let file = File::create(&output).context("making a file for the tool's output")?;
        let before = stats::read().len();
        let child = Command::new(program)
            .args(args)
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("starting {program}"))?;
        let mut tool = Self { child, output };
        tool.wait_until_settled(before)?;
        Ok(tool)
    }

    fn wait_until_settled(&mut self, before: usize) -> Result<()> {
        let started = Instant::now();
        let (mut programs, mut since) = (before, Instant::now());
        while programs <= before || since.elapsed() < SETTLED {
            thread::sleep(LOOK);
            if let Some(status) = self.child.try_wait()? {
                bail!("{status}: {}", self.said());
            }
            if started.elapsed() > PATIENCE {
                bail!("nothing attached within {} s: {}", PATIENCE.as_secs(), self.said());
            }
            let now = stats::read().len();
            if now != programs {
                (programs, since) = (now, Instant::now());
            }
        }
        Ok(())
    }

    fn said(&self) -> String {
        let said = fs::read_to_string(&self.output).unwrap_or_default();
        said.split_whitespace().collect::<Vec<_>>().join(" ")
    }
}

impl Drop for Tool {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
