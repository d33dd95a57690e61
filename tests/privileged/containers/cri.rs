//! As much of the container runtime interface (kubernetes/cri-api `runtime/v1/api.proto`) as it takes
//! to run a pod the way a kubelet does; fields that are not wanted are left out.

use std::{collections::HashMap, path::Path};

use prost::Message;
use tokio::runtime::Runtime;
use tonic::{
    Request,
    client::Grpc,
    codegen::http::uri::PathAndQuery,
    transport::{Channel, Endpoint},
};
use tonic_prost::ProstCodec;

/// A runtime to ask.
pub struct Cri {
    waiting: Runtime,
    client: Grpc<Channel>,
}

impl Cri {
    pub fn connect(socket: &Path) -> Self {
        let waiting = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display())).unwrap();
        let channel = waiting.block_on(endpoint.connect()).unwrap();
        Self { waiting, client: Grpc::new(channel) }
    }

    /// Makes the pod; its id.
    pub fn run_sandbox(&mut self, pod: &Pod) -> Result<String, String> {
        let request = RunSandbox { config: Some(pod.clone()) };
        self.call::<_, Id>("RunPodSandbox", request).map(|answer| answer.id)
    }

    /// Runs a container of the pod; its id.
    pub fn run_container(
        &mut self,
        sandbox: &str,
        pod: &Pod,
        image: &str,
        name: &str,
        command: Vec<String>,
    ) -> Result<String, String> {
        let mut labels = pod.labels.clone();
        labels.insert("io.kubernetes.container.name".to_owned(), name.to_owned());
        let container = Container {
            metadata: Some(ContainerMetadata { name: name.to_owned() }),
            image: Some(ImageSpec { image: image.to_owned() }),
            command,
            labels,
        };
        let request = CreateContainer {
            sandbox: sandbox.to_owned(),
            config: Some(container),
            pod: Some(pod.clone()),
        };
        let id = self.call::<_, Id>("CreateContainer", request)?.id;
        self.call::<_, Nothing>("StartContainer", Id { id: id.clone() })?;
        Ok(id)
    }

    /// Ends the pod with all its containers.
    pub fn remove_sandbox(&mut self, sandbox: &str) -> Result<(), String> {
        for method in ["StopPodSandbox", "RemovePodSandbox"] {
            self.call::<_, Nothing>(method, Id { id: sandbox.to_owned() })?;
        }
        Ok(())
    }

    fn call<A, B>(&mut self, method: &str, request: A) -> Result<B, String>
    where
        A: Message + Send + Sync + 'static,
        B: Message + Default + Send + Sync + 'static,
    {
        let method = format!("/runtime.v1.RuntimeService/{method}");
        let method = PathAndQuery::try_from(method).unwrap();
        let codec: ProstCodec<A, B> = ProstCodec::default();
        let client = &mut self.client;
        let answer = self.waiting.block_on(async {
            client.ready().await.map_err(|error| error.to_string())?;
            client.unary(Request::new(request), method, codec).await.map_err(|s| s.to_string())
        });
        answer.map(tonic::Response::into_inner)
    }
}

/// A pod as a kubelet with the cgroupfs driver describes it.
pub fn pod((namespace, name): (&str, &str), uid: &str) -> Pod {
    let labels = [("name", name), ("namespace", namespace), ("uid", uid)];
    Pod {
        metadata: Some(PodMetadata {
            name: name.to_owned(),
            uid: uid.to_owned(),
            namespace: namespace.to_owned(),
        }),
        labels: labels
            .map(|(label, text)| (format!("io.kubernetes.pod.{label}"), text.to_owned()))
            .into(),
        linux: Some(LinuxPod { cgroup_parent: format!("/kubepods/besteffort/pod{uid}") }),
    }
}

/// PodSandboxConfig.
#[derive(Clone, PartialEq, Message)]
pub struct Pod {
    #[prost(message, optional, tag = "1")]
    metadata: Option<PodMetadata>,
    #[prost(map = "string, string", tag = "6")]
    labels: HashMap<String, String>,
    #[prost(message, optional, tag = "8")]
    linux: Option<LinuxPod>,
}

#[derive(Clone, PartialEq, Message)]
struct PodMetadata {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    uid: String,
    #[prost(string, tag = "3")]
    namespace: String,
}

#[derive(Clone, PartialEq, Message)]
struct LinuxPod {
    #[prost(string, tag = "1")]
    cgroup_parent: String,
}

#[derive(Clone, PartialEq, Message)]
struct RunSandbox {
    #[prost(message, optional, tag = "1")]
    config: Option<Pod>,
}

/// The answers with an id, and the requests about one, are alike.
#[derive(Clone, PartialEq, Message)]
struct Id {
    #[prost(string, tag = "1")]
    id: String,
}

#[derive(Clone, PartialEq, Message)]
struct Nothing {}

#[derive(Clone, PartialEq, Message)]
struct CreateContainer {
    #[prost(string, tag = "1")]
    sandbox: String,
    #[prost(message, optional, tag = "2")]
    config: Option<Container>,
    #[prost(message, optional, tag = "3")]
    pod: Option<Pod>,
}

/// ContainerConfig.
#[derive(Clone, PartialEq, Message)]
struct Container {
    #[prost(message, optional, tag = "1")]
    metadata: Option<ContainerMetadata>,
    #[prost(message, optional, tag = "2")]
    image: Option<ImageSpec>,
    #[prost(string, repeated, tag = "3")]
    command: Vec<String>,
    #[prost(map = "string, string", tag = "9")]
    labels: HashMap<String, String>,
}

#[derive(Clone, PartialEq, Message)]
struct ContainerMetadata {
    #[prost(string, tag = "1")]
    name: String,
}

#[derive(Clone, PartialEq, Message)]
struct ImageSpec {
    #[prost(string, tag = "1")]
    image: String,
}
