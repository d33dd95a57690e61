//! Docker, Podman and containerd, each with its data, state and socket in a directory of its own.

use std::{
    ffi::OsStr,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::Duration,
};

use super::{
    cri::{self, Cri},
    image::{Image, NAME},
};

/// Namespace and name of the pod that is run.
pub const POD: (&str, &str) = ("shop", "web-0");
pub const UID: &str = "0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9";

const HTTPD: &str = "/bin/httpd";

/// A container that runs.
pub struct Container {
    pub id: String,
    /// Its only process.
    pub pid: u32,
    remove: Option<Command>,
}

impl Container {
    /// Waits until its server runs, which is the only process in the host's own listing with that
    /// argument.
    fn running(id: String, port: u16, remove: Option<Command>) -> Self {
        let mut container = Self { id, pid: 0, remove };
        let is_it = |pid: &u32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line == format!("{HTTPD}\0-f\0-p\0{port}\0").as_bytes()
        };
        let found = until(|| floodmark::kernel::netns::pids().find(is_it));
        container.pid = found.expect("the container's server runs");
        // Until it listens.
        sleep(Duration::from_millis(300));
        container
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if let Some(remove) = &mut self.remove {
            let _ = remove.stdout(Stdio::null()).stderr(Stdio::null()).status();
        }
    }
}

/// Asks until there is an answer, for ten seconds.
fn until<T>(mut answer: impl FnMut() -> Option<T>) -> Option<T> {
    (0..50).find_map(|_| {
        sleep(Duration::from_millis(200));
        answer()
    })
}

/// What a command prints; `None`, with its words printed, where it fails.
fn output(what: &str, command: &mut Command) -> Option<String> {
    let output = match command.output() {
        Ok(output) => output,
        Err(error) => {
            println!("skipped: {what}: {error}");
            return None;
        }
    };
    if !output.status.success() {
        println!("skipped: {what} fails: {}", String::from_utf8_lossy(&output.stderr));
        return None;
    }
    Some(String::from_utf8(output.stdout).unwrap().trim_end().to_owned())
}

/// A daemon, ended with the value.
struct Daemon {
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// Starts it, and waits until it `answers`.
    fn start(command: &mut Command, log: PathBuf, answers: impl Fn() -> bool) -> Option<Self> {
        let to = File::create(&log).unwrap();
        let child = command.stdin(Stdio::null()).stdout(to.try_clone().unwrap()).stderr(to).spawn();
        let name = command.get_program().display();
        let Ok(child) = child else {
            println!("skipped: {name} is not here");
            return None;
        };
        let daemon = Self { child, log };
        if until(|| answers().then_some(())).is_none() {
            let said = fs::read_to_string(&daemon.log).unwrap_or_default();
            println!("skipped: {name} does not run on this machine:\n{said}");
            return None;
        }
        Some(daemon)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        use nix::{
            sys::signal::{Signal, kill},
            unistd::Pid,
        };
        let _ = kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGTERM);
        let _ = self.child.wait();
    }
}

/// A Docker daemon without networks.
pub struct Dockerd {
    host: String,
    _daemon: Daemon,
}

impl Dockerd {
    /// Starts it with the image; `None`, with the reason printed, where it cannot run.
    pub fn start(image: &Image) -> Option<Self> {
        let host = format!("unix://{}", image.at("docker.sock").display());
        let mut command = Command::new("dockerd");
        for (flag, path) in
            [("--data-root", "data"), ("--exec-root", "exec"), ("--pidfile", "docker.pid")]
        {
            command.arg(flag).arg(image.at(path));
        }
        command.args(["--host", &host, "--bridge=none", "--iptables=false", "--ip6tables=false"]);
        command.args(["--ip-forward=false", "--ip-masq=false", "--storage-driver=vfs"]);
        let asked = || docker(&host, ["info"]).output().is_ok_and(|answer| answer.status.success());
        let daemon = Daemon::start(&mut command, image.at("dockerd.log"), asked)?;
        let docker = Self { host, _daemon: daemon };
        output("docker load", docker.command(["load", "-i"]).arg(image.archive()))?;
        Some(docker)
    }

    /// Runs a container that listens on `port`.
    pub fn run(&self, port: u16) -> Option<Container> {
        let run = ["run", "-d", "--network=none", NAME, HTTPD, "-f", "-p", &port.to_string()];
        let id = output("docker run", &mut self.command(run))?;
        let remove = self.command(["rm", "-f", &id]);
        Some(Container::running(id, port, Some(remove)))
    }

    fn command<const N: usize>(&self, arguments: [&str; N]) -> Command {
        docker(&self.host, arguments)
    }
}

/// Debian's, whatever else is called so.
fn docker<const N: usize>(host: &str, arguments: [&str; N]) -> Command {
    let mut command = Command::new("/usr/bin/docker");
    command.args(["--host", host]).args(arguments);
    command
}

/// A container that Podman runs and that listens on `port`; `None`, with the reason printed, where
/// Podman cannot.
pub fn podman(image: &Image, port: u16) -> Option<Container> {
    let podman = |arguments: &[&str]| {
        let mut command = Command::new("podman");
        command.arg("--root").arg(image.at("podman")).arg("--runroot").arg(image.at("run"));
        command.args(["--cgroup-manager=cgroupfs", "--events-backend=file"]);
        command.args(["--runtime=runc", "--storage-driver=vfs"]).args(arguments);
        command
    };
    output("podman load", podman(&["load", "-i"]).arg(image.archive()))?;
    // Its defaults are beyond what a machine without CAP_SYS_RESOURCE grants.
    let limits = ["--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024"];
    let server = [NAME, HTTPD, "-f", "-p", &port.to_string()];
    let run = [&["run", "-d", "--network=none"][..], &limits, &server].concat();
    let id = output("podman run", &mut podman(&run))?;
    let remove = podman(&["rm", "-f", "-t", "0", &id]);
    Some(Container::running(id, port, Some(remove)))
}

/// containerd with its CRI plugin, and at most one pod, as a kubelet has it run.
pub struct Containerd {
    directory: PathBuf,
    cri: Cri,
    sandbox: Option<String>,
    _daemon: Daemon,
}

impl Containerd {
    /// Starts it with the image; `None`, with the reason printed, where it cannot run.
    pub fn start(image: &Image) -> Option<Self> {
        let directory = image.at("containerd");
        let at = |path: &str| directory.join(path);
        for path in ["socket", "cni", "bin"] {
            fs::create_dir_all(at(path)).unwrap();
        }
        fs::write(at("config.toml"), configuration(&directory)).unwrap();
        let networks = r#"{"cniVersion":"0.4.0","name":"lab","plugins":[{"type":"lab"}]}"#;
        fs::write(at("cni/lab.conflist"), networks).unwrap();
        // containerd asks for a plugin of that name besides.
        for plugin in ["lab", "loopback"] {
            network_plugin(&at("bin").join(plugin));
        }
        let socket = at("socket/containerd.sock");
        let mut command = Command::new("containerd");
        let paths = [
            ("--config", at("config.toml")),
            ("--root", at("root")),
            ("--state", at("state")),
            ("--address", socket.clone()),
        ];
        for (flag, path) in &paths {
            command.arg(flag).arg(path);
        }
        let ctr = |arguments: &[&OsStr]| {
            let mut command = Command::new("ctr");
            command.arg("--address").arg(&socket).args(["--namespace", "k8s.io"]).args(arguments);
            command
        };
        let is_there = || ctr(&["version".as_ref()]).output().is_ok_and(|a| a.status.success());
        let daemon = Daemon::start(&mut command, image.at("containerd.log"), is_there)?;
        let archive = image.archive();
        let import = ["images", "import", "--snapshotter", "native"].map(OsStr::new);
        output("ctr import", ctr(&import).arg(&archive))?;
        let cri = Cri::connect(&socket);
        Some(Self { directory, cri, sandbox: None, _daemon: daemon })
    }

    /// Where its socket is, called as on a node.
    pub fn socket_directory(&self) -> PathBuf {
        self.directory.join("socket")
    }

    /// Runs the pod with one container, `web`, that listens on `port`.
    pub fn run_pod(&mut self, port: u16) -> Option<Container> {
        let pod = cri::pod(POD, UID);
        let sandbox = match self.cri.run_sandbox(&pod) {
            Ok(sandbox) => sandbox,
            Err(why) => {
                println!("skipped: containerd runs no pods here: {why}");
                return None;
            }
        };
        self.sandbox = Some(sandbox.clone());
        let server = [HTTPD, "-f", "-p", &port.to_string()].map(str::to_owned);
        let id = self.cri.run_container(&sandbox, &pod, NAME, "web", server.into()).unwrap();
        Some(Container::running(id, port, None))
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        if let Some(sandbox) = self.sandbox.take() {
            let _ = self.cri.remove_sandbox(&sandbox);
        }
        // The kubelet's to remove, were there one; groups that others use stay.
        let tidy = format!(
            "find /sys/fs/cgroup -depth -path '*/kubepods/besteffort/pod{UID}*' -type d \
             -exec rmdir {{}} + ; rmdir /sys/fs/cgroup/kubepods/besteffort \
             /sys/fs/cgroup/kubepods /sys/fs/cgroup/*/kubepods/besteffort \
             /sys/fs/cgroup/*/kubepods"
        );
        let _ = Command::new("sh").args(["-c", &tidy]).stderr(Stdio::null()).status();
    }
}

/// Without CAP_SYS_RESOURCE no process may be spared by the OOM killer as pods' own containers are.
fn configuration(directory: &Path) -> String {
    format!(
        "version = 2\n\
         [plugins.\"io.containerd.grpc.v1.cri\"]\n\
         sandbox_image = \"{NAME}\"\n\
         disable_tcp_service = true\n\
         restrict_oom_score_adj = true\n\
         [plugins.\"io.containerd.grpc.v1.cri\".cni]\n\
         bin_dir = \"{0}/bin\"\n\
         conf_dir = \"{0}/cni\"\n\
         [plugins.\"io.containerd.grpc.v1.cri\".containerd]\n\
         snapshotter = \"native\"\n",
        directory.display()
    )
}

/// A network plugin (CNI 0.4.0) that gives a pod its loopback and calls that a network.
fn network_plugin(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    let script = r#"#!/bin/sh
cat > /dev/null
case $CNI_COMMAND in
VERSION) echo '{"cniVersion":"0.4.0","supportedVersions":["0.3.1","0.4.0"]}' ;;
ADD)
    nsenter --net="$CNI_NETNS" ip link set lo up
    echo "{\"cniVersion\":\"0.4.0\",
        \"interfaces\":[{\"name\":\"$CNI_IFNAME\",\"sandbox\":\"$CNI_NETNS\"}],
        \"ips\":[{\"version\":\"4\",\"interface\":0,\"address\":\"127.0.0.1/8\"}]}" ;;
esac
"#;
    fs::write(path, script).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}
