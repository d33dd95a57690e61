//! Real servers in namespaces of their own.

#![allow(unsafe_code, reason = "system calls that no library offers")]

use std::{
    fs::{self, File},
    net::SocketAddr,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    slice,
};

use floodmark::kernel::{
    netns::{Netns, discover, of_process, pids, visit},
    sock_diag::listeners_here,
};
use nix::{
    sched::{CloneFlags, setns},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{Namespace, until};

/// A server's first process; ended with the value.
pub struct Server(Child);

impl Server {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Stops every process of the namespace, and waits until they stand still: before that, one that
    /// waits in accept(2) may still take a connection.
    pub fn stop_all<'a>(&'a self, netns: &'a Netns) -> Stopped<'a> {
        signal_all(netns, Signal::SIGSTOP);
        let stopped = Stopped { _server: self, netns };
        until("all processes stand still", || processes(netns).all(is_stopped));
        stopped
    }
}

/// All processes of a namespace stand still until this goes, however a test ends: a stopped process
/// would keep the signal that ends it for later, and whoever waits for its end would wait for good.
pub struct Stopped<'a> {
    _server: &'a Server,
    netns: &'a Netns,
}

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        signal_all(self.netns, Signal::SIGCONT);
    }
}

/// To every process whose own namespace it is: the test only visits.
fn signal_all(netns: &Netns, signal: Signal) {
    for pid in processes(netns) {
        // One that has just ended needs no signal.
        let _ = kill(Pid::from_raw(pid.cast_signed()), signal);
    }
}

/// State T in proc_pid_stat(5), or ended meanwhile.
fn is_stopped(pid: u32) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return true };
    stat.rsplit_once(") ").is_some_and(|(_, fields)| fields.starts_with('T'))
}

fn processes(netns: &Netns) -> impl Iterator<Item = u32> {
    pids().filter(|pid| of_process(*pid) == Some(netns.id))
}

/// Whether TCP is listened to on every one of `ports`.
fn listens(netns: &Netns, ports: &[u16]) -> bool {
    let found = visit(slice::from_ref(netns), |_| listeners_here().unwrap()).unwrap().concat();
    ports.iter().all(|port| found.iter().any(|listener| listener.addr.port() == *port))
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.0.id().cast_signed()), Signal::SIGTERM);
        let _ = self.0.wait();
    }
}

/// Starts it, and waits until it listens on `ports` with that many `processes` or more.
fn start(
    namespace: &Namespace,
    (program, arguments): (&str, &[&str]),
    ports: &[u16],
    least: usize,
) -> Option<Server> {
    if !Path::new(program).exists() {
        println!("skipped: {program} is not here");
        return None;
    }
    let entrance = File::open(namespace.path()).unwrap();
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null());
    // SAFETY: between fork and exec only setns(2) is called, which is async-signal-safe.
    unsafe {
        command.pre_exec(move || Ok(setns(&entrance, CloneFlags::CLONE_NEWNET)?));
    }
    let server = Server(command.spawn().unwrap());
    let netns = namespace.discovered();
    until(&format!("{program} is at work"), || {
        listens(&netns, ports) && processes(&netns).count() >= least
    });
    Some(server)
}

/// nginx with two workers: port 80 of both families by SO_REUSEPORT, port 8081 as by default.
pub fn nginx(namespace: &Namespace, directory: &Path) -> Option<Server> {
    let configuration = directory.join("nginx.conf");
    let text = format!(
        "daemon off; user root; worker_processes 2; pid {0}/nginx.pid; error_log {0}/error.log;
        events {{}}
        http {{
            access_log off;
            client_body_temp_path {0}/a; proxy_temp_path {0}/b; fastcgi_temp_path {0}/c;
            uwsgi_temp_path {0}/d; scgi_temp_path {0}/e;
            server {{
                listen [::]:80 ipv6only=off reuseport backlog=300;
                listen 127.0.0.1:8081;
            }}
        }}",
        directory.display()
    );
    fs::write(&configuration, text).unwrap();
    let configuration = configuration.to_str().unwrap();
    let log = directory.join("start.log");
    let arguments = ["-c", configuration, "-e", log.to_str().unwrap()];
    start(namespace, ("/usr/sbin/nginx", &arguments), &[80, 8081], 3)
}

/// PHP-FPM with one pool on a Unix socket and one on TCP port 9000, each with a backlog of its own.
pub fn php_fpm(namespace: &Namespace, directory: &Path) -> Option<Server> {
    let configuration = directory.join("fpm.conf");
    let pool = |name: &str, listen: &str, backlog: u32| {
        format!(
            "[{name}]\nuser = root\ngroup = root\nlisten = {listen}\nlisten.backlog = {backlog}\n\
             pm = static\npm.max_children = 3\n"
        )
    };
    let text = format!(
        "[global]\ndaemonize = no\npid = {0}/fpm.pid\nerror_log = {0}/fpm.log\n{1}{2}",
        directory.display(),
        pool("unix", directory.join("fpm.sock").to_str().unwrap(), 64),
        pool("tcp", "127.0.0.1:9000", 65),
    );
    fs::write(&configuration, text).unwrap();
    let program = php_program()?;
    let arguments = ["-R", "-n", "-y", configuration.to_str().unwrap()];
    start(namespace, (program.to_str().unwrap(), &arguments), &[9000], 4)
}

/// Debian has the version in the name.
fn php_program() -> Option<PathBuf> {
    let programs = fs::read_dir("/usr/sbin").ok()?.flatten().map(|entry| entry.path());
    let found = programs
        .into_iter()
        .find(|path| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("php-fpm")));
    if found.is_none() {
        println!("skipped: php-fpm is not here");
    }
    found
}

/// A service that systemd starts with the first connection, handing the socket over.
pub fn socket_activated(namespace: &Namespace, addr: SocketAddr) -> Option<Server> {
    let arguments = ["-l", &addr.to_string(), "/usr/bin/sleep", "60"];
    start(namespace, ("/usr/bin/systemd-socket-activate", &arguments), &[addr.port()], 1)
}

/// A listener on `port` in namespaces of every kind, as a member of the control group `group`.
pub fn in_a_container(group: &Path, port: u16) -> Option<Server> {
    for program in ["/usr/bin/unshare", "/usr/bin/systemd-socket-activate"] {
        if !Path::new(program).exists() {
            println!("skipped: {program} is not here");
            return None;
        }
    }
    // The group is joined first, from outside; then `exec` keeps the process.
    let script = format!(
        "echo $$ > {}/cgroup.procs && exec unshare --net --mount --uts --ipc \
         systemd-socket-activate -l 0.0.0.0:{port} /usr/bin/true",
        group.display()
    );
    let child = Command::new("sh").args(["-c", &script]).stderr(Stdio::null()).spawn().unwrap();
    let server = Server(child);
    until(&format!("port {port} is listened to in the container"), || {
        let own = discover().unwrap().into_iter();
        own.filter(|netns| Some(netns.id) == of_process(server.pid()))
            .any(|netns| listens(&netns, &[port]))
    });
    Some(server)
}
