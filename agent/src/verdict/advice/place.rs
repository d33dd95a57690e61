//! Commands for a place: a namespace to enter, a container or unit to set up anew.

use super::holders::{Activation, Holders};
use crate::{
    inventory::{Owner, Runtime, Workload, socket_unit::user_of},
    kernel::NetnsId,
    shell::quoted,
    verdict::report::Report,
};

/// Programs and units whose restart ends or hampers other people's work: those that run containers
/// and logins, and the network's.
const SHARED: &[&str] = &[
    "containerd",
    "cri-o",
    "crio",
    "dbus",
    "dbus-broker",
    "docker",
    "dockerd",
    "k3s",
    "k3s-agent",
    "kubelet",
    "libvirtd",
    "NetworkManager",
    "podman",
    "rke2-agent",
    "rke2-server",
    "rpcbind",
    "ssh",
    "sshd",
    "virtqemud",
];

/// Programs that listen on a host's port for a container.
const PUBLISHERS: &[&str] =
    &["docker-proxy", "rootlessport", "rootlesskit", "slirp4netns", "pasta"];

/// What stands before a command so that it runs in the namespace: that of a process, or whatever
/// file leads there; nothing for the agent's own.
pub(super) fn enter(report: &Report, netns: NetnsId, owner: Option<&Owner>) -> String {
    let entrance = report.settings.get(&netns).map(|known| known.entrance.as_deref());
    match (owner, entrance) {
        (_, Some(None)) => String::new(),
        (Some(owner), _) => format!("nsenter -t {} -n ", owner.pid),
        (None, Some(Some(file))) => format!("nsenter --net={} ", quoted(file)),
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
    let value_now = if value.contains(' ') { format!("\"{value}\"") } else { value.to_owned() };
    // Without a way in, the command would change the host's own namespace instead.
    if owner.is_none() && !report.settings.contains_key(&netns) {
        return vec![format!(
            "# in network namespace {}:  sysctl -w {name}={value_now}",
            netns.name()
        )];
    }
    let enter = enter(report, netns, owner);
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
            "# keep it, in the pod's securityContext:  sysctls: [{{name: {name}, value: \
             \"{value}\"}}]"
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
            // A file for each parameter, so that none replaces another.
            let file = format!("/etc/sysctl.d/60-floodmark-{}.conf", name.replace('.', "-"));
            vec![format!("echo '{name} = {value}' > {file}  # keep it")]
        }
        None => vec!["# keep it:  in the set-up of this namespace".to_owned()],
    }
}

/// How those who accept are made to listen anew.
pub(super) fn restart(holders: &Holders<'_>) -> Vec<String> {
    if let Some(activation) = holders.activation {
        return listen_anew(activation, holders.first());
    }
    let who = holders.names();
    let unknown = || format!("# then restart {who}: the kernel reads the limit at listen(2)");
    let Some(owner) = holders.first() else { return vec![unknown()] };
    vec![restart_of(owner).unwrap_or_else(unknown)]
}

/// How one process is begun anew by what runs it; none where nothing is known to, or a person has to
/// decide.
pub(super) fn restart_of(owner: &Owner) -> Option<String> {
    let workload = &owner.workload;
    let unit = workload.unit.as_deref().and_then(|unit| unit.strip_suffix(".service"));
    if PUBLISHERS.contains(&owner.command.as_str()) {
        return Some("# restart the container that publishes this port: docker ps".to_owned());
    }
    if let Some(pod) = &workload.pod {
        let (Some(namespace), Some(name)) = (&pod.namespace, &pod.name) else {
            return Some(format!("# delete the pod with the UID {}: kubectl get pod -A", pod.uid));
        };
        return Some(format!(
            "kubectl -n {} delete pod {}  # only if a controller owns it, which then makes a new \
             one",
            quoted(namespace),
            quoted(name)
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
    let unit = unit.filter(|_| owner.pid != 1)?;
    let is_shared = SHARED.contains(&unit)
        || SHARED.contains(&owner.command.as_str())
        || unit.starts_with("systemd-")
        || unit.starts_with("user@");
    if is_shared {
        return Some(format!(
            "# plan the restart of {unit}.service with the operators of this host: other services \
             depend on it"
        ));
    }
    Some(format!("{} restart {}", systemctl(owner)?, quoted(&format!("{unit}.service"))))
}

/// `systemctl` as it reaches the manager of a process: the host's, a user's or a container's; none
/// where it is in a container that no command here enters.
pub(super) fn systemctl(owner: &Owner) -> Option<String> {
    let Some(cgroup) = owner.cgroup.as_deref() else { return Some("systemctl".to_owned()) };
    let ends = cgroup.match_indices('/').map(|(at, _)| at).chain([cgroup.len()]);
    let container = ends.rev().find_map(|end| Workload::of_cgroup(&cgroup[..end]).container);
    let user = user_of(cgroup).map(|uid| format!(" --user --machine={uid}@")).unwrap_or_default();
    let enter = match container.as_ref().map(|container| (container.runtime, container.short_id()))
    {
        None => String::new(),
        Some((Some(Runtime::Docker), id)) => format!("docker exec {id} "),
        Some((Some(Runtime::Podman), id)) => format!("podman exec {id} "),
        Some(_) => return None,
    };
    Some(format!("{enter}systemctl{user}"))
}

/// Sets the backlog of a socket unit.
pub(super) fn set_backlog(activation: Activation<'_>, backlog: u32) -> Vec<String> {
    let Some((unit, systemctl)) = reached(activation) else {
        return vec![
            find_unit(activation),
            format!(
                "# Backlog={backlog} in [Socket] of a drop-in of that unit, then daemon-reload"
            ),
        ];
    };
    let manager = activation.manager.cgroup.as_deref();
    let scope = if manager.and_then(user_of).is_some() { "user" } else { "system" };
    // In a container, in front of its shell as well.
    let enter = systemctl.split("systemctl").next().unwrap_or_default();
    let directory = quoted(&format!("/etc/systemd/{scope}/{unit}.d"));
    let shell = if enter.is_empty() { "sh" } else { &format!("{enter}sh") };
    let file =
        "mkdir -p \"$0\" && printf \"[Socket]\\nBacklog=%s\\n\" \"$1\" > \"$0/backlog.conf\"";
    vec![
        format!("{shell} -c '{file}' {directory} {backlog}  # systemd: default somaxconn"),
        format!("{systemctl} daemon-reload"),
    ]
}

/// Has systemd close the socket and listen anew. kernel's limit is taken at listen(2), and systemd
/// starts no socket unit whose service runs (`socket_start`: "already active, refusing"). The socket
/// goes first: else the next connection starts the service again.
fn listen_anew(activation: Activation<'_>, worker: Option<&Owner>) -> Vec<String> {
    let Some((unit, systemctl)) = reached(activation) else {
        return vec![
            "# then stop the socket unit and its service, and start the socket unit again"
                .to_owned(),
        ];
    };
    let socket = quoted(unit);
    let service = activation.unit.and_then(|unit| unit.service.as_deref()).map(quoted);
    let mut commands = Vec::new();
    if let Some(service) = &service {
        commands.push(format!(
            "{systemctl} stop {socket} {service}  # both: a socket unit does not start while its \
             service runs; meanwhile clients are refused"
        ));
    }
    commands.push(format!("{systemctl} restart {socket}"));
    if let Some(service) = service.filter(|_| worker.is_some()) {
        commands.push(format!("{systemctl} start {service}"));
    }
    commands
}

/// What to look at where systemd holds a socket and nobody accepts from it.
pub(super) fn look_at_activation(activation: Activation<'_>) -> Vec<String> {
    let Some((unit, systemctl)) = reached(activation) else { return vec![find_unit(activation)] };
    let mut commands = vec![format!("{systemctl} status {}", quoted(unit))];
    if let Some(service) = activation.unit.and_then(|unit| unit.service.as_deref()) {
        commands.push(format!(
            "{systemctl} status {}  # does it start, does it accept?",
            quoted(service)
        ));
    }
    commands
}

fn reached(activation: Activation<'_>) -> Option<(&str, String)> {
    Some((activation.unit?.name.as_str(), systemctl(activation.manager)?))
}

fn find_unit(activation: Activation<'_>) -> String {
    let systemctl = systemctl(activation.manager);
    match systemctl {
        Some(systemctl) => format!("{systemctl} list-sockets --all  # which unit listens there?"),
        None => "# in the container: systemctl list-sockets --all".to_owned(),
    }
}
