//! Kernel modules for the guest: nothing loads them by itself there, so they go in with their
//! dependencies, in the order in which they must be inserted.

use std::{collections::HashMap, fs, path::Path, process::Command};

use anyhow::{Context, Result, bail};

use super::kernels::Kernel;

/// What the lab and the agent need of a Debian cloud kernel beyond what is built in.
pub const WANTED: &[&str] = &["veth", "dummy", "inet_diag", "tcp_diag", "unix_diag", "sch_netem"];

/// A module, unpacked: its file name and content.
pub type Module = (String, Vec<u8>);

/// The wanted modules that this kernel has as files, dependencies first. One that it has built in,
/// or not at all, is left out.
pub fn resolve(kernel: &Kernel) -> Result<Vec<Module>> {
    let path = kernel.modules.join("modules.dep");
    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let dependencies = parse(&text);
    let mut order = Vec::new();
    for name in WANTED {
        if let Some(file) = dependencies.keys().find(|file| module_name(file) == *name) {
            insert(file, &dependencies, &mut order);
        }
    }
    order.into_iter().map(|file| unpack(&kernel.modules, file)).collect()
}

/// Lines of `FILE: DEPENDENCY…`.
fn parse(text: &str) -> HashMap<&str, Vec<&str>> {
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    lines.map(|(file, rest)| (file, rest.split_whitespace().collect())).collect()
}

fn insert<'a>(file: &'a str, all: &HashMap<&'a str, Vec<&'a str>>, order: &mut Vec<&'a str>) {
    if order.contains(&file) {
        return;
    }
    // modules.dep lists all dependencies, those of dependencies last.
    for dependency in all.get(file).into_iter().flatten().rev() {
        insert(dependency, all, order);
    }
    order.push(file);
}

/// "kernel/net/sched/sch_netem.ko.xz" is `sch_netem`.
fn module_name(file: &str) -> String {
    let base = file.rsplit('/').next().unwrap_or(file);
    base.split(".ko").next().unwrap_or(base).replace('-', "_")
}

fn unpack(modules: &Path, file: &str) -> Result<Module> {
    let path = modules.join(file);
    let name = format!("{}.ko", module_name(file));
    if !file.ends_with(".xz") {
        let content = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        return Ok((name, content));
    }
    let output = Command::new("xz").arg("-dc").arg(&path).output().context("running xz")?;
    if !output.status.success() {
        bail!("{} cannot be unpacked", path.display());
    }
    Ok((name, output.stdout))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_come_first_and_once() {
        let all = parse("k/c.ko: k/b.ko k/a.ko\nk/b.ko: k/a.ko\nk/a.ko:\n");
        let mut order = Vec::new();
        insert("k/c.ko", &all, &mut order);
        insert("k/b.ko", &all, &mut order);
        assert_eq!(order, ["k/a.ko", "k/b.ko", "k/c.ko"]);
    }

    #[test]
    fn names_a_module_as_the_kernel_does() {
        assert_eq!(module_name("kernel/net/ipv4/tcp-diag.ko.xz"), "tcp_diag");
    }
}
