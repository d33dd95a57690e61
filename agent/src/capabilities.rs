//! The capabilities of this process (capabilities(7)): which it needs, what for, and putting the
//! others away.

use anyhow::{Context, Result};
use caps::{CapSet, Capability, CapsHashSet};
use nix::sys::{
    prctl,
    resource::{RLIM_INFINITY, Resource, getrlimit},
    utsname::uname,
};

/// A version that lacks nothing.
const LATEST: (u32, u32) = (u32::MAX, 0);

/// A capability that the agent makes use of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    /// The capability, as in capabilities(7).
    pub capability: Capability,
    /// What is done with it.
    pub purpose: &'static str,
    /// What is lost without it, while the rest works on.
    pub lost: &'static str,
    /// When it is made use of.
    pub when: When,
}

/// When a capability is made use of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// At every kernel.
    Always,
    /// Where CAP_SYS_ADMIN, which stands for it, is not held.
    WithoutSysAdmin,
    /// Before this version of Linux.
    Before(u32, u32),
    /// Where it happens to be held; nobody need grant it.
    IfHeld,
}

/// Everything that is made use of.
pub const NEEDS: [Need; 9] = [
    Need {
        capability: Capability::CAP_BPF,
        purpose: "load the eBPF programs and read their maps",
        lost: "all eBPF programs: every signal uses netlink and procfs",
        when: When::WithoutSysAdmin,
    },
    Need {
        capability: Capability::CAP_PERFMON,
        purpose: "attach the programs, and let them read kernel memory",
        lost: "all eBPF programs that read kernel memory: their signals use netlink and procfs",
        when: When::WithoutSysAdmin,
    },
    Need {
        capability: Capability::CAP_SYS_ADMIN,
        purpose: "enter other network namespaces (setns)",
        lost: "listeners and counters of all network namespaces except the agent's own; the \
               self-test",
        when: When::Always,
    },
    Need {
        capability: Capability::CAP_SYS_PTRACE,
        purpose: "inspect other users' processes: their namespaces, their sockets, nginx's binary",
        lost: "owners of listeners, and namespaces without a name below /run/netns",
        when: When::Always,
    },
    Need {
        capability: Capability::CAP_DAC_READ_SEARCH,
        purpose: "read the descriptors of other users' processes, and proxies' logs",
        lost: "owners of listeners, and logs that the agent's user and groups may not read",
        when: When::Always,
    },
    Need {
        capability: Capability::CAP_NET_ADMIN,
        purpose: "set up the self-test's loopback; query conntrack",
        lost: "the self-test, and listeners behind address translation",
        when: When::Always,
    },
    Need {
        capability: Capability::CAP_SYS_RESOURCE,
        purpose: "lock the memory of maps, if nothing else raises the limit (RLIMIT_MEMLOCK)",
        lost: "all eBPF programs: every signal uses netlink and procfs",
        when: When::Before(5, 11),
    },
    Need {
        capability: Capability::CAP_DAC_OVERRIDE,
        purpose: "use HAProxy's command socket, or the container runtime's, whoever owns it",
        lost: "such sockets, unless the agent is in their group",
        when: When::IfHeld,
    },
    Need {
        capability: Capability::CAP_NET_BIND_SERVICE,
        purpose: "listen on a port below 1024, such as syslog's 514",
        lost: "such ports",
        when: When::IfHeld,
    },
];

/// The capabilities that are needed here and not held.
///
/// # Errors
///
/// When the process's own capabilities cannot be read.
pub fn missing() -> Result<Vec<Need>> {
    let held = caps::read(None, CapSet::Effective).context("reading the agent's capabilities")?;
    let (_, memory) = getrlimit(Resource::RLIMIT_MEMLOCK).context("reading the agent's limits")?;
    let kernel = if memory == RLIM_INFINITY { LATEST } else { kernel_version() };
    Ok(missing_of(&held, kernel))
}

fn missing_of(held: &CapsHashSet, kernel: (u32, u32)) -> Vec<Need> {
    let is_needed = |need: &&Need| match need.when {
        When::Always => true,
        When::WithoutSysAdmin => !held.contains(&Capability::CAP_SYS_ADMIN),
        When::Before(major, minor) => kernel < (major, minor),
        When::IfHeld => false,
    };
    NEEDS
        .iter()
        .filter(|need| !held.contains(&need.capability))
        .filter(is_needed)
        .copied()
        .collect()
}

/// Puts away for good whatever is not made use of, so that a fault in the agent gives away no more
/// than its purpose takes. Capabilities belong to threads: to be called before any other begins.
///
/// # Errors
///
/// When the kernel refuses to take them.
pub fn keep_what_is_needed() -> Result<()> {
    const WHAT: &str = "dropping capabilities that are not needed";
    let kernel = kernel_version();
    let wanted: CapsHashSet = NEEDS
        .iter()
        .filter(|need| !matches!(need.when, When::Before(major, minor) if kernel >= (major, minor)))
        .map(|need| need.capability)
        .collect();
    let held = caps::read(None, CapSet::Permitted).context(WHAT)?;
    let kept: CapsHashSet = held.iter().filter(|it| wanted.contains(it)).copied().collect();
    if held.contains(&Capability::CAP_SETPCAP) {
        let bounding = caps::read(None, CapSet::Bounding).context(WHAT)?;
        for capability in bounding.difference(&kept) {
            caps::drop(None, CapSet::Bounding, *capability).context(WHAT)?;
        }
    }
    // Nothing that the agent might start is to have any of it.
    prctl::set_no_new_privs().context(WHAT)?;
    caps::clear(None, CapSet::Ambient).context(WHAT)?;
    caps::clear(None, CapSet::Inheritable).context(WHAT)?;
    caps::set(None, CapSet::Effective, &kept).context(WHAT)?;
    caps::set(None, CapSet::Permitted, &kept).context(WHAT)
}

/// Puts all capabilities away for good, before something is parsed that a stranger may have made: a fault
/// in a parser then gives away no more than an ordinary user can do. Files whose access takes a
/// capability must be open by then. Capabilities belong to threads: to be called before any other begins.
///
/// # Errors
///
/// When the kernel refuses to take them.
pub fn drop_all() -> Result<()> {
    const WHAT: &str = "dropping capabilities before parsing";
    prctl::set_no_new_privs().context(WHAT)?;
    for set in [CapSet::Ambient, CapSet::Inheritable, CapSet::Effective, CapSet::Permitted] {
        // Where nothing is held nothing need be asked for, which a sandbox might refuse.
        if !caps::read(None, set).context(WHAT)?.is_empty() {
            caps::clear(None, set).context(WHAT)?;
        }
    }
    Ok(())
}

fn kernel_version() -> (u32, u32) {
    let release = uname().map(|system| system.release().to_string_lossy().into_owned());
    release.ok().and_then(|release| version_of(&release)).unwrap_or((0, 0))
}

fn version_of(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs};

    use super::*;

    fn all() -> CapsHashSet {
        NEEDS.iter().map(|need| need.capability).collect()
    }

    fn lost_without(gone: &[Capability], kernel: (u32, u32)) -> Vec<Capability> {
        let held = all().into_iter().filter(|capability| !gone.contains(capability)).collect();
        missing_of(&held, kernel).iter().map(|need| need.capability).collect()
    }

    #[test]
    fn sys_admin_stands_for_bpf_and_perfmon_and_new_kernels_lock_no_memory() {
        use Capability::{CAP_BPF, CAP_DAC_OVERRIDE, CAP_SYS_ADMIN, CAP_SYS_RESOURCE};
        assert_eq!(lost_without(&[], (6, 1)), []);
        assert_eq!(lost_without(&[CAP_BPF, CAP_DAC_OVERRIDE], (6, 1)), []);
        assert_eq!(lost_without(&[CAP_BPF, CAP_SYS_ADMIN], (6, 1)), [CAP_BPF, CAP_SYS_ADMIN]);
        assert_eq!(lost_without(&[CAP_SYS_RESOURCE], (5, 10)), [CAP_SYS_RESOURCE]);
        assert_eq!(lost_without(&[CAP_SYS_RESOURCE], (5, 11)), []);
    }

    /// On a thread of its own, to which they belong.
    #[test]
    fn all_are_dropped_for_good() {
        let held = std::thread::spawn(|| {
            drop_all().unwrap();
            drop_all().unwrap();
            [CapSet::Permitted, CapSet::Effective].map(|set| caps::read(None, set).unwrap())
        });
        assert!(held.join().unwrap().iter().all(CapsHashSet::is_empty));
    }

    #[test]
    fn reads_a_kernels_version() {
        assert_eq!(version_of("6.1.0-37-amd64"), Some((6, 1)));
        assert_eq!(version_of("5.10.0"), Some((5, 10)));
        assert_eq!(version_of("unknown"), None);
    }

    /// What is granted is what is needed: no more in any of the files, and no less.
    #[test]
    fn unit_and_manifests_grant_what_is_needed() {
        let deploy = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy");
        let read = |file: &str| fs::read_to_string(format!("{deploy}/{file}")).unwrap();
        let is_granted = |need: &&Need| matches!(need.when, When::Always | When::WithoutSysAdmin);
        let granted: Vec<&Need> = NEEDS.iter().filter(is_granted).collect();
        let unit = read("systemd/floodmark.service");
        for key in ["CapabilityBoundingSet=", "AmbientCapabilities="] {
            let line = unit.lines().find_map(|line| line.strip_prefix(key)).unwrap();
            let in_unit: BTreeSet<&str> = line.split(' ').collect();
            let needed = granted.iter().map(|need| need.capability.to_string());
            let needed: Vec<String> = needed.collect();
            assert_eq!(in_unit, needed.iter().map(String::as_str).collect(), "{key}");
        }
        let security = fs::read_to_string(format!("{deploy}/../docs/security.md")).unwrap();
        for need in NEEDS {
            let row = format!("| `{}` | {} | {} |", need.capability, need.purpose, need.lost);
            assert!(security.contains(&row), "docs/security.md lacks {row}");
        }
    }
}
