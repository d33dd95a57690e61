//! Debian packages: which are missing, and installing those.

use std::{path::Path, process::Command};

use anyhow::{Context, Result};

use crate::{place, root, step};

/// Refreshes the index and installs the packages named as arguments.
///
/// Debian starts a service as it is installed, unless `policy-rc.d` forbids it (invoke-rc.d(8)). A
/// machine that has a policy keeps it; elsewhere one stands for as long as the installation takes.
/// What was installed for the lab is not to start at boot either. An index that fails to refresh
/// may be a third party's, so only the installation decides. `--no-remove`, because `rustc-web`
/// would push out Debian's own `rustc` without a word.
const INSTALL: &str = r#"
export DEBIAN_FRONTEND=noninteractive
policy=/usr/sbin/policy-rc.d
trap 'exit 130' INT TERM
if [ ! -e $policy ]; then
    trap 'rm -f $policy' EXIT
    printf '#!/bin/sh\nexit 101\n' > $policy
    chmod +x $policy
fi
apt-get update -q || echo 'some package index could not be refreshed'
apt-get install -q -y --no-remove --no-install-recommends \
    -o DPkg::Lock::Timeout=300 "$@" || exit
[ -d /run/systemd/system ] || exit 0
case " $* " in *' nginx-light '*) systemctl disable nginx.service ;; esac
case " $* " in *' haproxy '*) systemctl disable haproxy.service ;; esac
case " $* " in *' nats-server '*) systemctl disable nats-server.service ;; esac
case " $* " in *' php-fpm '*) systemctl disable 'php*-fpm.service' ;; esac
case " $* " in *' containerd '*) systemctl disable containerd.service ;; esac
case " $* " in *' docker.io '*) systemctl disable docker.service docker.socket ;; esac
case " $* " in *' podman '*) systemctl disable podman.service podman.socket podman-restart.service podman-auto-update.timer ;; esac
"#;

/// A package that may be needed.
#[derive(Clone, Copy, Debug)]
pub struct Package {
    name: &'static str,
    program: Option<&'static str>,
}

impl Package {
    /// A package wanted for one program, which may as well come from elsewhere.
    pub const fn with_program(name: &'static str, program: &'static str) -> Self {
        Self { name, program: Some(program) }
    }

    /// A package wanted for what lies in Debian's own directories.
    pub const fn library(name: &'static str) -> Self {
        Self { name, program: None }
    }

    fn is_missing(&self, installed: &[String]) -> bool {
        let elsewhere = self.program.is_some_and(|program| place::program(program).is_some());
        !elsewhere && !installed.iter().any(|name| name == self.name)
    }
}

/// Installs those of `packages` that are missing.
///
/// # Errors
///
/// When this is no Debian machine, the user cannot be root, or apt fails.
pub fn install_missing(packages: &[Package]) -> Result<()> {
    let installed = installed(packages)?;
    let missing: Vec<&str> = packages
        .iter()
        .filter(|package| package.is_missing(&installed))
        .map(|package| package.name)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names = missing.join(" ");
    anyhow::ensure!(
        Path::new("/usr/bin/apt-get").exists(),
        "this machine has no apt; install what corresponds to Debian's packages: {names}"
    );
    let by_hand = format!("apt-get install --no-install-recommends {names}");
    step::must(
        &format!("install {}", titled(&missing)),
        &format!("to install by hand, as root: {by_hand}"),
        root::command("sh", &by_hand)?.args(["-c", INSTALL, "sh"]).args(&missing),
    )?;
    Ok(())
}

/// A title of bounded length: it also names the log.
fn titled(names: &[&str]) -> String {
    match names {
        [] => String::new(),
        [name] => (*name).to_owned(),
        [first, rest @ ..] => format!("{first} and {} more", rest.len()),
    }
}

fn installed(packages: &[Package]) -> Result<Vec<String>> {
    if !Path::new("/usr/bin/dpkg-query").exists() {
        return Ok(Vec::new());
    }
    // Exits with 1 when it does not know one of the packages, and still lists the others.
    let output = Command::new("dpkg-query")
        .args(["--show", "--showformat", "${db:Status-Status} ${Package}\n"])
        .args(packages.iter().map(|package| package.name))
        .output()
        .context("start dpkg-query")?;
    Ok(installed_in(&String::from_utf8_lossy(&output.stdout)))
}

fn installed_in(listing: &str) -> Vec<String> {
    listing.lines().filter_map(|line| line.strip_prefix("installed ")).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_removed_package_with_its_configuration_left_is_missing() {
        let installed = installed_in("installed kmod\nconfig-files nginx-light\n");
        assert_eq!(installed, ["kmod"]);
        assert!(Package::library("nginx-light").is_missing(&installed));
        assert!(!Package::library("kmod").is_missing(&installed));
    }

    #[test]
    fn a_program_from_elsewhere_makes_its_package_unneeded() {
        assert!(!Package::with_program("no-such-package", "sh").is_missing(&[]));
        assert!(Package::with_program("no-such-package", "no-such-program").is_missing(&[]));
    }
}
