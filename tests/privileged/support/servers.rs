//! Real servers in namespaces of their own.

#![allow(unsafe_code, reason = "system calls that no library offers")]

use std::{
    fs::{self, File},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use floodmark::kernel::netns::{Netns, of_process, pids};
use nix::{
    sched::{CloneFlags, setns},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{Namespace, wait};

/// A server's first process; ended with the value.
pub struct Server(Child);

impl Server {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Stops every process of the namespace.
    pub fn stop_all(&self, netns: &Netns) {
        signal_all(netns, Signal::SIGSTOP);
    }

    /// Lets them go on.
    pub fn continue_all(&self, netns: &Netns) {
        signal_all(netns, Signal::SIGCONT);
    }
}

/// To every process whose own namespace it is: the test only visits.
fn signal_all(netns: &Netns, signal: Signal) {
    for pid in pids().filter(|pid| of_process(*pid) == Some(netns.id)) {
        kill(Pid::from_raw(pid.cast_signed()), signal).unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.0.id().cast_signed()), Signal::SIGTERM);
        let _ = self.0.wait();
    }
}

fn start(namespace: &Namespace, program: &str, arguments: &[&str]) -> Option<Server> {
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
    wait(700);
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
    start(namespace, "/usr/sbin/nginx", &["-c", configuration, "-e", log.to_str().unwrap()])
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
    start(namespace, program.to_str().unwrap(), &arguments)
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
pub fn socket_activated(namespace: &Namespace, addr: &str) -> Option<Server> {
    start(namespace, "/usr/bin/systemd-socket-activate", &["-l", addr, "/usr/bin/sleep", "60"])
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
    wait(700);
    Some(Server(child))
}
