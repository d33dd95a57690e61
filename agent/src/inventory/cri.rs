//! Names of pods and containers from the container runtime's CRI socket: the one call
//! `runtime.v1.RuntimeService/ListContainers`. The kubelet's own labels on each container tell the
//! pod, so nothing else has to be asked.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, anyhow};
use tonic::{codegen::http::uri::PathAndQuery, transport::Endpoint};
use tonic_prost::ProstCodec;

use super::{
    kubelet::{ContainerName, PodNames},
    workload::{Pod, Runtime},
};

/// Where the runtimes' sockets are by default, below the root.
const SOCKETS: [(&str, Runtime); 4] = [
    ("run/containerd/containerd.sock", Runtime::Containerd),
    ("run/k3s/containerd/containerd.sock", Runtime::Containerd),
    ("run/crio/crio.sock", Runtime::CriO),
    ("run/cri-dockerd.sock", Runtime::Docker),
];
/// A runtime in trouble must not hold the agent up.
const TIMEOUT: Duration = Duration::from_secs(2);

/// The first CRI socket there is below `root`.
pub(super) fn find(root: &Path) -> Option<(PathBuf, Runtime)> {
    let sockets = SOCKETS.iter().map(|(path, runtime)| (root.join(path), *runtime));
    sockets.into_iter().find(|(path, _)| path.exists())
}

/// What the runtime behind `socket` knows of its containers.
pub(super) fn names(socket: &Path, runtime: Runtime) -> Result<PodNames> {
    let asked = move || -> Result<PodNames> {
        let waiting = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let containers = waiting
            .block_on(async { tokio::time::timeout(TIMEOUT, list(socket)).await })
            .context("no answer in time")??;
        Ok(named(containers, runtime))
    };
    // A runtime may not be started on a thread that is another one's.
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("cri".to_owned());
        let handle = thread.spawn_scoped(scope, asked).context("starting a thread")?;
        handle.join().map_err(|_| anyhow!("the container runtime's thread panicked"))?
    })
    .with_context(|| format!("querying the container runtime at {}", socket.display()))
}

async fn list(socket: &Path) -> Result<Vec<Container>> {
    let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display()))?;
    let channel = endpoint.connect().await.map_err(|error| anyhow!("{error:?}"))?;
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.context("the runtime is not ready")?;
    let method = PathAndQuery::from_static("/runtime.v1.RuntimeService/ListContainers");
    let codec: ProstCodec<ListContainersRequest, ListContainersResponse> = ProstCodec::default();
    let request = tonic::Request::new(ListContainersRequest {});
    let answer = client.unary(request, method, codec).await;
    let answer = answer.map_err(|status| anyhow!("{}: {}", status.code(), status.message()))?;
    Ok(answer.into_inner().containers)
}

/// A container's names are those that the kubelet labelled it with.
fn named(containers: Vec<Container>, runtime: Runtime) -> PodNames {
    let mut names = PodNames::default();
    for mut container in containers {
        let mut label = |name: &str| container.labels.remove(&format!("io.kubernetes.{name}"));
        let Some(uid) = label("pod.uid") else { continue };
        let pod =
            Pod { uid: uid.clone(), namespace: label("pod.namespace"), name: label("pod.name") };
        let name = label("container.name").unwrap_or_default();
        names.pods.insert(uid, pod.clone());
        let runtime = Some(runtime);
        names.containers.insert(container.id, ContainerName { name, pod, runtime });
    }
    names
}

/// kubernetes/cri-api `runtime/v1/api.proto`; fields that are not wanted are left out.
#[derive(Clone, PartialEq, prost::Message)]
struct ListContainersRequest {}

#[derive(Clone, PartialEq, prost::Message)]
struct ListContainersResponse {
    #[prost(message, repeated, tag = "1")]
    containers: Vec<Container>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Container {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(map = "string, string", tag = "8")]
    labels: HashMap<String, String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_is_named_by_the_kubelets_labels() {
        let label =
            |(name, value): (&str, &str)| (format!("io.kubernetes.{name}"), value.to_owned());
        let labels = [
            ("pod.uid", "u"),
            ("pod.name", "web-0"),
            ("pod.namespace", "shop"),
            ("container.name", "nginx"),
        ];
        let ours = Container { id: "c".to_owned(), labels: labels.map(label).into() };
        let others = Container { id: "d".to_owned(), labels: HashMap::new() };
        let names = named(vec![ours, others], Runtime::CriO);
        let pod = Pod {
            uid: "u".to_owned(),
            namespace: Some("shop".to_owned()),
            name: Some("web-0".to_owned()),
        };
        assert_eq!(names.pods["u"], pod);
        let runtime = Some(Runtime::CriO);
        let name = "nginx".to_owned();
        assert_eq!(
            names.containers,
            [("c".to_owned(), ContainerName { name, pod, runtime })].into()
        );
    }

    #[test]
    fn nobody_behind_a_socket_is_an_error_of_one_line() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(find(root.path()), None);
        let path = root.path().join("run/crio/crio.sock");
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let (found, runtime) = find(root.path()).unwrap();
        assert_eq!((&found, runtime), (&path, Runtime::CriO));
        let error = format!("{:#}", names(&found, runtime).unwrap_err());
        assert!(error.starts_with("querying the container runtime at ") && !error.contains('\n'));
    }

    /// A process that ends with the value.
    struct Running(std::process::Child);

    impl Drop for Running {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    /// It has no pods, but it understands the question.
    #[test]
    fn root_a_real_containerd_answers() {
        let root = tempfile::tempdir().unwrap();
        let below = |path: &str| root.path().join(path);
        std::fs::create_dir_all(below("run/containerd")).unwrap();
        std::fs::write(below("config.toml"), "version = 2\n").unwrap();
        let containerd = std::process::Command::new("containerd")
            .arg("--config")
            .arg(below("config.toml"))
            .arg("--root")
            .arg(below("root"))
            .arg("--state")
            .arg(below("state"))
            .arg("--address")
            .arg(below("run/containerd/containerd.sock"))
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn();
        let Ok(containerd) = containerd.map(Running) else {
            println!("skipped: containerd is not here");
            return;
        };
        let answer = (0..100).find_map(|_| {
            thread::sleep(Duration::from_millis(200));
            let (socket, runtime) = find(root.path())?;
            names(&socket, runtime).ok()
        });
        drop(containerd);
        assert_eq!(answer, Some(PodNames::default()));
    }
}
