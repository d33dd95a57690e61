//! Commands for a place: a namespace to enter, a container or unit to set up anew.

use crate::{
    inventory::{Owner, Runtime},
    kernel::NetnsId,
    verdict::report::Report,
};

/// What stands before a command so that it runs in the namespace: that of a process, or whatever
/// file leads there; nothing for the agent's own.
pub(super) fn enter(report: &Report, netns: NetnsId, owner: Option<&Owner>) -> String {
    let entrance = report.settings.get(&netns).map(|known| known.entrance.as_deref());
    match (owner, entrance) {
        (_, Some(None)) => String::new(),
        (Some(owner), _) => format!("nsenter -t {} -n ", owner.pid),
        (None, Some(Some(file))) => format!("nsenter --net={file} "),
        (None, None) => String::new(),
    }
}

/// Sets a kernel parameter now, and says how to keep it.
pub(super) fn sysctl(
    report: &Report,
    netns: NetnsId,
    owner: Option<&Owner>,
    (name, value): (&str, &str),
) -> Vec<String> {
    let enter = enter(report, netns, owner);
    let value_now = if value.contains(' ') { format!("\"{value}\"") } else { value.to_owned() };
    let mut commands = vec![format!("{enter}sysctl -w {name}={value_now}")];
    commands.extend(keep(owner, &enter, name, value));
    commands
}

/// How a parameter outlives its namespace.
fn keep(owner: Option<&Owner>, enter: &str, name: &str, value: &str) -> Vec<String> {
    let workload = owner.map(|owner| &owner.workload);
    let container = workload.and_then(|workload| workload.container.as_ref());
    if workload.is_some_and(|workload| workload.pod.is_some()) {
        let mut lines = vec![format!(
            "# keep it, in the pod's securityContext:  sysctls: [{{name: {name}, value: \"{value}\"}}]"
        )];
        // https://kubernetes.io/docs/tasks/administer-cluster/sysctl-cluster: the safe set.
        let safe = ["net.ipv4.ip_local_port_range", "net.ipv4.tcp_syncookies"];
        if !safe.contains(&name) {
            lines.push(format!("# and on the node:  kubelet --allowed-unsafe-sysctls={name}"));
        }
        return lines;
    }
    match container.map(|container| container.runtime) {
        Some(Some(Runtime::Podman)) => {
            vec![format!("# keep it:  podman run --sysctl {name}=\"{value}\" …")]
        }
        Some(Some(Runtime::Docker)) => {
            vec![format!("# keep it:  docker run --sysctl {name}=\"{value}\" …")]
        }
        Some(_) => vec![format!("# keep it:  in the container's sysctls, {name}={value}")],
        None if enter.is_empty() => {
            vec![format!("echo '{name} = {value}' > /etc/sysctl.d/60-floodmark.conf  # keep it")]
        }
        None => vec!["# keep it:  wherever this namespace is set up".to_owned()],
    }
}

/// How its owner is made to begin anew.
pub(super) fn restart(owner: Option<&Owner>) -> Option<String> {
    let workload = &owner?.workload;
    if let Some(pod) = &workload.pod {
        let name = pod.name.as_deref().unwrap_or("…");
        let namespace = pod.namespace.as_deref().unwrap_or("…");
        return Some(format!(
            "kubectl -n {namespace} delete pod {name}  # its controller makes a new one"
        ));
    }
    if let Some(container) = &workload.container {
        let program = match container.runtime {
            Some(Runtime::Podman) => "podman",
            Some(Runtime::Docker) => "docker",
            _ => return Some(format!("# restart container {}", container.short_id())),
        };
        return Some(format!("{program} restart {}", container.short_id()));
    }
    let unit = workload.unit.as_deref().filter(|unit| unit.ends_with(".service"))?;
    Some(format!("systemctl restart {unit}"))
}

/// Its owner in a few words.
pub(super) fn who(owner: Option<&Owner>) -> String {
    owner.map_or_else(
        || "the application".to_owned(),
        |owner| format!("{} (pid {})", owner.command, owner.pid),
    )
}
