//! What a control group's path tells of a process: its unit, its container, its pod.
//!
//! The shapes are those that systemd's and the cgroupfs driver of Docker, containerd, CRI-O and
//! Podman give their paths, on either version of control groups.

use serde::{Deserialize, Serialize};

/// What a process belongs to, so far as is known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workload {
    /// The systemd unit (`nginx.service`), if the container's scope is not meant.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub unit: Option<String>,
    /// The container, read from the control group's path.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub container: Option<Container>,
    /// The Kubernetes pod.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub pod: Option<Pod>,
}

/// A container, as far as its control group and the CRI socket describe it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Container {
    /// Its id: 64 hexadecimal digits.
    pub id: String,
    /// What runs it, where the path or the CRI socket tells.
    pub runtime: Option<Runtime>,
    /// Its name in its pod.
    pub name: Option<String>,
}

impl Container {
    /// As much of the id as people write.
    pub fn short_id(&self) -> &str {
        self.id.get(..12).unwrap_or(&self.id)
    }
}

/// What runs a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "container runtimes, named as they call themselves")]
pub enum Runtime {
    Docker,
    /// containerd, by itself or below Kubernetes.
    Containerd,
    CriO,
    Podman,
}

impl Runtime {
    /// Name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Containerd => "containerd",
            Self::CriO => "cri-o",
            Self::Podman => "podman",
        }
    }
}

/// A Kubernetes pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    /// The pod's UID, with dashes, from the control group's path.
    pub uid: String,
    /// Its namespace, where the node knows.
    pub namespace: Option<String>,
    /// Its name, where the node knows.
    pub name: Option<String>,
}

impl Workload {
    /// What the path says. Nested containers (a node in a container) yield the innermost.
    pub fn of_cgroup(path: &str) -> Self {
        let mut workload = Self::default();
        let mut in_kubepods = false;
        for component in path.split('/').filter(|component| !component.is_empty()) {
            in_kubepods |= component == "kubepods" || component.starts_with("kubepods.slice");
            if let Some(uid) = pod_uid(component) {
                workload.pod = Some(Pod { uid, namespace: None, name: None });
                workload.container = None;
            } else if let Some(container) = container(component) {
                workload.container = Some(container);
            } else if component.ends_with(".service") {
                workload.unit = Some(component.to_owned());
                workload.container = None;
            } else if component.ends_with(".scope") && !component.starts_with("libpod-") {
                workload.unit = Some(component.to_owned());
            }
        }
        if !in_kubepods {
            workload.pod = None;
        }
        // Docker's cgroupfs driver puts its containers below /docker.
        if let Some(container) = &mut workload.container
            && container.runtime.is_none()
            && path.starts_with("/docker/")
        {
            container.runtime = Some(Runtime::Docker);
        }
        workload
    }
}

/// `pod<UID>` of the cgroupfs driver, `kubepods-burstable-pod<UID>.slice` of systemd's, with the
/// UID's hyphens as underscores.
fn pod_uid(component: &str) -> Option<String> {
    let uid = match component.strip_suffix(".slice") {
        Some(slice) => slice.starts_with("kubepods").then(|| slice.rsplit_once("-pod"))??.1,
        None => component.strip_prefix("pod")?,
    };
    let is_uid = uid.len() >= 32
        && uid.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-' || byte == b'_');
    is_uid.then(|| uid.replace('_', "-"))
}

fn container(component: &str) -> Option<Container> {
    // systemd's driver writes `<prefix>-<id>.scope`; containerd's with cgroupfs may leave
    // `system.slice:<prefix>:<id>`.
    let name = component.strip_suffix(".scope").unwrap_or(component);
    let (prefix, id) = match name.rsplit_once(['-', ':']) {
        Some((prefix, id)) => (prefix.rsplit(':').next().unwrap_or(prefix), id),
        None => ("", name),
    };
    let runtime = match prefix {
        "docker" => Some(Runtime::Docker),
        "cri-containerd" | "containerd" | "nerdctl" => Some(Runtime::Containerd),
        "crio" => Some(Runtime::CriO),
        "libpod" => Some(Runtime::Podman),
        "" => None,
        // `libpod-conmon-<id>.scope` and `crio-conmon-<id>.scope` hold the container's monitor.
        _ => return None,
    };
    let is_id = id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_id.then(|| Container { id: id.to_owned(), runtime, name: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "3f1c7c1b8a0f4d1e9b2a6c5d7e8f90123456789abcdef0123456789abcdef012";
    const UID: &str = "0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9";

    /// Unit, container and pod.
    type Seen = (Option<String>, Option<(String, Option<Runtime>)>, Option<String>);

    fn seen(path: &str) -> Seen {
        let path = path.replace("U_D", &UID.replace('-', "_")).replace("UID", UID);
        let Workload { unit, container, pod } = Workload::of_cgroup(&path.replace("ID", ID));
        (unit, container.map(|c| (c.id, c.runtime)), pod.map(|pod| pod.uid))
    }

    fn runtime(path: &str) -> Option<Runtime> {
        let (_, container, _) = seen(path);
        let (id, runtime) = container.unwrap_or_else(|| panic!("no container in {path}"));
        assert_eq!(id, ID, "{path}");
        runtime
    }

    #[test]
    fn a_container_is_found_in_the_paths_of_every_runtime() {
        for (path, expected) in [
            // cgroup v2, systemd's driver
            ("/system.slice/docker-ID.scope", Some(Runtime::Docker)),
            (
                "/kubepods.slice/kubepods-podU_D.slice/cri-containerd-ID.scope",
                Some(Runtime::Containerd),
            ),
            (
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podU_D.slice/crio-ID.scope",
                Some(Runtime::CriO),
            ),
            ("/machine.slice/libpod-ID.scope/container", Some(Runtime::Podman)),
            (
                "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-ID.scope/container",
                Some(Runtime::Podman),
            ),
            ("/system.slice/nerdctl-ID.scope", Some(Runtime::Containerd)),
            // cgroup v1, or the cgroupfs driver
            ("/docker/ID", Some(Runtime::Docker)),
            ("/libpod_parent/libpod-ID", Some(Runtime::Podman)),
            ("/kubepods/besteffort/podUID/ID", None),
            ("/kubepods/podUID/crio-ID", Some(Runtime::CriO)),
            (
                "/system.slice/containerd.service/kubepods-burstable-podU_D.slice:cri-containerd:ID",
                Some(Runtime::Containerd),
            ),
            ("/k8s.io/ID", None),
            // As an agent in a container of its own sees others.
            ("/../../docker-ID.scope", Some(Runtime::Docker)),
        ] {
            assert_eq!(runtime(path), expected, "{path}");
        }
    }

    #[test]
    fn a_pods_uid_is_found_with_either_driver() {
        for path in [
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podU_D.slice/cri-containerd-ID.scope",
            "/kubepods.slice/kubepods-podU_D.slice/crio-ID.scope",
            "/kubepods/besteffort/podUID/ID",
            "/docker/ID/kubelet.slice/kubepods/podUID/ID",
        ] {
            assert_eq!(seen(path).2.as_deref(), Some(UID), "{path}");
        }
        assert_eq!(seen("/podUID/ID").2, None, "outside of kubepods it is just a name");
    }

    #[test]
    fn the_innermost_of_nested_things_counts() {
        assert_eq!(
            seen("/docker/ID/system.slice/nginx.service").0.as_deref(),
            Some("nginx.service")
        );
        assert_eq!(seen("/docker/ID/system.slice/nginx.service").1, None);
        let user = "/user.slice/user-0.slice/user@0.service/app.slice/web.service";
        assert_eq!(seen(user).0.as_deref(), Some("web.service"));
        assert_eq!(seen("/user.slice/session-3.scope").0.as_deref(), Some("session-3.scope"));
    }

    #[test]
    fn a_containers_monitor_is_not_in_the_container() {
        assert_eq!(seen("/machine.slice/libpod-conmon-ID.scope").1, None);
        assert_eq!(seen("/system.slice/crio-conmon-ID.scope").1, None);
        assert_eq!(seen("/system.slice/docker-short.scope").1, None);
        assert_eq!(seen("/"), (None, None, None));
    }
}
