//! Names of pods and containers, looked up when one turns up that is not known yet.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use log::warn;

use super::{attempt::Attempts, cri, kubelet::PodNames, workload::Workload};

/// How soon a name that was not found is looked for again.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long it may take to read the kubelet's files and to ask the container runtime.
const DEADLINE: Duration = Duration::from_secs(4);
/// For whom the node's own files are looked at: nobody has this id (`(uid_t)-1`).
const NODE: u32 = u32::MAX;

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

    /// Fills in what is known of a process in a pod; false if that is not everything.
    pub(super) fn fill(&self, workload: &mut Workload) -> bool {
        let is_known = self.known.has(workload);
        let Workload { container, pod: Some(pod), .. } = workload else { return true };
        if let Some(known) = self.known.pods.get(&pod.uid) {
            pod.clone_from(known);
        }
        if let Some(container) = container
            && let Some(known) = self.known.containers.get(&container.id)
        {
            container.name = Some(known.name.clone());
            container.runtime = container.runtime.or(known.runtime);
        }
        // What was looked for in vain a moment ago is not looked for again.
        is_known || !self.is_due()
    }

    /// Looks for what is not known, and fills it in; true if anything was found.
    pub(super) fn look_for(&mut self, workload: &mut Workload, attempts: &mut Attempts) -> bool {
        if workload.pod.is_none() || self.known.has(workload) || !self.is_due() {
            return false;
        }
        self.looked = Some(Instant::now());
        let (root, wanted) = (self.root.clone(), workload.clone());
        match attempts.run(NODE, DEADLINE, move || look(&root, &wanted)) {
            Ok((known, failure)) => {
                self.known = known;
                failure.into_iter().for_each(|why| self.say(&why));
            }
            Err(_) => self.say("neither the kubelet's files nor the CRI socket answer in time"),
        }
        self.fill(workload);
        self.known.has(workload)
    }

    fn is_due(&self) -> bool {
        self.looked.is_none_or(|looked| looked.elapsed() > PATIENCE)
    }

    fn say(&mut self, why: &str) {
        if !std::mem::replace(&mut self.said, true) {
            warn!("some pods have no name, because it is not in /var/log/pods: {why}");
        }
    }
}

impl PodNames {
    fn has(&self, workload: &Workload) -> bool {
        let pod = workload.pod.as_ref().is_none_or(|pod| self.pods.contains_key(&pod.uid));
        let container = workload.container.as_ref();
        pod && container.is_none_or(|container| self.containers.contains_key(&container.id))
    }
}

/// What the node knows, and why that is not all.
fn look(root: &Path, wanted: &Workload) -> (PodNames, Option<String>) {
    let mut known = PodNames::read(root);
    if known.has(wanted) {
        return (known, None);
    }
    let answer = match cri::find(root) {
        Some((socket, runtime)) => cri::names(&socket, runtime).map_err(|e| format!("{e:#}")),
        None => Err("there is no CRI socket".to_owned()),
    };
    match answer {
        Ok(more) => {
            known.pods.extend(more.pods);
            known.containers.extend(more.containers);
            (known, None)
        }
        Err(why) => (known, Some(why)),
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
        let all = names.look_for(&mut named, &mut Attempts::default());
        assert!(!all, "the container is not known");
        let pod = named.pod.unwrap();
        assert_eq!((pod.namespace.as_deref(), pod.name.as_deref()), (Some("shop"), Some("web-0")));
        assert_eq!(named.container.unwrap().name, None, "no link names it, no socket is there");
        assert!(names.said);
    }

    #[test]
    fn without_names_the_ids_remain() {
        let root = tempfile::tempdir().unwrap();
        let mut unnamed = workload();
        Names::below(root.path()).look_for(&mut unnamed, &mut Attempts::default());
        assert_eq!(unnamed, workload());
    }
}
