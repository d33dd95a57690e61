//! Listeners in containers that Docker, Podman and containerd's CRI really run, by what
//! `floodmark listeners --json` says of them.

#![expect(clippy::unwrap_used, reason = "a test's helpers may fail as the test may")]

mod cri;
mod engines;
mod image;

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use engines::{Container, Containerd, Dockerd, podman};
use image::Image;
use serde_json::{Value, json};

/// The listener at `port` as the agent tells of it, and what it said on the side. `cri` is a socket
/// that the agent finds where a node has it.
fn told(port: u16, cri: Option<&Path>) -> Option<(Value, String)> {
    let Some(agent) = std::env::var_os("FLOODMARK_AGENT").map(PathBuf::from) else {
        println!("skipped: FLOODMARK_AGENT does not say where the agent is");
        return None;
    };
    // A mount of the agent's own, whatever this machine has there.
    let script = "[ -z \"$1\" ] || { mkdir -p /run/containerd && mount --bind \"$1\" /run/containerd; } \
                  && exec \"$2\" listeners --json --port \"$3\"";
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", script, "sh"])
        .arg(cri.unwrap_or(Path::new("")))
        .arg(agent)
        .arg(port.to_string())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    println!("{said}");
    let listing: Value = serde_json::from_slice(&output.stdout).unwrap();
    let found = listing["listeners"].as_array().unwrap();
    assert_eq!(found.len(), 1, "{found:?}");
    Some((found[0].clone(), said))
}

/// What the agent says of who holds a container's only listener: of one process, which is in it.
fn workload<'a>(listener: &'a Value, container: &Container) -> &'a Value {
    let owners = listener["owners"].as_array().unwrap();
    let pids: Vec<&Value> = owners.iter().map(|owner| &owner["pid"]).collect();
    assert_eq!(pids, [&json!(container.pid)]);
    assert_eq!(owners[0]["command"], "httpd");
    &owners[0]["workload"]
}

#[test]
fn root_a_docker_containers_listener_has_its_id() {
    let Some(image) = Image::make("dockerd") else { return };
    let Some(docker) = Dockerd::start(&image) else { return };
    let Some(container) = docker.run(7101) else { return };
    let Some((listener, _)) = told(7101, None) else { return };
    let expected = json!({"id": container.id, "runtime": "docker", "name": null});
    assert_eq!(*workload(&listener, &container), json!({"container": expected}));
}

#[test]
fn root_a_podman_containers_listener_has_its_id() {
    let Some(image) = Image::make("podman") else { return };
    let Some(container) = podman(&image, 7102) else { return };
    let Some((listener, _)) = told(7102, None) else { return };
    let expected = json!({"id": container.id, "runtime": "podman", "name": null});
    assert_eq!(workload(&listener, &container)["container"], expected);
}

#[test]
fn root_a_pods_listener_has_the_names_that_the_runtime_knows() {
    let Some(image) = Image::make("containerd") else { return };
    let Some(mut containerd) = Containerd::start(&image) else { return };
    let Some(container) = containerd.run_pod(7103) else { return };
    let Some((listener, said)) = told(7103, Some(&containerd.socket_directory())) else { return };
    let (pod, uid) = (engines::POD, engines::UID);
    let named = json!({
        "container": {"id": container.id, "runtime": "containerd", "name": "web"},
        "pod": {"uid": uid, "namespace": pod.0, "name": pod.1},
    });
    assert_eq!(*workload(&listener, &container), named);
    assert!(!said.contains("pods have no name"));
    // The pod's own namespace, which containerd made for it.
    let name = listener["netns_name"].as_str().unwrap();
    assert!(name.starts_with("cni-"), "{name}");

    // Without the socket, ids are all that is known, and that is said once.
    let nowhere = tempfile::tempdir().unwrap();
    let (listener, said) = told(7103, Some(nowhere.path())).unwrap();
    let unnamed = json!({
        "container": {"id": container.id, "runtime": null, "name": null},
        "pod": {"uid": uid, "namespace": null, "name": null},
    });
    assert_eq!(*workload(&listener, &container), unnamed);
    assert_eq!(said.matches("some pods have no name").count(), 1, "{said}");
}
