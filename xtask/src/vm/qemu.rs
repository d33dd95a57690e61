//! Booting one guest and learning what its command did.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use super::{kernel::Kernel, modules, payload::Payload};
use crate::{place, setup::qemu, step::Progress};

/// QEMU's status for the value that init writes to the exit device: (value << 1) | 1.
const PASSED: i32 = 33;
const FAILED: i32 = 35;
/// QEMU's status when the guest turned itself off.
const OFF: i32 = 0;
/// The status of timeout(1) for a command that ran out of time.
const TIMED_OUT: i32 = 124;

/// What a guest runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Machine {
    /// Two processors, so that the storm of one meets the accepting of the other.
    Pair,
    /// One processor, whose time is the number of instructions it has executed, 8 ns for each: what
    /// is measured in it does not depend on the host's load.
    Counting,
}

impl Machine {
    fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Pair => &["-smp", "2"],
            Self::Counting => &["-smp", "1", "-icount", "shift=3"],
        }
    }
}

/// What a guest's command did.
#[derive(Debug)]
pub struct GuestOutput {
    /// Its exit code.
    pub code: i32,
    /// What it wrote on standard output, alone.
    pub stdout: String,
    /// The console: what the kernel, init, and the command on standard error wrote.
    pub console: String,
}

impl GuestOutput {
    /// The command's exit code as this program's.
    pub fn exit_code(&self) -> ExitCode {
        u8::try_from(self.code).map_or(ExitCode::FAILURE, ExitCode::from)
    }
}

/// Boots `kernel` with `payload` on a [`Machine::Pair`] and runs `command` in it.
///
/// # Errors
///
/// As [`run_on`].
pub fn run(
    kernel: &Kernel,
    payload: &Payload,
    command: &[&str],
    timeout: Duration,
) -> Result<GuestOutput> {
    run_on(Machine::Pair, kernel, payload, command, timeout)
}

/// Boots `kernel` with `payload` on `machine` and runs `command` in it.
///
/// # Errors
///
/// When QEMU cannot be started, or the guest ends in any other way than by its command's end: a
/// panic, a power-off, the timeout. The error names the console's log.
pub fn run_on(
    machine: Machine,
    kernel: &Kernel,
    payload: &Payload,
    command: &[&str],
    timeout: Duration,
) -> Result<GuestOutput> {
    boot(machine, kernel, "", timeout, |initramfs| {
        payload.write(initramfs, &modules::load(kernel, &payload.modules)?, command)
    })
}

/// Boots `kernel` with a whole system, which `write` puts into the file that it is given: an initramfs.
/// The kernel is told `more`, which names the system's own first process. When that is done, it is to
/// write `VM-RESULT` with an exit code on the console, and to turn the machine off.
///
/// # Errors
///
/// As [`run_on`].
pub fn run_system(
    kernel: &Kernel,
    more: &str,
    timeout: Duration,
    write: impl FnOnce(&Path) -> Result<()>,
) -> Result<GuestOutput> {
    boot(Machine::Pair, kernel, more, timeout, write)
}

fn boot(
    machine: Machine,
    kernel: &Kernel,
    more: &str,
    timeout: Duration,
    write: impl FnOnce(&Path) -> Result<()>,
) -> Result<GuestOutput> {
    let dir = place::target("vm/guests");
    fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    let prefix = format!("{}-", kernel.release);
    let dir = tempfile::Builder::new().prefix(&prefix).tempdir_in(&dir)?;
    let guest = Guest::in_directory(dir.path());
    write(&guest.initramfs)?;

    let progress = Progress::start(&format!("guest {}", kernel.release));
    let started = Instant::now();
    let status = guest.boot(machine, kernel, more, timeout);
    let ended = status.and_then(|status| guest.outcome(status, timeout));
    progress.finish(ended.as_ref().is_ok_and(|output| output.code == 0), started.elapsed());
    if ended.is_err() {
        // The console's log, which the error names, outlives the guest.
        fs::remove_file(&guest.initramfs)?;
        let _ = dir.keep();
    }
    ended
}

struct Guest {
    initramfs: PathBuf,
    console: PathBuf,
    stdout: PathBuf,
}

impl Guest {
    fn in_directory(dir: &Path) -> Self {
        let file = |name: &str| dir.join(name);
        Self {
            initramfs: file("initramfs.cpio"),
            console: file("console.log"),
            stdout: file("stdout.log"),
        }
    }

    /// Runs QEMU to its end and returns its exit status.
    fn boot(
        &self,
        machine: Machine,
        kernel: &Kernel,
        more: &str,
        timeout: Duration,
    ) -> Result<i32> {
        let qemu = qemu::command();
        let status = Command::new("timeout")
            // In the foreground, so that an interrupt from the terminal reaches QEMU, too.
            .args(["--foreground", "--kill-after=5"])
            .arg(timeout.as_secs().to_string())
            .arg(qemu.get_program())
            .args(qemu.get_args())
            .envs(qemu.get_envs().filter_map(|(name, value)| Some((name, value?))))
            .args("-M pc -accel tcg -cpu max -nodefaults -no-user-config".split(' '))
            .args("-display none -monitor none -no-reboot".split(' '))
            .args("-device isa-debug-exit,iobase=0xf4,iosize=0x04".split(' '))
            .args(machine.arguments())
            .args(["-m", &self.megabytes()?.to_string()])
            .args(["-serial", &format!("file:{}", self.console.display())])
            .args(["-serial", &format!("file:{}", self.stdout.display())])
            .args(["-append", &format!("console=ttyS0 quiet panic=-1 oops=panic {more}")])
            .arg("-kernel")
            .arg(&kernel.image)
            .arg("-initrd")
            .arg(&self.initramfs)
            .stdin(Stdio::null())
            .status()
            .context("start QEMU")?;
        // No code: a signal ended timeout(1) itself.
        Ok(status.code().unwrap_or(TIMED_OUT))
    }

    /// The archive lies in memory twice while the kernel unpacks it.
    fn megabytes(&self) -> Result<u64> {
        Ok(1024 + 2 * (fs::metadata(&self.initramfs)?.len() >> 20))
    }

    fn outcome(&self, status: i32, timeout: Duration) -> Result<GuestOutput> {
        let console = text(&self.console)?;
        let code = result(&console);
        let log = self.console.display();
        match (status, code) {
            (PASSED, Some(0)) => {}
            (FAILED, Some(code)) if code != 0 => {}
            (OFF, Some(_)) => {}
            (TIMED_OUT, _) => bail!("no end within {} s; console: {log}", timeout.as_secs()),
            _ => bail!("the guest broke down (QEMU's status {status}); console: {log}"),
        }
        Ok(GuestOutput { code: code.unwrap_or_default(), stdout: text(&self.stdout)?, console })
    }
}

/// The exit code in init's last words. Kernel messages may precede them on their line.
fn result(console: &str) -> Option<i32> {
    let (_, code) = console.rsplit_once("VM-RESULT ")?;
    code.split_whitespace().next()?.parse().ok()
}

/// A serial line's text: the console's terminal ends lines with a carriage return, too.
fn text(path: &Path) -> Result<String> {
    let bytes = fs::read(path).with_context(|| format!("read {}", path.display()))?;
    Ok(String::from_utf8_lossy(&bytes).replace('\r', ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_result_is_found_behind_kernel_messages() {
        assert_eq!(result("[ 3.1] IPv6: link becomes ready VM-RESULT 3\n[ 4.0] x"), Some(3));
        assert_eq!(result("Kernel panic - not syncing"), None);
    }
}
