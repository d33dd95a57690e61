//! What keeps a real server from accepting, and what ends that.

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context, Result};
use floodmark::verdict::Impediment;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// How a server is held up besides what it does itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Means {
    /// Not at all.
    None,
    /// By SIGSTOP.
    Stop,
    /// By a frozen control group.
    Freeze,
    /// By 3 % of a processor.
    Throttle,
}

/// A server that is held up.
pub struct Case {
    pub name: &'static str,
    /// A mode of server.py.
    pub mode: &'static str,
    pub means: Means,
    /// What has to come first.
    pub first: Impediment,
    /// Connects, and the time over which they are spread.
    pub load: (u32, Duration),
}

const fn case(name: &'static str, mode: &'static str, means: Means, first: Impediment) -> Case {
    Case { name, mode, means, first, load: (300, Duration::from_secs(4)) }
}

pub const CASES: &[Case] = &[
    case("sleeping", "sleep", Means::None, Impediment::Sleeping),
    case("cpu_bound", "burn", Means::None, Impediment::CpuBound),
    case("throttled", "work", Means::Throttle, Impediment::Throttled),
    case("blocked-recv", "receive", Means::None, Impediment::Blocked),
    case("blocked-poll", "poll", Means::None, Impediment::Blocked),
    case("blocked-client", "client", Means::None, Impediment::Blocked),
    case("no_descriptors", "exhausted", Means::None, Impediment::NoDescriptors),
    case("workers_busy", "preforked", Means::None, Impediment::WorkersBusy),
    case("uneven", "group", Means::None, Impediment::Uneven),
    case("stopped", "fine", Means::Stop, Impediment::Stopped),
    case("frozen", "fine", Means::Freeze, Impediment::Frozen),
    case("stopped-exhausted", "exhausted", Means::Stop, Impediment::Stopped),
    case("throttled-sleeping", "sleep", Means::Throttle, Impediment::Sleeping),
    Case {
        load: (600, Duration::from_millis(20)),
        ..case("burst", "fine", Means::None, Impediment::Burst)
    },
];

/// A control group of version 1 or 2 for one case, removed with the value.
pub struct Group {
    freezer: PathBuf,
    processor: PathBuf,
    pid: u32,
}

impl Group {
    /// Holds a process up.
    pub fn hold(means: Means, pid: u32) -> Result<Self> {
        let name = format!("fmlab-{}", std::process::id());
        let root = PathBuf::from("/sys/fs/cgroup");
        let is_unified = root.join("cgroup.controllers").exists();
        let of = |controller: &str| {
            if is_unified { root.join(&name) } else { root.join(controller).join(&name) }
        };
        let group = Self { freezer: of("freezer"), processor: of("cpu"), pid };
        let write = |path: PathBuf, text: &str| {
            fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
        };
        let join = |directory: &PathBuf| -> Result<()> {
            fs::create_dir_all(directory)?;
            write(directory.join("cgroup.procs"), &pid.to_string())
        };
        match means {
            Means::None => {}
            Means::Stop => kill(Pid::from_raw(pid as i32), Signal::SIGSTOP)?,
            Means::Freeze => {
                join(&group.freezer)?;
                let (file, text) = freezer(is_unified, true);
                write(group.freezer.join(file), text)?;
            }
            Means::Throttle => {
                if is_unified {
                    write(root.join("cgroup.subtree_control"), "+cpu")?;
                }
                fs::create_dir_all(&group.processor)?;
                let (file, text) = if is_unified {
                    ("cpu.max", "3000 100000")
                } else {
                    ("cpu.cfs_quota_us", "3000")
                };
                write(group.processor.join(file), text)?;
                join(&group.processor)?;
            }
        }
        Ok(group)
    }
}

fn freezer(is_unified: bool, on: bool) -> (&'static str, &'static str) {
    match (is_unified, on) {
        (true, true) => ("cgroup.freeze", "1"),
        (true, false) => ("cgroup.freeze", "0"),
        (false, true) => ("freezer.state", "FROZEN"),
        (false, false) => ("freezer.state", "THAWED"),
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for is_unified in [true, false] {
            let (file, text) = freezer(is_unified, false);
            let path = self.freezer.join(file);
            if path.exists() {
                let _ = fs::write(path, text);
            }
        }
        // The whole process group: a server's workers are its children.
        let all = Pid::from_raw(-(self.pid as i32));
        let _ = kill(all, Signal::SIGKILL);
        let _ = kill(all, Signal::SIGCONT);
        for _ in 0..100 {
            let gone = [&self.freezer, &self.processor]
                .into_iter()
                .all(|group| !group.exists() || fs::remove_dir(group).is_ok());
            if gone {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
