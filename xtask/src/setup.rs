//! `cargo xtask setup`: install what is missing on this machine, and only that.

mod bpf;
mod crossplane;
pub mod dist;
pub mod fuzz;
pub mod manifests;
mod packages;
pub mod part;
pub mod prometheus;
pub mod qemu;
pub mod supply;
pub mod tornado;
pub mod wheel;

use std::process::ExitCode;

use anyhow::Result;

use packages::Package;

/// Install missing dependencies of the build, the lab and the virtual machines.
#[derive(clap::Args)]
pub struct Args {
    /// Install only for these purposes.
    #[arg(long, value_delimiter = ',', default_values_t = Group::BY_DEFAULT)]
    only: Vec<Group>,
}

/// What things are needed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Group {
    /// Compiling the agent with its eBPF programs.
    Build,
    /// The lab and the demo: a real proxy, a real application, network namespaces.
    Lab,
    /// Virtual machines with other kernels.
    Vm,
    /// Benchmarks: the tools that Floodmark is compared with.
    Bench,
    /// Fuzzing.
    Fuzz,
    /// Packages, and a system to try them on.
    Dist,
}

impl Group {
    const BY_DEFAULT: [Self; 3] = [Self::Build, Self::Lab, Self::Vm];

    fn packages(self) -> Vec<Package> {
        match self {
            Self::Build => bpf::packages(),
            Self::Lab => vec![
                Package::with_program("nginx-light", "nginx"),
                Package::library("libnginx-mod-stream"),
                Package::with_program("nftables", "nft"),
                Package::with_program("haproxy", "haproxy"),
                Package::with_program("iproute2", "ip"),
                Package::with_program("nats-server", "nats-server"),
                Package::with_program("procps", "sysctl"),
                Package::library("python3-venv"),
                // For Rotel, the Collector, which has Python in it.
                Package::library("libpython3-dev"),
                Package::library("php-fpm"),
                Package::with_program("containerd", "containerd"),
                Package::with_program("docker.io", "dockerd"),
                Package::with_program("podman", "podman"),
                Package::library("busybox-static"),
            ],
            Self::Vm => vec![
                Package::with_program("kmod", "depmod"),
                Package::with_program("xz-utils", "xz"),
            ],
            Self::Fuzz => Vec::new(),
            Self::Dist => dist::packages(),
            Self::Bench => vec![
                Package::with_program("bpftrace", "bpftrace"),
                Package::with_program("libbpf-tools", "tcpsynbl"),
            ],
        }
    }
}

impl std::fmt::Display for Group {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Build => "build",
            Self::Lab => "lab",
            Self::Vm => "vm",
            Self::Bench => "bench",
            Self::Fuzz => "fuzz",
            Self::Dist => "dist",
        })
    }
}

/// Runs the verb.
///
/// # Errors
///
/// As [`ensure`].
pub fn main(args: &Args) -> Result<ExitCode> {
    ensure(&args.only)?;
    eprintln!("all set up; next: cargo xtask run");
    Ok(ExitCode::SUCCESS)
}

/// Installs what `groups` need. Cheap if everything is installed.
///
/// # Errors
///
/// When something cannot be installed; the error says what to do by hand.
pub fn ensure(groups: &[Group]) -> Result<()> {
    let needed: Vec<Package> = groups.iter().flat_map(|group| group.packages()).collect();
    packages::install_missing(&needed)?;
    for group in groups {
        match group {
            Group::Build => bpf::ensure_linker()?,
            Group::Lab => {
                prometheus::ensure()?;
                tornado::ensure()?;
                crossplane::ensure()?;
                part::OTHERS_LOGS.ensure()?;
            }
            Group::Vm => qemu::ensure()?,
            Group::Bench => {}
            Group::Fuzz => fuzz::ensure()?,
            Group::Dist => dist::ensure()?,
        }
    }
    Ok(())
}
