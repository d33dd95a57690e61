//! Names of pods and containers from the files that the kubelet keeps for log collectors, which need
//! neither the API server nor the container runtime.
//!
//! `/var/log/pods/NAMESPACE_NAME_UID` is a directory for each pod (kubelet: `BuildPodLogsDirectory`),
//! `/var/log/containers/POD_NAMESPACE_CONTAINER-ID.log` a link for each container (`LogSymlink`).
//! None of a namespace, a pod's or a container's name can hold an underscore (RFC 1123).

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::Path,
};

use super::workload::{Pod, Runtime};

/// What a node knows of its pods, by pod UID and by container id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodNames {
    /// By UID.
    pub pods: HashMap<String, Pod>,
    /// By container id.
    pub containers: HashMap<String, ContainerName>,
}

/// A container's name and its pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerName {
    /// Its name in the pod.
    pub name: String,
    pub pod: Pod,
    /// What runs it, where that is known.
    pub runtime: Option<Runtime>,
}

impl PodNames {
    /// Reads the kubelet's directories below `root`; a node without Kubernetes has none.
    pub fn read(root: &Path) -> Self {
        let mut names = Self::default();
        for entry in names_in(&root.join("var/log/pods")) {
            if let Some(pod) = pod_of_directory(&entry) {
                names.pods.insert(pod.uid.clone(), pod);
            }
        }
        let uids: BTreeMap<(String, String), String> = names
            .pods
            .values()
            .filter_map(|pod| Some(((pod.namespace.clone()?, pod.name.clone()?), pod.uid.clone())))
            .collect();
        for entry in names_in(&root.join("var/log/containers")) {
            let Some((id, name, namespace, pod)) = container_of_link(&entry) else { continue };
            let uid = uids.get(&(namespace.clone(), pod.clone())).cloned().unwrap_or_default();
            let pod = Pod { uid, namespace: Some(namespace), name: Some(pod) };
            names.containers.insert(id, ContainerName { name, pod, runtime: None });
        }
        names
    }
}

fn names_in(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

fn pod_of_directory(name: &str) -> Option<Pod> {
    let mut parts = name.split('_');
    let (namespace, pod, uid) = (parts.next()?, parts.next()?, parts.next()?);
    let is_pod = parts.next().is_none() && !namespace.is_empty() && !pod.is_empty();
    is_pod.then(|| Pod {
        uid: uid.to_owned(),
        namespace: Some(namespace.to_owned()),
        name: Some(pod.to_owned()),
    })
}

/// Id, container, namespace and pod.
fn container_of_link(name: &str) -> Option<(String, String, String, String)> {
    let (rest, id) = name.strip_suffix(".log")?.rsplit_once('-')?;
    let mut parts = rest.split('_');
    let (pod, namespace, container) = (parts.next()?, parts.next()?, parts.next()?);
    let is_link = parts.next().is_none() && id.len() == 64;
    is_link.then(|| (id.into(), container.into(), namespace.into(), pod.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9";

    #[test]
    fn reads_what_the_kubelet_keeps() {
        let root = tempfile::tempdir().unwrap();
        let id = "a".repeat(64);
        let link = format!("web-7d4-x2x_shop_nginx-{id}.log");
        fs::create_dir_all(root.path().join(format!("var/log/pods/shop_web-7d4-x2x_{UID}")))
            .unwrap();
        fs::create_dir_all(root.path().join("var/log/pods/not a pod")).unwrap();
        fs::create_dir_all(root.path().join("var/log/containers")).unwrap();
        fs::write(root.path().join("var/log/containers").join(link), "").unwrap();
        fs::write(root.path().join("var/log/containers/other.log"), "").unwrap();
        let names = PodNames::read(root.path());
        let pod = Pod {
            uid: UID.to_owned(),
            namespace: Some("shop".to_owned()),
            name: Some("web-7d4-x2x".to_owned()),
        };
        assert_eq!(names.pods, HashMap::from([(UID.to_owned(), pod.clone())]));
        let container = ContainerName { name: "nginx".to_owned(), pod, runtime: None };
        assert_eq!(names.containers, HashMap::from([(id, container)]));
    }

    #[test]
    fn a_node_without_kubernetes_has_no_names() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(PodNames::read(root.path()), PodNames::default());
    }
}
