//! Network namespaces for a proxy and its application hosts, joined by veth pairs.

#![allow(unsafe_code, reason = "runs code between fork and exec")]

use std::{
    fs::File, net::Ipv4Addr, os::unix::process::CommandExt, path::PathBuf, process::Command,
};

use anyhow::{Context, Result, bail};
use floodmark::kernel::{
    MibCounts,
    netns::{Netns, discover, visit},
};
use nix::sched::{CloneFlags, setns};

/// A named network namespace, removed with the value.
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes one, with loopback up.
    pub fn new(name: String) -> Result<Self> {
        ip(&["netns", "add", &name]).context("network namespaces need root")?;
        let namespace = Self { name };
        ip(&["-n", &namespace.name, "link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    /// Its name under `/run/netns`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A command that will run inside.
    pub fn command(&self, program: impl Into<PathBuf>) -> Result<Command> {
        let path = format!("/run/netns/{}", self.name);
        let namespace = File::open(&path).with_context(|| format!("opening {path}"))?;
        let mut command = Command::new(program.into());
        // SAFETY: between fork and exec only setns(2) is called, which is async-signal-safe.
        unsafe {
            command.pre_exec(move || Ok(setns(&namespace, CloneFlags::CLONE_NEWNET)?));
        }
        Ok(command)
    }

    /// Does something on a thread inside.
    pub fn inside<T: Send>(&self, mut what: impl FnMut() -> T + Send) -> Result<T> {
        let netns = self.discovered()?;
        let mut result = visit(&[netns], |_| what())?;
        result.pop().with_context(|| format!("cannot enter {}", self.name))
    }

    /// The kernel's own counters of the namespace.
    pub fn counters(&self) -> Result<MibCounts> {
        self.inside(floodmark::kernel::mib::read_here)?.context("reading the kernel's counters")
    }

    fn discovered(&self) -> Result<Netns> {
        let found = discover()?.into_iter().find(|netns| netns.name == self.name);
        found.with_context(|| format!("namespace {} has gone", self.name))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Its veth pairs go with it.
        let _ = ip(&["netns", "del", &self.name]);
    }
}

/// A proxy and two application hosts.
pub struct Topology {
    /// Where the proxy and its clients live.
    pub proxy: Namespace,
    /// The application hosts, each with the address by which the proxy reaches it.
    pub apps: Vec<(Namespace, Ipv4Addr)>,
}

impl Topology {
    /// Makes the namespaces. `label` keeps runs apart that share a machine.
    pub fn new(label: &str) -> Result<Self> {
        let proxy = Namespace::new(format!("fmlab-{label}-proxy"))?;
        let mut apps = Vec::new();
        for number in 1..=2_u8 {
            let link = link(number.into());
            let app = Namespace::new(format!("fmlab-{label}-app{number}"))?;
            let (near, far) = (Ipv4Addr::new(10, 77, number, 1), Ipv4Addr::new(10, 77, number, 2));
            let (of, to) = (proxy.name.as_str(), app.name.as_str());
            ip(&[
                "-n", of, "link", "add", &link, "type", "veth", "peer", "name", "eth0", "netns", to,
            ])?;
            ip(&["-n", of, "addr", "add", &format!("{near}/30"), "dev", &link])?;
            ip(&["-n", of, "link", "set", &link, "up"])?;
            ip(&["-n", to, "addr", "add", &format!("{far}/30"), "dev", "eth0"])?;
            ip(&["-n", to, "link", "set", "eth0", "up"])?;
            apps.push((app, far));
        }
        Ok(Self { proxy, apps })
    }

    /// The names of all of them, for an agent that looks into no others: what else runs on the machine
    /// is none of the lab's business.
    pub fn names(&self) -> Vec<&str> {
        let apps = self.apps.iter().map(|(app, _)| app.name());
        std::iter::once(self.proxy.name()).chain(apps).collect()
    }

    /// Takes the proxy's side of every pair down, so that no further segment comes to an application
    /// host: the proxy's kernel sends again, for minutes, what was never acknowledged.
    pub fn disconnect(&self) -> Result<()> {
        let proxy = self.proxy.name.as_str();
        (1..=self.apps.len())
            .try_for_each(|number| ip(&["-n", proxy, "link", "set", &link(number), "down"]))
    }
}

/// The proxy's interface towards an application host.
fn link(number: usize) -> String {
    format!("app{number}")
}

/// Runs `ip`.
pub(crate) fn ip(args: &[&str]) -> Result<()> {
    let output = Command::new("ip").args(args).output().context("running ip (package iproute2)")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("ip {}: {}", args.join(" "), said.trim());
    }
    Ok(())
}
