//! The lint and a real nginx: it takes the fixed lines, and what it runs with is found.

#![expect(clippy::unwrap_used, reason = "a test's helpers may fail as the test may")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use floodmark::lint::{
    Report,
    finding::{Facts, Format, Version},
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

/// The fixed lines, in the file they are for.
fn fix(path: &Path) {
    let report = look(&Root::new(Path::new("/")).unwrap(), path);
    let mut fixes: Vec<_> = report.findings.iter().flat_map(|f| f.fixes.clone()).collect();
    fixes.sort_by(|a, b| (&a.place, &a.text).cmp(&(&b.place, &b.text)));
    fixes.dedup();
    assert!(!fixes.is_empty(), "{} has no fault to fix", path.display());
    let mut text = fs::read_to_string(path).unwrap();
    for fix in fixes.iter().rev() {
        text.replace_range(fix.place.range(), &fix.text);
    }
    fs::write(path, text).unwrap();
}

fn accepts(path: &Path) -> String {
    let mut test = Command::new(NGINX);
    let output = test.args(["-t", "-e", "stderr", "-c"]).arg(path).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{}: {said}", path.display());
    said
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
