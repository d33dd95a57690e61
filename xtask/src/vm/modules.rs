//! The kernel modules a guest needs, in the order in which they must be loaded.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use super::kernel::Kernel;

/// What the lab and the tests use: links between namespaces and to crafted peers, sockets'
/// diagnosis, bad links. No
/// guest can load a module on demand, since it has no modprobe.
const WANTED: [&str; 7] =
    ["veth", "dummy", "tun", "inet_diag", "tcp_diag", "unix_diag", "sch_netem"];

/// A module's file name and content, decompressed.
pub type Module = (String, Vec<u8>);

/// Reads every module that is wanted, of `more` too, and not built in, those first that others need.
///
/// # Errors
///
/// When the kernel lacks one, or it cannot be read.
pub fn load(kernel: &Kernel, more: &[&str]) -> Result<Vec<Module>> {
    let read = |name: &str| {
        let file = kernel.modules.join(name);
        fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))
    };
    let wanted = [&WANTED[..], more].concat();
    let order = in_order(&wanted, &read("modules.dep")?, &read("modules.builtin")?)?;
    order.iter().map(|path| decompressed(&kernel.modules.join(path))).collect()
}

/// Paths of the modules `wanted` and of what they need. In `modules.dep` each line names a module
/// and all it needs, direct and indirect, the first needed last (depmod(8)).
fn in_order(wanted: &[&str], dependencies: &str, built_in: &str) -> Result<Vec<PathBuf>> {
    let mut order: Vec<PathBuf> = Vec::new();
    for module in wanted {
        if built_in.lines().any(|path| name_of(path) == *module) {
            continue;
        }
        let line = dependencies
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(path, _)| name_of(path) == *module);
        let Some((path, needs)) = line else { bail!("this kernel has no module {module}") };
        for path in needs.split_whitespace().rev().chain([path]).map(PathBuf::from) {
            if !order.contains(&path) {
                order.push(path);
            }
        }
    }
    Ok(order)
}

/// The module's name for a path such as `kernel/net/sched/sch_netem.ko.xz`. Files may spell it with
/// hyphens; the kernel does with underscores.
fn name_of(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split(".ko").next().unwrap_or(file).replace('-', "_")
}

fn decompressed(path: &Path) -> Result<Module> {
    let shown = path.display();
    let content = match path.extension().and_then(|extension| extension.to_str()) {
        Some("ko") => fs::read(path).with_context(|| format!("read {shown}"))?,
        Some("xz") => {
            let xz = Command::new("xz").arg("-dc").arg(path).output().context("start xz")?;
            anyhow::ensure!(xz.status.success(), "xz cannot decompress {shown}");
            xz.stdout
        }
        _ => bail!("{shown}: neither .ko nor .ko.xz"),
    };
    Ok((format!("{}.ko", name_of(&path.to_string_lossy())), content))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEPENDENCIES: &str = "\
kernel/net/ipv4/tcp_diag.ko.xz: kernel/net/ipv4/inet_diag.ko.xz
kernel/net/ipv4/inet_diag.ko.xz:
kernel/drivers/net/veth.ko.xz:
kernel/fs/top.ko: kernel/fs/middle.ko kernel/lib/bottom-part.ko
";

    fn order(wanted: &[&str]) -> Vec<String> {
        let order = in_order(wanted, DEPENDENCIES, "kernel/net/core/dummy.ko\n").unwrap();
        order.iter().map(|path| name_of(&path.to_string_lossy())).collect()
    }

    #[test]
    fn what_is_needed_comes_first_and_once() {
        assert_eq!(order(&["tcp_diag", "inet_diag", "veth"]), ["inet_diag", "tcp_diag", "veth"]);
        assert_eq!(order(&["top"]), ["bottom_part", "middle", "top"]);
    }

    #[test]
    fn what_is_built_in_needs_no_loading() {
        assert_eq!(order(&["dummy"]), Vec::<String>::new());
    }

    #[test]
    fn a_module_that_is_nowhere_is_named() {
        let error = in_order(&["sch_netem"], DEPENDENCIES, "").unwrap_err();
        assert_eq!(error.to_string(), "this kernel has no module sch_netem");
    }
}
