//! Limits that a process or its control group has, in the terms of what runs it: Kubernetes, Docker,
//! Podman or systemd.

use super::holders::Holders;
use crate::{
    inventory::{Owner, Runtime, Server},
    shell::quoted,
};

/// What sets the limits of a process.
enum Manager {
    Kubernetes,
    /// The program, and the container.
    Container(&'static str, String),
    Unit(String),
    Unknown,
}

impl Manager {
    fn of(owner: Option<&Owner>) -> Self {
        let Some(owner) = owner else { return Self::Unknown };
        let workload = &owner.workload;
        if workload.pod.is_some() {
            return Self::Kubernetes;
        }
        if let Some(container) = &workload.container {
            let id = container.short_id().to_owned();
            return match container.runtime {
                Some(Runtime::Docker) => Self::Container("docker", id),
                Some(Runtime::Podman) => Self::Container("podman", id),
                _ => Self::Unknown,
            };
        }
        let unit = workload.unit.as_deref().filter(|unit| unit.ends_with(".service"));
        // A user's units are not the system manager's.
        let is_users = owner.cgroup.as_deref().is_some_and(|path| path.contains("/user@"));
        match unit.filter(|_| owner.pid != 1 && !is_users) {
            Some(unit) => Self::Unit(quoted(unit)),
            None => Self::Unknown,
        }
    }
}

/// Lets stopped processes go on.
pub(super) fn continue_all(holders: &Holders<'_>) -> Vec<String> {
    let pids: Vec<String> = holders.workers.iter().map(|owner| owner.pid.to_string()).collect();
    if pids.is_empty() { Vec::new() } else { vec![format!("kill -CONT {}", pids.join(" "))] }
}

/// Lets a frozen control group go on.
pub(super) fn thaw(holders: &Holders<'_>) -> Vec<String> {
    let Some(owner) = holders.first() else { return Vec::new() };
    vec![match Manager::of(Some(owner)) {
        Manager::Container(program, id) => format!("{program} unpause {id}"),
        Manager::Unit(unit) => format!("systemctl thaw {unit}"),
        Manager::Kubernetes | Manager::Unknown => format!(
            "# /proc/{}/cgroup names its group: write 0 to its cgroup.freeze (cgroup v2) or THAWED to \
             its freezer.state (v1)",
            owner.pid
        ),
    }]
}

/// Lets it open more files: now, and permanently.
pub(super) fn open_files(holders: &Holders<'_>, limit: u64) -> (Vec<String>, Vec<String>) {
    let now = holders
        .workers
        .iter()
        .map(|owner| format!("prlimit --pid {} --nofile={limit}", owner.pid))
        .collect();
    let first = holders.first();
    if first.is_some_and(|owner| owner.server == Some(Server::Nginx)) {
        let lines = [
            format!("worker_rlimit_nofile {limit};  # nginx.conf, at the top"),
            "# and in events:  worker_connections below half of that".to_owned(),
        ];
        return (now, lines.into());
    }
    let mut lines = vec![match Manager::of(first) {
        Manager::Kubernetes => {
            "# on the node:  LimitNOFILE= of containerd's or CRI-O's unit".to_owned()
        }
        Manager::Container(program, _) => {
            format!("# {program} run --ulimit nofile={limit}:{limit} …")
        }
        Manager::Unit(unit) => {
            format!("# systemctl edit {unit}, under [Service]:  LimitNOFILE={limit}")
        }
        Manager::Unknown => format!("# where it is started:  ulimit -n {limit}"),
    }];
    if limit > 1024 {
        lines.push("# not for a program that uses select(2), which takes 1024".to_owned());
    }
    (now, lines)
}

/// Lets its control group use so many processors: now, and permanently.
pub(super) fn cpu_limit(holders: &Holders<'_>, cores: f64) -> (Vec<String>, Vec<String>) {
    let percent = cores * 100.0;
    match Manager::of(holders.first()) {
        Manager::Kubernetes => (
            Vec::new(),
            vec![format!(
                "# of the container:  resources: {{limits: {{cpu: {:.0}m}}}}",
                cores * 1000.0
            )],
        ),
        Manager::Container(program, id) => (
            vec![format!("{program} update --cpus {cores:.1} {id}")],
            vec![format!("# {program} run --cpus {cores:.1} …")],
        ),
        Manager::Unit(unit) => {
            (Vec::new(), vec![format!("systemctl set-property {unit} CPUQuota={percent:.0}%")])
        }
        Manager::Unknown => (
            Vec::new(),
            vec![format!(
                "# of its control group:  {cores:.1} processors, as quota and period in cpu.max \
                 (cgroup v2) or cpu.cfs_quota_us (v1)"
            )],
        ),
    }
}

/// Gives it a greater share of busy processors.
pub(super) fn cpu_weight(holders: &Holders<'_>) -> Vec<String> {
    let line = match Manager::of(holders.first()) {
        Manager::Kubernetes => {
            "# of the container:  raise resources.requests.cpu, which is its weight".to_owned()
        }
        Manager::Container(program, id) => format!("{program} update --cpu-shares 4096 {id}"),
        Manager::Unit(unit) => format!("systemctl set-property {unit} CPUWeight=400"),
        Manager::Unknown => "# a greater cpu.weight of its control group, or renice".to_owned(),
    };
    vec![line, "top -b -n 1 | head -20  # who uses the processors".to_owned()]
}

/// Lets its control group use more memory: now, and permanently.
pub(super) fn memory_limit(holders: &Holders<'_>, bytes: u64) -> (Vec<String>, Vec<String>) {
    let mib = bytes >> 20;
    match Manager::of(holders.first()) {
        Manager::Kubernetes => (
            Vec::new(),
            vec![format!("# of the container:  resources: {{limits: {{memory: {mib}Mi}}}}")],
        ),
        Manager::Container(program, id) => (
            vec![format!("{program} update --memory {mib}m --memory-swap -1 {id}")],
            vec![format!("# {program} run --memory {mib}m …")],
        ),
        Manager::Unit(unit) => {
            (Vec::new(), vec![format!("systemctl set-property {unit} MemoryMax={mib}M")])
        }
        Manager::Unknown => (
            Vec::new(),
            vec![format!(
                "# of its control group:  {mib} MiB in memory.max (cgroup v2) or \
                 memory.limit_in_bytes (v1)"
            )],
        ),
    }
}
