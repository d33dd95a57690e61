//! QEMU by software emulation. KVM is not used even where its device exists: a nested one may hang.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use super::kernels::Kernel;

/// The guest writes 16 for a pass to the isa-debug-exit device, which makes QEMU end with
/// `16 << 1 | 1`. A panic or a power-off ends it with 0, so nothing else is a pass.
const PASSED: i32 = 33;
const FAILED: i32 = 35;

/// How a guest ended.
pub struct Outcome {
    /// The kernel that ran.
    pub release: String,
    /// Whether the command succeeded.
    pub passed: bool,
    /// What the command wrote to standard output.
    pub stdout: String,
    /// Console and standard error.
    pub console: PathBuf,
    ended: Ended,
}

enum Ended {
    Status(Option<i32>),
    TimedOut(Duration),
}

impl Outcome {
    /// Why it failed, and where to look.
    pub fn explain(&self) -> String {
        let why = match self.ended {
            Ended::Status(Some(PASSED)) => "passed".to_owned(),
            Ended::Status(Some(FAILED)) => "the command failed".to_owned(),
            Ended::Status(Some(0)) => "the guest panicked or powered off".to_owned(),
            Ended::Status(code) => format!("QEMU ended with {code:?}"),
            Ended::TimedOut(after) => format!("no end after {} s", after.as_secs()),
        };
        format!("{why}; console: {}", self.console.display())
    }
}

/// Boots and waits.
pub fn run(
    kernel: &Kernel,
    initramfs: &Path,
    directory: &Path,
    timeout: Duration,
) -> Result<Outcome> {
    let console = directory.join("console.log");
    let stdout = directory.join("stdout.log");
    let log = File::create(&console).context("creating the console log")?;
    let mut guest = Command::new("qemu-system-x86_64")
        .args(["-M", "pc", "-accel", "tcg", "-cpu", "max", "-m", "1536"])
        // QEMU 7 with more than one emulated CPU oopses kernels from 6.12 on while they patch code.
        .args(["-smp", "1", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"])
        .args(["-device", "isa-debug-exit,iobase=0xf4,iosize=0x04", "-monitor", "none"])
        .args(["-serial", "stdio", "-serial"])
        .arg(format!("file:{}", stdout.display()))
        .arg("-kernel")
        .arg(&kernel.image)
        .arg("-initrd")
        .arg(initramfs)
        .args(["-append", "console=ttyS0 quiet panic=-1 oops=panic mitigations=off nokaslr"])
        .stdin(Stdio::null())
        .stdout(log.try_clone().context("sharing the console log")?)
        .stderr(log)
        .spawn()
        .context("starting qemu-system-x86_64 (package qemu-system-x86)")?;
    let begun = Instant::now();
    let ended = loop {
        if let Some(status) = guest.try_wait().context("waiting for QEMU")? {
            break Ended::Status(status.code());
        }
        if begun.elapsed() > timeout {
            guest.kill().context("ending QEMU")?;
            guest.wait().context("waiting for QEMU")?;
            break Ended::TimedOut(timeout);
        }
        thread::sleep(Duration::from_millis(100));
    };
    fs::remove_file(initramfs).context("removing the initramfs")?;
    // The serial line's discipline ends lines by CR LF.
    let output = fs::read(&stdout).unwrap_or_default();
    Ok(Outcome {
        release: kernel.release.clone(),
        passed: matches!(ended, Ended::Status(Some(PASSED))),
        stdout: String::from_utf8_lossy(&output).replace("\r\n", "\n"),
        console,
        ended,
    })
}
