//! Network namespaces of a scenario's own, named where the agent looks for them.

use std::{
    fs::{self, File},
    os::unix::fs::MetadataExt,
    path::PathBuf,
    process::Command,
    thread,
};

use anyhow::{Context, Result, anyhow, bail};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns, unshare},
};

const NAMED: &str = "/run/netns";
/// How the names of this run's namespaces begin.
const PREFIX: &str = "fmscen";

/// A named network namespace; its name goes with the value.
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes one with loopback up, as `ip netns add` does.
    pub fn new(serial: usize) -> Result<Self> {
        let namespace = Self { name: format!("{}{serial}", prefix()) };
        fs::create_dir_all(NAMED).with_context(|| format!("create {NAMED}"))?;
        File::create(namespace.path()).with_context(|| format!("create {}", namespace.name))?;
        on_a_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET).context("network namespaces need root")?;
            let own = Some("/proc/thread-self/ns/net");
            mount(own, &namespace.path(), None::<&str>, MsFlags::MS_BIND, None::<&str>)
                .with_context(|| format!("mount {}", namespace.name))?;
            ip(&["link", "set", "lo", "up"])
        })?;
        Ok(namespace)
    }

    /// Its name under `/run/netns`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its inode number, which the kernel gives again once it is gone.
    pub fn inode(&self) -> Result<u64> {
        Ok(fs::metadata(self.path())?.ino())
    }

    /// Moves the calling thread into it.
    pub fn enter(&self) -> Result<()> {
        let file = File::open(self.path()).with_context(|| format!("open {}", self.name))?;
        setns(file, CloneFlags::CLONE_NEWNET).with_context(|| format!("enter {}", self.name))
    }

    /// Does something inside, on a thread of its own.
    pub fn inside<T: Send>(&self, what: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        on_a_thread(|| self.enter().and_then(|()| what()))
    }

    /// Takes its name away, so that it ends with the last thread and socket inside.
    pub fn abandon(&self) {
        let _ = umount2(&self.path(), MntFlags::MNT_DETACH);
        let _ = fs::remove_file(self.path());
    }

    fn path(&self) -> PathBuf {
        [NAMED, &self.name].iter().collect()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        self.abandon();
    }
}

/// How the names of all namespaces of this process begin.
pub fn prefix() -> String {
    format!("{PREFIX}-{}-", std::process::id())
}

/// Sets a sysctl below `/proc/sys/net`, whose files are those of whoever opens them.
pub fn sysctl(name: &str, value: &str) -> Result<()> {
    let path = format!("/proc/sys/net/{name}");
    fs::write(&path, value).with_context(|| format!("write {value} to {path}"))
}

/// Whether this kernel has a sysctl.
pub fn has_sysctl(name: &str) -> bool {
    fs::exists(format!("/proc/sys/net/{name}")).unwrap_or(false)
}

/// Runs ip(8) in the calling thread's namespace.
pub fn ip(args: &[&str]) -> Result<()> {
    run("ip", args)
}

/// Runs tc(8) in the calling thread's namespace.
pub fn tc(args: &[&str]) -> Result<()> {
    run("tc", args)
}

fn run(program: &str, args: &[&str]) -> Result<()> {
    let output = Command::new(program).args(args).output();
    let output = output.with_context(|| format!("running {program} (package iproute2)"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{program} {}: {}", args.join(" "), said.trim());
    }
    Ok(())
}

/// setns(2) and unshare(2) change only the calling thread, which then ends.
fn on_a_thread<T: Send>(what: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| {
        scope.spawn(what).join().map_err(|_| anyhow!("a thread in a namespace panicked"))?
    })
}
