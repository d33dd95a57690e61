//! Uprobes in a real nginx: every marking that its log shows at level `warn` is seen, and none more.

#![expect(clippy::unwrap_used, reason = "a test's helpers may fail as the test may")]
#![allow(unsafe_code, reason = "system calls that no library offers")]

use std::{
    fs,
    io::{Read, Write},
    os::unix::{fs::chroot, net::UnixStream, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use floodmark::{
    proxy::{Dialect, EventKind, ProxyEvent, source::Interpreter, uprobe::Uprobes},
    time::UnixMs,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

const NGINX: &str = "/usr/sbin/nginx";

/// Nothing listens on these ports of the loopback.
const CONFIGURATION: &str = "
daemon off; user root; pid nginx.pid; worker_processes 1; error_log error.log warn;
events { worker_connections 256; }
http {
access_log off; client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;
uwsgi_temp_path uwsgi; scgi_temp_path scgi; proxy_connect_timeout 1s;
upstream two { server 127.0.0.1:9701 fail_timeout=1s; server 127.0.0.2:9701 fail_timeout=1s; }
upstream third { server 127.0.0.1:9702 max_fails=3; server 127.0.0.2:9702 max_fails=3; }
upstream never { server 127.0.0.1:9703 max_fails=0; server 127.0.0.2:9703 max_fails=0; }
upstream least { least_conn; keepalive 4; server 127.0.0.1:9704; server [::1]:9704; }
upstream backup { server 127.0.0.1:9705; server 127.0.0.2:9705 backup; }
upstream single { server 127.0.0.1:9706; }
upstream socket { server unix:/nowhere/a.sock; server unix:/nowhere/b.sock; }
server { listen unix:nginx.sock;
location /two/ { proxy_pass http://two; } location /third/ { proxy_pass http://third; }
location /never/ { proxy_pass http://never; } location /least/ { proxy_pass http://least; }
location /backup/ { proxy_pass http://backup; } location /single/ { proxy_pass http://single; }
location /socket/ { proxy_pass http://socket; } }
}
";

/// The stream module, which Debian has as a file of its own.
const STREAM_MODULE: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";
const STREAM: &str = "
load_module /usr/lib/nginx/modules/ngx_stream_module.so;
daemon off; user root; pid nginx.pid; worker_processes 1; error_log error.log warn;
events { worker_connections 256; }
stream {
proxy_connect_timeout 1s;
upstream two { server 127.0.0.1:9711 fail_timeout=1s; server 127.0.0.2:9711 fail_timeout=1s; }
upstream least { least_conn; server 127.0.0.1:9712; server [::1]:9712; }
upstream never { server 127.0.0.1:9713 max_fails=0; server 127.0.0.2:9713 max_fails=0; }
upstream single { server 127.0.0.1:9714; }
server { listen unix:PREFIX/nginx.sock; proxy_pass two; }
server { listen unix:PREFIX/least.sock; proxy_pass least; }
server { listen unix:PREFIX/never.sock; proxy_pass never; }
server { listen unix:PREFIX/single.sock; proxy_pass single; }
}
";

struct Nginx {
    master: Child,
    directory: PathBuf,
}

impl Nginx {
    /// Starts nginx with its files in `directory`, seen by it as `prefix`.
    fn start(directory: &Path, prefix: &str, root: Option<PathBuf>) -> Self {
        let socket = format!("listen unix:{prefix}/nginx.sock");
        let text = CONFIGURATION.replace("listen unix:nginx.sock", &socket);
        Self::start_with(&text, directory, prefix, root)
    }

    fn start_with(text: &str, directory: &Path, prefix: &str, root: Option<PathBuf>) -> Self {
        fs::write(directory.join("nginx.conf"), text).unwrap();
        let mut command = Command::new(NGINX);
        command.args(["-p", prefix, "-e", "error.log", "-c"]).arg(format!("{prefix}/nginx.conf"));
        if let Some(root) = root {
            // SAFETY: chroot(2) and chdir(2) are async-signal-safe.
            unsafe {
                command.pre_exec(move || {
                    chroot(&root)?;
                    std::env::set_current_dir("/")
                });
            }
        }
        let master = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let nginx = Self { master, directory: directory.to_owned() };
        let begun = Instant::now();
        while nginx.connect().is_none() {
            assert!(begun.elapsed() < Duration::from_secs(20), "nginx does not listen");
            thread::sleep(Duration::from_millis(50));
        }
        nginx
    }

    fn connect(&self) -> Option<UnixStream> {
        UnixStream::connect(self.directory.join("nginx.sock")).ok()
    }

    fn request(&self, group: &str) {
        let mut client = self.connect().unwrap();
        write!(client, "GET /{group}/ HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
        client.read_to_end(&mut Vec::new()).unwrap();
    }

    /// What its log tells.
    fn logged(&self) -> Vec<ProxyEvent> {
        let bytes = fs::read(self.directory.join("error.log")).unwrap();
        let mut reader = Interpreter::new(Some(Dialect::Nginx), "log".to_owned());
        let lines = bytes.split(|byte| *byte == b'\n');
        let mut events: Vec<_> = lines.flat_map(|line| reader.read(line, UnixMs::now())).collect();
        events.append(&mut reader.settle());
        events
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.master.id() as i32), Signal::SIGTERM);
        let _ = self.master.wait();
    }
}

/// The programs, in a host that can run these tests; says why where it cannot.
fn uprobes() -> Option<Uprobes> {
    match Uprobes::load() {
        Ok(mut uprobes) => {
            uprobes.sweep();
            Some(uprobes)
        }
        Err(error) => {
            println!("skipped: {error:#}");
            None
        }
    }
}

fn has_nginx() -> bool {
    let is_there = Path::new(NGINX).exists();
    if !is_there {
        println!("skipped: there is no {NGINX}");
    }
    is_there
}

fn told(events: &[ProxyEvent], wanted: fn(&EventKind) -> bool) -> Vec<String> {
    let events = events.iter().filter(|event| wanted(&event.kind));
    events.map(|event| event.upstream.to_string()).collect()
}

fn compare(nginx: &Nginx, uprobes: &mut Uprobes) {
    assert!(uprobes.attached() > 0);
    for _ in 0..3 {
        for group in ["two", "third", "never", "least", "backup", "single", "socket"] {
            nginx.request(group);
        }
        thread::sleep(Duration::from_millis(2100));
    }
    let (mut seen, logged) = (uprobes.read(), nginx.logged());
    // Others may run an nginx on this host.
    seen.retain(|event| logged.iter().any(|other| other.pid == event.pid));
    let is_marking = |kind: &EventKind| matches!(kind, EventKind::PeerMarked { .. });
    let markings = told(&logged, is_marking);
    assert!(markings.len() > 12, "{markings:?}");
    assert_eq!(told(&seen, is_marking), markings);
    let is_none_left = |kind: &EventKind| *kind == EventKind::NoLivePeers;
    assert!(!told(&logged, is_none_left).is_empty());
    assert_eq!(told(&seen, is_none_left), told(&logged, is_none_left));
}

#[test]
fn root_every_marking_of_nginx_is_seen_and_none_more() {
    if !has_nginx() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let nginx = Nginx::start(directory.path(), directory.path().to_str().unwrap(), None);
    let Some(mut uprobes) = uprobes() else { return };
    compare(&nginx, &mut uprobes);
}

/// Of the stream module only failed connects count; it has functions and structures of its own.
#[test]
fn root_every_marking_of_the_stream_module_is_seen_and_none_more() {
    if !has_nginx() {
        return;
    }
    if !Path::new(STREAM_MODULE).exists() {
        println!("skipped: there is no {STREAM_MODULE} (package libnginx-mod-stream)");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let prefix = directory.path().to_str().unwrap();
    let text = STREAM.replace("PREFIX", prefix);
    let nginx = Nginx::start_with(&text, directory.path(), prefix, None);
    let Some(mut uprobes) = uprobes() else { return };
    // That it listens was found out by a connection, which is proxied as any other.
    thread::sleep(Duration::from_millis(2100));
    uprobes.read();
    let before = nginx.logged().len();
    for _ in 0..3 {
        for socket in ["nginx", "least", "never", "single"] {
            let path = directory.path().join(format!("{socket}.sock"));
            let mut client = UnixStream::connect(path).unwrap();
            let _ = client.read_to_end(&mut Vec::new());
        }
        thread::sleep(Duration::from_millis(2100));
    }
    let (mut seen, logged) = (uprobes.read(), nginx.logged());
    let logged = &logged[before..];
    seen.retain(|event| logged.iter().any(|other| other.pid == event.pid));
    let is_marking = |kind: &EventKind| matches!(kind, EventKind::PeerMarked { .. });
    let markings = told(logged, is_marking);
    assert!(markings.len() >= 6, "{markings:?}");
    assert_eq!(told(&seen, is_marking), markings);
    let is_none_left = |kind: &EventKind| *kind == EventKind::NoLivePeers;
    assert_eq!(told(&seen, is_none_left), told(logged, is_none_left));
}

/// As in a container: the program is another file, at a path that is another one outside.
#[test]
fn root_an_nginx_in_a_root_of_its_own_is_seen_as_well() {
    if !has_nginx() {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let at = |path: &str| root.path().join(path.trim_start_matches('/'));
    let copy = |path: &str| {
        fs::create_dir_all(at(path).parent().unwrap()).unwrap();
        fs::copy(path, at(path)).unwrap();
    };
    // A test guest has no more programs than it needs.
    let Ok(libraries) = Command::new("ldd").arg(NGINX).output() else {
        println!("skipped: there is no ldd to tell what nginx is linked to");
        return;
    };
    let libraries = String::from_utf8(libraries.stdout).unwrap();
    let paths = libraries.split_ascii_whitespace().filter(|word| word.starts_with('/'));
    paths.chain([NGINX, "/etc/passwd", "/etc/group"]).for_each(copy);
    for directory in ["/run/nginx", "/dev", "/var/log/nginx"] {
        fs::create_dir_all(at(directory)).unwrap();
    }
    fs::write(at("/dev/null"), "").unwrap();
    let nginx = Nginx::start(&at("/run/nginx"), "/run/nginx", Some(root.path().to_owned()));
    let Some(mut uprobes) = uprobes() else { return };
    compare(&nginx, &mut uprobes);
}

/// A connect that times out tells the local port of its connection.
#[test]
fn root_the_local_port_of_a_failed_connection_is_told() {
    if !has_nginx() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let full = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    full.bind(&"127.0.0.1:9701".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
    full.listen(0).unwrap();
    let _fillers: Vec<_> =
        (0..1).map(|_| std::net::TcpStream::connect("127.0.0.1:9701").unwrap()).collect();
    let nginx = Nginx::start(directory.path(), directory.path().to_str().unwrap(), None);
    let Some(mut uprobes) = uprobes() else { return };
    nginx.request("two");
    let seen = uprobes.read();
    let timed_out = seen.iter().find(|event| event.upstream.to_string() == "127.0.0.1:9701");
    let local = timed_out.unwrap().local_addr.unwrap();
    assert!(local.port() > 1024, "{local}");
    let phase = floodmark::proxy::Phase::Connect;
    let failure = Some(floodmark::proxy::Failure::TIMEOUT);
    assert_eq!(timed_out.unwrap().kind, EventKind::PeerMarked { phase, failure });
}
