//! Control groups of a holder and those above: quota and throttling, the freezer, memory; on either
//! version of control groups.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::OnceLock,
    time::Instant,
};

use super::{
    evidence::CgroupEvidence,
    process::{read_small, values},
};

/// Levels looked at, from the process's own group upwards.
const MOST_LEVELS: usize = 16;

/// Where the hierarchies are mounted.
#[derive(Debug, Default)]
struct Mounts {
    unified: Option<PathBuf>,
    /// Those of version 1, by controller.
    controllers: BTreeMap<String, PathBuf>,
}

impl Mounts {
    fn own() -> &'static Self {
        static MOUNTS: OnceLock<Mounts> = OnceLock::new();
        MOUNTS.get_or_init(|| {
            let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
            Self::parse(&table)
        })
    }

    /// proc_pid_mountinfo(5).
    fn parse(table: &str) -> Self {
        let mut mounts = Self::default();
        for line in table.lines() {
            let Some((mount, kind)) = line.split_once(" - ") else { continue };
            let Some(place) = mount.split(' ').nth(4).map(PathBuf::from) else { continue };
            let mut kind = kind.split(' ');
            match kind.next() {
                Some("cgroup2") => mounts.unified = mounts.unified.or(Some(place)),
                Some("cgroup") => {
                    for option in kind.nth(1).unwrap_or_default().split(',') {
                        mounts.controllers.entry(option.to_owned()).or_insert(place.clone());
                    }
                }
                _ => {}
            }
        }
        mounts
    }

    /// The directories of a process's group and those above it for a controller, its own first, each with
    /// its path in the hierarchy. `cgroups` is `/proc/PID/cgroup`.
    fn levels(&self, cgroups: &str, controller: &str) -> (Version, Vec<(String, PathBuf)>) {
        let lines = || cgroups.lines().filter_map(|line| line.split_once(':')?.1.split_once(':'));
        let of_v1 = lines().find(|(names, _)| names.split(',').any(|name| name == controller));
        let (version, mount, path) = match (of_v1, self.controllers.get(controller)) {
            (Some((_, path)), Some(mount)) => (Version::One, Some(mount), path),
            _ => {
                let path =
                    lines().find(|(names, _)| names.is_empty()).map_or("/", |(_, path)| path);
                (Version::Two, self.unified.as_ref(), path)
            }
        };
        // Seen from another cgroup namespace, a path begins above what is mounted.
        let Some(mount) = mount.filter(|_| !path.split('/').any(|name| name == "..")) else {
            return (version, Vec::new());
        };
        let own = Path::new(path.trim_start_matches('/'));
        let levels = own.ancestors().take(MOST_LEVELS).filter(|level| *level != Path::new(""));
        let level = |level: &Path| (format!("/{}", level.display()), mount.join(level));
        (version, levels.map(level).collect())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

/// What was read of a group last.
#[derive(Debug)]
struct Before {
    at: Instant,
    counters: Counters,
}

/// What the kernel has counted of a group since it was made.
#[derive(Clone, Copy, Debug, Default)]
struct Counters {
    periods: u64,
    throttled: u64,
    throttled_us: u64,
    memory_stalled_us: u64,
    memory_hits: u64,
    quota_millis: Option<u64>,
    memory_limit: Option<u64>,
}

impl Counters {
    /// kernel/sched/core.c, cpu_cfs_stat_show (version 1) and cpu_extra_stat_show (version 2).
    fn read_cpu(&mut self, version: Version, directory: &Path) {
        let text = |name: &str| read_small(&directory.join(name));
        let stat = text("cpu.stat").unwrap_or_default();
        let values = values(&stat);
        let value = |name: &str| values.get(name).copied().unwrap_or(0);
        self.periods += value("nr_periods");
        self.throttled += value("nr_throttled");
        self.quota_millis = match version {
            Version::One => {
                self.throttled_us += value("throttled_time") / 1000;
                let number = |name| text(name)?.trim().parse::<i64>().ok();
                quota(number("cpu.cfs_quota_us"), number("cpu.cfs_period_us"))
            }
            Version::Two => {
                self.throttled_us += value("throttled_usec");
                let max = text("cpu.max").unwrap_or_default();
                let mut words = max.split_ascii_whitespace().map(|word| word.parse().ok());
                quota(words.next().flatten(), words.next().flatten())
            }
        };
    }

    fn read_memory(&mut self, version: Version, directory: &Path) {
        let text = |name: &str| read_small(&directory.join(name));
        let number = |name| text(name)?.trim().parse::<u64>().ok();
        match version {
            Version::One => {
                self.memory_hits += number("memory.failcnt").unwrap_or(0);
                // Without a limit it is the greatest multiple of the page size.
                let limit = number("memory.limit_in_bytes");
                self.memory_limit = limit.filter(|limit| *limit < 1 << 60);
            }
            Version::Two => {
                self.memory_limit =
                    [number("memory.high"), number("memory.max")].into_iter().flatten().min();
                let events = text("memory.events").unwrap_or_default();
                let events = values(&events);
                let event = |name: &str| events.get(name).copied().unwrap_or(0);
                self.memory_hits += event("high") + event("max");
                let pressure = text("memory.pressure").unwrap_or_default();
                self.memory_stalled_us += stalled(&pressure).unwrap_or(0);
            }
        }
    }

    fn says_something(&self) -> bool {
        self.quota_millis.is_some() || self.memory_limit.is_some()
    }
}

/// Thousandths of a processor; `None` without a limit.
fn quota(quota_us: Option<i64>, period_us: Option<i64>) -> Option<u64> {
    let (quota, period) = (u64::try_from(quota_us?).ok()?, u64::try_from(period_us?).ok()?);
    (quota * 1000).checked_div(period)
}

/// The time of the line `some` of a pressure file, in microseconds
/// (Documentation/accounting/psi.rst).
fn stalled(pressure: &str) -> Option<u64> {
    let line = pressure.lines().find(|line| line.starts_with("some"))?;
    line.split_once("total=")?.1.trim().parse().ok()
}

type Read = fn(&mut Counters, Version, &Path);

/// Controllers, each with what is read of it.
const CONTROLLERS: [(&str, Read); 2] =
    [("cpu", Counters::read_cpu), ("memory", Counters::read_memory)];

/// Groups looked at, with what was read last.
#[derive(Debug, Default)]
pub(super) struct Cgroups(BTreeMap<String, Before>);

impl Cgroups {
    /// Reads the groups of processes, and tells what has changed since the last time. `cgroups` are the
    /// processes' `/proc/PID/cgroup`.
    pub(super) fn look(&mut self, cgroups: &[String]) -> Vec<CgroupEvidence> {
        let mounts = Mounts::own();
        let mut read: BTreeMap<String, Counters> = BTreeMap::new();
        for (controller, read_it) in CONTROLLERS {
            let mut seen = BTreeSet::new();
            for own in cgroups {
                let (version, levels) = mounts.levels(own, controller);
                for (path, directory) in levels {
                    if seen.insert(path.clone()) {
                        read_it(read.entry(path).or_default(), version, &directory);
                    }
                }
            }
        }
        let at = Instant::now();
        let before = std::mem::take(&mut self.0);
        let mut found = Vec::new();
        for (path, counters) in read {
            let growth = before.get(&path).filter(|_| counters.says_something()).map(|before| {
                let was = before.counters;
                CgroupEvidence {
                    path: path.clone(),
                    timed_us: (at - before.at).as_micros() as u64,
                    periods: counters.periods.saturating_sub(was.periods),
                    throttled: counters.throttled.saturating_sub(was.throttled),
                    throttled_us: counters.throttled_us.saturating_sub(was.throttled_us),
                    quota_millis: counters.quota_millis,
                    memory_stalled_us: counters
                        .memory_stalled_us
                        .saturating_sub(was.memory_stalled_us),
                    memory_hits: counters.memory_hits.saturating_sub(was.memory_hits),
                    memory_limit: counters.memory_limit,
                }
            });
            found.extend(growth);
            self.0.insert(path, Before { at, counters });
        }
        found
    }
}

/// Whether a process's group or one above is frozen.
pub(super) fn is_frozen(cgroups: &str) -> bool {
    let (version, levels) = Mounts::own().levels(cgroups, "freezer");
    // Each level tells of those above as well.
    let Some((_, own)) = levels.first() else { return false };
    match version {
        Version::One => {
            read_small(&own.join("freezer.state")).is_some_and(|state| state.trim() != "THAWED")
        }
        Version::Two => read_small(&own.join("cgroup.events"))
            .is_some_and(|events| values(&events).get("frozen") == Some(&1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V1: &str = "\
26 21 0:23 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
27 21 0:24 / /sys/fs/cgroup/freezer rw - cgroup cgroup rw,freezer
28 21 0:25 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
";

    fn paths(mounts: &Mounts, cgroups: &str, controller: &str) -> Vec<String> {
        let (_, levels) = mounts.levels(cgroups, controller);
        levels.into_iter().map(|(_, directory)| directory.display().to_string()).collect()
    }

    #[test]
    fn a_group_and_those_above_are_found_in_either_version() {
        let mounts = Mounts::parse(V1);
        let cgroups = "3:cpu,cpuacct:/docker/abc\n2:freezer:/\n0::/\n";
        assert_eq!(
            paths(&mounts, cgroups, "cpu"),
            ["/sys/fs/cgroup/cpu,cpuacct/docker/abc", "/sys/fs/cgroup/cpu,cpuacct/docker"]
        );
        assert!(paths(&mounts, cgroups, "freezer").is_empty(), "the root has no limits");
        let unified = Mounts::parse("28 21 0:25 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
        let own = "0::/system.slice/app.service\n";
        assert_eq!(
            paths(&unified, own, "cpu"),
            ["/sys/fs/cgroup/system.slice/app.service", "/sys/fs/cgroup/system.slice"]
        );
        assert!(paths(&unified, "0::/../../x\n", "cpu").is_empty());
    }

    #[test]
    fn limits_and_pressure_are_read() {
        assert_eq!(quota(Some(3000), Some(100_000)), Some(30));
        assert_eq!(quota(Some(-1), Some(100_000)), None);
        assert_eq!(quota(Some(1), Some(0)), None);
        let pressure = "some avg10=0.00 avg60=0.00 avg300=0.00 total=812\nfull total=3\n";
        assert_eq!(stalled(pressure), Some(812));
        assert_eq!(values("nr_periods 5\nx y\nfrozen 1\n").get("frozen"), Some(&1));
    }
}
