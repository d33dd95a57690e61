//! Names of pods and containers, looked up when one turns up that is not known yet.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use log::warn;

use super::{cri, kubelet::PodNames, workload::Workload};

/// How soon a name that was not found is looked for again.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is known of the node's pods, from the kubelet's files and, for what they leave open, from
/// the container runtime.
#[derive(Debug)]
pub(super) struct Names {
    root: PathBuf,
    known: PodNames,
    looked: Option<Instant>,
    /// Whether it has been said that names are missing.
    said: bool,
}

impl Default for Names {
    fn default() -> Self {
        Self::below("/")
    }
}

impl Names {
    /// With the node's root directory at `root`.
    pub(super) fn below(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), known: PodNames::default(), looked: None, said: false }
    }

    /// Fills in what is known of a process in a pod.
    pub(super) fn fill(&mut self, workload: &mut Workload) {
        if workload.pod.is_none() {
            return;
        }
        if !self.knows(workload) && self.looked.is_none_or(|looked| looked.elapsed() > PATIENCE) {
            self.look(workload);
        }
        let Workload { container, pod: Some(pod), .. } = workload else { return };
        if let Some(known) = self.known.pods.get(&pod.uid) {
            pod.clone_from(known);
        }
        let Some(container) = container else { return };
        if let Some(known) = self.known.containers.get(&container.id) {
            container.name = Some(known.name.clone());
            container.runtime = container.runtime.or(known.runtime);
        }
    }

    fn knows(&self, workload: &Workload) -> bool {
        let pod = workload.pod.as_ref().is_none_or(|pod| self.known.pods.contains_key(&pod.uid));
        let container = workload.container.as_ref();
        pod && container.is_none_or(|container| self.known.containers.contains_key(&container.id))
    }

    fn look(&mut self, wanted: &Workload) {
        self.looked = Some(Instant::now());
        self.known = PodNames::read(&self.root);
        if self.knows(wanted) {
            return;
        }
        let answer = match cri::find(&self.root) {
            Some((socket, runtime)) => cri::names(&socket, runtime).map_err(|e| format!("{e:#}")),
            None => Err("there is no CRI socket to ask".to_owned()),
        };
        match answer {
            Ok(more) => {
                self.known.pods.extend(more.pods);
                self.known.containers.extend(more.containers);
            }
            Err(why) if !self.said => {
                self.said = true;
                warn!("some pods stay without names, which are not in /var/log/pods: {why}");
            }
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9";

    fn workload() -> Workload {
        Workload::of_cgroup(&format!("/kubepods/besteffort/pod{UID}/{}", "a".repeat(64)))
    }

    #[test]
    fn a_pod_is_named_from_the_kubelets_files_alone() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join(format!("var/log/pods/shop_web-0_{UID}")))
            .unwrap();
        let mut names = Names::below(root.path());
        let mut named = workload();
        names.fill(&mut named);
        let pod = named.pod.unwrap();
        assert_eq!((pod.namespace.as_deref(), pod.name.as_deref()), (Some("shop"), Some("web-0")));
        assert_eq!(named.container.unwrap().name, None, "no link names it, no socket is there");
        assert!(names.said);
    }

    #[test]
    fn without_names_the_ids_remain() {
        let root = tempfile::tempdir().unwrap();
        let mut unnamed = workload();
        Names::below(root.path()).fill(&mut unnamed);
        assert_eq!(unnamed, workload());
    }
}
