//! The package on a Debian 12 with systemd as its first process and Debian's own kernel, in a virtual
//! machine; `machine.sh` says what is done.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use super::trial;
use crate::{
    place, root,
    setup::{self, Group, prometheus},
    step,
    vm::{self, archive::Writer, kernel::Kernel},
};

/// Debian 12's own.
const KERNEL: &str = "6.1";
/// What the machine has beside the smallest of systems: what the trial looks with.
const PACKAGES: &str =
    "systemd,systemd-sysv,adduser,kmod,iproute2,curl,python3-minimal,bpftool,procps";
/// systemd on an emulated processor takes half a minute to come up, and a minute passes until the alert.
const TIMEOUT: Duration = Duration::from_secs(900);
/// No login is wanted.
const ARGUMENTS: &str = "rdinit=/usr/lib/systemd/systemd systemd.mask=serial-getty@ttyS0.service \
                         systemd.mask=getty@tty1.service systemd.show_status=no";
const PACKAGE_THERE: &str = "/root/floodmark.deb";

/// The system as an archive, which is the kernel's root. Of the rest nothing needs a disk.
const PACK: &str = "cd \"$0\" && find . -xdev \\( -path ./var/cache/apt -o -path ./usr/share/locale \\
    -o -path ./usr/share/doc \\) -prune -o -print0 | sort --zero-terminated \\
    | cpio --null --create --format=newc --quiet > \"$1.new\" && mv \"$1.new\" \"$1\"";

/// What has the trial run once the system is up, and ends the machine.
const UNIT: &str = "[Unit]
Description=The trial of the package
After=multi-user.target
[Service]
Type=oneshot
Environment=HOME=/root
StandardOutput=file:/dev/ttyS1
StandardError=file:/dev/ttyS0
ExecStart=/bin/bash -eu /root/machine.sh
ExecStopPost=/bin/sh -c 'echo VM-RESULT $${EXIT_STATUS:-125} > /dev/ttyS0; systemctl poweroff --force --force'
";

/// Boots the machine and tries the package in it.
///
/// # Errors
///
/// When Debian or its kernel cannot be fetched, or the trial fails.
pub fn run(package: &Path) -> Result<()> {
    setup::ensure(&[Group::Vm])?;
    prometheus::ensure()?;
    let kernel = vm::kernel::of_series(vm::series::find(KERNEL)?, false)?;
    let system = packed()?;
    let write = |to: &Path| {
        fs::copy(&system, to).with_context(|| format!("write {}", to.display()))?;
        add(to, package, &kernel)
    };
    let output = vm::run_system(&kernel, ARGUMENTS, TIMEOUT, write)?;
    print!("{}", output.stdout);
    ensure!(output.code == 0, "the trial failed; the machine said:\n{}", output.console);
    Ok(())
}

/// Debian 12 with systemd, made once.
fn packed() -> Result<PathBuf> {
    let (system, archive) =
        (place::target("dist/debian-systemd"), place::target("dist/debian-systemd.cpio"));
    if !archive.exists() {
        trial::debian(&system, PACKAGES)?;
        let mut pack = root::command("sh", "cargo xtask dist --try-systemd")?;
        step::must(
            "dist: pack Debian 12",
            "is the disk full?",
            pack.args(["-c", PACK]).args([&system, &archive]),
        )?;
    }
    Ok(archive)
}

/// Adds the kernel's modules, the package and the trial: a second archive, which the kernel unpacks over
/// the first.
fn add(to: &Path, package: &Path, kernel: &Kernel) -> Result<()> {
    let mut archive = Writer::new(File::options().append(true).open(to)?);
    let modules = format!("/usr/lib/modules/{}", kernel.release);
    let listed = Command::new("find")
        .args([".", "-type", "f", "-not", "-name", "vmlinuz", "-print0"])
        .current_dir(&kernel.modules)
        .stderr(Stdio::inherit())
        .output()
        .context("start find")?;
    for name in String::from_utf8_lossy(&listed.stdout).split_terminator('\0') {
        let content = fs::read(kernel.modules.join(name)).with_context(|| name.to_owned())?;
        archive.file(&format!("{modules}/{}", name.trim_start_matches("./")), false, &content)?;
    }
    archive.file(PACKAGE_THERE, false, &fs::read(package)?)?;
    let prometheus = prometheus::root().join("usr/bin/prometheus");
    archive.file("/root/prometheus", true, &fs::read(prometheus)?)?;
    archive.file("/root/machine.sh", true, include_bytes!("machine.sh"))?;
    archive.file("/root/incident.py", false, include_bytes!("incident.py"))?;
    archive.file("/etc/systemd/system/trial.service", false, UNIT.as_bytes())?;
    let wants = "/etc/systemd/system/multi-user.target.wants";
    archive.link(&format!("{wants}/trial.service"), "../trial.service")?;
    archive.finish()?;
    Ok(())
}
