//! The lint and a real nginx: it takes the fixed lines, and what it runs with is found.

#![expect(clippy::unwrap_used, reason = "a test's helpers may fail as the test may")]

use std::{
    fs,
    io::{Read, Write},
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use floodmark::lint::{
    Report,
    finding::{Facts, Finding, Format, Version},
    root::Root,
    running::{Running as Proxy, proxies},
};

const NGINX: &str = "/usr/sbin/nginx";
const CORPUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/corpora/lint");

/// Whether there is what these tests need; says what is not.
fn can_run() -> bool {
    let has_both = Path::new(NGINX).exists() && Path::new(CORPUS).exists();
    if !has_both {
        println!("skipped: nginx or the corpus of configurations is not here");
    }
    has_both
}

fn look(root: &Root, path: &Path) -> Report {
    let facts = Facts { version: Some(Version(1, 22, 1)), ..Facts::default() };
    let mut report = Report::default();
    let bytes = root.read(path).unwrap();
    report.look(Format::Nginx, root, path, &bytes, &facts).unwrap();
    report
}

/// A file with the fixes of these findings, all at one time.
fn fixed(report: &Report, findings: &[&Finding], text: &str) -> String {
    let main = report.texts.iter().next().unwrap().0;
    let fixes = findings.iter().flat_map(|finding| &finding.fixes);
    let mut fixes: Vec<_> = fixes.filter(|fix| fix.place.file == main).collect();
    fixes.sort_by(|a, b| (&a.place, &a.text).cmp(&(&b.place, &b.text)));
    fixes.dedup();
    let mut text = text.to_owned();
    for fix in fixes.iter().rev() {
        text.replace_range(fix.place.range(), &fix.text);
    }
    text
}

/// The fixed lines, in the file they are for.
fn fix(path: &Path) {
    let report = look(&Root::new(Path::new("/")).unwrap(), path);
    let all: Vec<_> = report.findings.iter().collect();
    assert!(all.iter().any(|finding| !finding.fixes.is_empty()), "{}", path.display());
    let text = fs::read_to_string(path).unwrap();
    fs::write(path, fixed(&report, &all, &text)).unwrap();
}

/// What nginx says of a configuration, or why it does not take it.
fn tried(path: &Path) -> Result<String, String> {
    let mut test = Command::new(NGINX);
    let output = test.args(["-t", "-e", "stderr", "-c"]).arg(path).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() { Ok(said) } else { Err(said) }
}

fn accepts(path: &Path) -> String {
    tried(path).unwrap_or_else(|said| panic!("{}: {said}", path.display()))
}

#[test]
fn root_nginx_accepts_the_fixed_lines() {
    if !can_run() {
        return;
    }
    for name in ["incident-broken.conf", "incident-half-mended.conf", "modern-defaults.conf"] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(name);
        fs::copy(Path::new(CORPUS).join(name), &path).unwrap();
        let before = accepts(&path);
        fix(&path);
        let after = accepts(&path);
        // What the rule is about: nginx itself says that the balancing method replaces keepalive.
        let is_half = name.contains("half");
        assert_eq!(before.contains("load balancing method redefined"), is_half, "{before}");
        assert!(!after.contains("[warn]"), "{after}");
    }
}

/// Every fix alone, and all of a file together, of each configuration that nginx takes here: those with
/// names that no name server knows, or with certificates, it does not.
#[test]
fn root_nginx_accepts_every_fix_of_the_corpus() {
    if !can_run() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let main = directory.path().join("main.conf");
    fs::copy(Path::new(CORPUS).join("mime.types"), directory.path().join("mime.types")).unwrap();
    let (mut files, mut fixes) = (0, 0);
    for entry in fs::read_dir(CORPUS).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "conf") {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        let here = directory.path().join(path.file_name().unwrap());
        fs::write(&here, &text).unwrap();
        let is_whole = text.contains("events");
        let wrapped = format!("events {{ }}\nhttp {{ include {}; }}", here.display());
        fs::write(&main, if is_whole { format!("include {};", here.display()) } else { wrapped })
            .unwrap();
        if tried(&main).is_err() {
            continue;
        }
        files += 1;
        let report = look(&Root::new(Path::new("/")).unwrap(), &here);
        let all: Vec<_> = report.findings.iter().collect();
        for some in all.iter().map(std::slice::from_ref).chain([&all[..]]) {
            fs::write(&here, fixed(&report, some, &text)).unwrap();
            let rules: Vec<_> = some.iter().map(|finding| finding.rule.id).collect();
            assert!(tried(&main).is_ok(), "{} {rules:?}: {:?}", path.display(), tried(&main));
            fixes += some.len();
        }
    }
    println!("{fixes} fixes in {files} files");
    assert!(files > 10, "nginx takes only {files} files of the corpus");
}

/// Requests through a real nginx to applications that answer with what they were asked, before and after
/// each fix.
#[test]
fn root_a_request_gets_the_same_answer_after_every_fix() {
    if !can_run() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let (here, path) = (directory.path(), directory.path().join("nginx.conf"));
    fs::set_permissions(here, fs::Permissions::from_mode(0o777)).unwrap();
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    fs::write(here.join("cert.pem"), certified.cert.pem()).unwrap();
    fs::write(here.join("key.pem"), certified.signing_key.serialize_pem()).unwrap();
    let port = || std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let text = PASSES
        .replace("DIR", here.to_str().unwrap())
        .replace("PLAIN", &port().to_string())
        .replace("TLS", &port().to_string());
    fs::write(&path, &text).unwrap();
    let report = look(&Root::new(Path::new("/")).unwrap(), &path);
    let found: Vec<_> = report.findings.iter().collect();
    let before = answers(here, &path);
    assert!(before.iter().all(|answer| answer.starts_with("HTTP/1.1 ")), "{before:?}");
    assert!(before.iter().any(|answer| answer.contains("sni=localhost")), "{before:?}");
    let with_fix = found.iter().filter(|finding| !finding.fixes.is_empty());
    assert!(with_fix.clone().count() > 8, "{found:?}");
    for some in with_fix.map(std::slice::from_ref).chain([&found[..]]) {
        fs::write(&path, fixed(&report, some, &text)).unwrap();
        let rules: Vec<_> = some.iter().map(|finding| finding.rule.id).collect();
        assert_eq!(answers(here, &path), before, "{rules:?}: {}", fixed(&report, some, &text));
    }
}

const PASSES: &str = r#"
pid DIR/nginx.pid;
error_log DIR/error.log;
events { worker_connections 256; }
http {
    access_log off;
    proxy_set_header X-From outside;
    upstream app { server 127.0.0.1:PLAIN; server 127.0.0.1:PLAIN; }
    upstream kept { server 127.0.0.1:PLAIN; server 127.0.0.1:PLAIN; keepalive 4; }
    server {
        listen unix:DIR/front.sock;
        location /unix/ { proxy_pass http://unix:DIR/app.sock:/; }
        location /unix-plain { proxy_pass http://unix:DIR/app.sock; }
        location /tls/ {
            proxy_pass https://localhost:TLS/inner/;
            proxy_ssl_server_name on;
            proxy_ssl_verify on;
            proxy_ssl_trusted_certificate DIR/cert.pem;
        }
        location /plain/ { proxy_pass http://127.0.0.1:PLAIN; }
        location /plain/uri/ { proxy_pass http://127.0.0.1:PLAIN/inner/; }
        location /plain/computed { proxy_pass http://127.0.0.1:PLAIN$request_uri; }
        location ~ ^/regex { proxy_pass http://127.0.0.1:PLAIN; }
        location /plain/named { proxy_set_header Host $proxy_host; proxy_pass http://127.0.0.1:PLAIN; }
        location /plain/host { proxy_set_header Host given; proxy_pass http://127.0.0.1:PLAIN; }
        location /if { if ($arg_x) { proxy_pass http://127.0.0.1:PLAIN; } return 404; }
        location /grouped { if ($arg_x) { proxy_pass http://app; } return 404; }
        location /kept { if ($arg_x) { proxy_pass http://kept; } return 404; }
        location /group { proxy_pass http://app$request_uri; }
    }
    server {
        listen unix:DIR/app.sock;
        listen 127.0.0.1:PLAIN;
        listen 127.0.0.1:TLS ssl;
        ssl_certificate DIR/cert.pem;
        ssl_certificate_key DIR/key.pem;
        location ~ redirect { return 302 $scheme://$http_host/there; }
        location ~ inward { return 302 $scheme://$http_host/inner/there; }
        location / { return 200 "host=$http_host sni=$ssl_server_name uri=$request_uri from=$http_x_from\n"; }
    }
}
"#;

const ASKED: [&str; 13] = [
    "unix/",
    "unix-plain",
    "tls/",
    "plain/",
    "plain/uri/",
    "plain/computed",
    "regex",
    "plain/named",
    "plain/host",
    "if",
    "grouped",
    "kept",
    "group",
];

/// The answers to all requests, without what changes with time.
fn answers(here: &Path, path: &Path) -> Vec<String> {
    let mut command = Command::new(NGINX);
    command.args(["-e", "stderr", "-g", "daemon off;", "-c"]).arg(path).stderr(Stdio::null());
    let mut running = Running(command.spawn().unwrap());
    let front = here.join("front.sock");
    while UnixStream::connect(&front).is_err() {
        assert!(running.0.try_wait().unwrap().is_none(), "nginx ended");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let kinds = ["?x=1", "redirect?x=1", "inward?x=1"];
    let asked = ASKED.iter().flat_map(|name| kinds.map(|kind| format!("/{name}{kind}")));
    let answers = asked.map(|uri| {
        let mut stream = UnixStream::connect(&front).unwrap();
        write!(stream, "GET {uri} HTTP/1.0\r\nHost: site\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let lines = answer.lines().filter(|line| !line.starts_with("Date: "));
        lines.collect::<Vec<_>>().join("\n")
    });
    let answers = answers.collect();
    drop(running);
    for name in ["front.sock", "app.sock"] {
        let _ = fs::remove_file(here.join(name));
    }
    answers
}

/// Ends with the value, and its workers with it.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(self.0.id() as i32);
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let _ = self.0.wait();
    }
}

/// An nginx with its own /etc/nginx, as in a container: another mount namespace and another root.
fn in_container(directory: &Path) -> Running {
    let (root, etc) = (directory.join("root"), directory.join("etc"));
    fs::create_dir_all(&root).unwrap();
    fs::create_dir_all(etc.join("conf.d")).unwrap();
    // Its pid file is one that it deletes in the end, so not /dev/null.
    let main = "error_log stderr warn; pid /tmp/nginx.pid; events {}\n\
                http { include conf.d/*.conf; include /etc/nginx/absolute.conf; }";
    let site = "upstream inside { server 127.0.0.1:1; server 127.0.0.1:2; }\n\
                server { listen unix:/tmp/fm-lint.sock; location / { proxy_pass http://inside; } }";
    fs::write(etc.join("nginx.conf"), main).unwrap();
    fs::write(etc.join("conf.d/site.conf"), site).unwrap();
    // A link that leads elsewhere on the host than it does in there.
    std::os::unix::fs::symlink("/etc/nginx/there.conf", etc.join("absolute.conf")).unwrap();
    fs::write(etc.join("there.conf"), "proxy_connect_timeout 100ms;").unwrap();
    let script = "mount --rbind / \"$0/root\" && mount --bind \"$0/etc\" \"$0/root/etc/nginx\" && \
                  mount -t tmpfs none \"$0/root/tmp\" && \
                  exec chroot \"$0/root\" /usr/sbin/nginx -e stderr -g 'daemon off;'";
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", script]).arg(directory);
    Running(command.stderr(Stdio::null()).spawn().unwrap())
}

fn master(pid: u32) -> Option<Proxy> {
    proxies().into_iter().find(|proxy| proxy.pid == pid)
}

#[test]
fn root_a_running_nginx_is_looked_at_where_it_lives() {
    if !can_run() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let mut running = in_container(directory.path());
    let found = std::iter::repeat_with(|| {
        std::thread::sleep(std::time::Duration::from_millis(50));
        let ended = running.0.try_wait().unwrap();
        (master(running.0.id()), ended)
    });
    let mut found = found.take(400);
    let (master, ended) = found.find(|(found, ended)| found.is_some() || ended.is_some()).unwrap();
    let Some(master) = master else { panic!("nginx did not start: {ended:?}") };
    assert!(!master.is_here);
    assert_eq!(master.configurations, [PathBuf::from("/etc/nginx/nginx.conf")]);
    assert!(master.version.is_some(), "{master:?}");
    let report = look(&Root::new(&master.root).unwrap(), &master.configurations[0]);
    assert_eq!(report.missing, [""; 0]);
    let rules: Vec<_> = report.findings.iter().map(|finding| finding.rule.id).collect();
    assert!(rules.contains(&"nginx-upstream-without-keepalive"), "{rules:?}");
    assert!(rules.contains(&"nginx-connect-timeout-short"), "the link leads out: {rules:?}");
}
