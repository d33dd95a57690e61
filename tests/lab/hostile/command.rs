//! A command that reads something hostile, and what that cost.

use std::{path::Path, process::Command};

use anyhow::{Context, Result, ensure};

use super::Check;

/// A command that has come to its end.
pub struct Ended {
    /// Its exit status; -1 for one that had to be killed.
    pub status: i32,
    /// Lines that it wrote to standard error, and the first of them.
    pub lines: usize,
    pub said: String,
    /// Resident memory at its highest.
    pub peak_mib: f64,
    pub seconds: f64,
}

impl Ended {
    /// Runs the agent's program with these arguments and `input`, for a minute at most.
    pub fn of(program: &Path, arguments: &[&str], input: &str) -> Result<Self> {
        let output = Command::new("/usr/bin/python3")
            .args(["-c", include_str!("measure.py"), input])
            .arg(program)
            .args(arguments)
            .output()
            .context("starting Python")?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout)?;
        let mut fields = text.trim_end().splitn(5, ' ');
        let mut number = || fields.next().and_then(|field| field.parse::<f64>().ok());
        let mut next = || number().with_context(|| format!("not measured: {text}"));
        let (status, lines, peak, seconds) = (next()?, next()?, next()?, next()?);
        Ok(Self {
            status: status as i32,
            lines: lines as usize,
            peak_mib: peak / 1024.0,
            seconds,
            said: fields.next().unwrap_or_default().to_owned(),
        })
    }

    /// It must have refused its input: exit status 2, one line, little memory, at once.
    pub fn refused(&self, what: &str) -> Check {
        let holds =
            self.status == 2 && self.lines == 1 && self.peak_mib <= 96.0 && self.seconds <= 10.0;
        Check::that(format!("{what}: refused in one line"), holds, self.to_string())
    }
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { status, lines, said, peak_mib, seconds } = self;
        write!(f, "status {status}, {lines} lines, {peak_mib:.0} MiB, {seconds:.1} s: {said}")
    }
}
