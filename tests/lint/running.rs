//! The configurations that a real HAProxy and a real Envoy run with are found where they say.

#![expect(clippy::unwrap_used, reason = "a test's helpers may fail as the test may")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::Duration,
};

use floodmark::lint::{
    Report,
    finding::{Facts, Finding, Format},
    root::Root,
    running::{Running as Proxy, proxies},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

const HAPROXY: &str = "/usr/sbin/haproxy";
const CORPUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/corpora/lint");
const ENVOYS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/lab/venv/lib");

/// Ends with the value, and its workers with it.
struct Running(Child);

impl Running {
    fn start(command: &mut Command) -> Self {
        Self(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }

    /// As the lint finds it, once it runs.
    fn found(&mut self) -> Proxy {
        loop {
            let of_this = proxies().into_iter().find(|proxy| proxy.pid == self.0.id());
            if let Some(proxy) = of_this {
                return proxy;
            }
            assert!(self.0.try_wait().unwrap().is_none(), "it did not start");
            sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.0.id() as i32), Signal::SIGTERM);
        let _ = self.0.wait();
    }
}

fn rules(proxy: &Proxy) -> Vec<&'static str> {
    let root = Root::new(&proxy.root).unwrap();
    let parts = proxy.parts(&root).unwrap();
    let mut report = Report::default();
    match &parts[..] {
        [(path, bytes)] => {
            report.look(proxy.format, &root, path, bytes, &Facts::default()).unwrap();
        }
        several => report.look_at_parts(several).unwrap(),
    }
    report.findings.iter().map(|finding| finding.rule.id).collect()
}

#[test]
fn root_a_running_haproxy_is_read_with_every_file_it_was_given() {
    if !Path::new(HAPROXY).exists() {
        println!("skipped: haproxy is not installed; cargo xtask setup does that");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("socket");
    let defaults = "global\n log stdout local0\ndefaults\n mode http\n log global\n \
                    timeout connect 100ms\n timeout client 1s\n timeout server 1s\n";
    let site = format!(
        "frontend f\n bind unix@{}\n default_backend b\n\
         backend b\n server one 127.0.0.1:1\n server two 127.0.0.1:2\n",
        socket.display()
    );
    fs::create_dir(directory.path().join("conf.d")).unwrap();
    fs::write(directory.path().join("main.cfg"), defaults).unwrap();
    fs::write(directory.path().join("conf.d/site.cfg"), site).unwrap();
    fs::write(directory.path().join("conf.d/notes"), "not HAProxy's").unwrap();
    let mut command = Command::new(HAPROXY);
    command.current_dir(directory.path()).args(["-W", "-f", "main.cfg", "-f", "conf.d"]);
    let mut running = Running::start(&mut command);
    let proxy = running.found();
    let paths = ["main.cfg", "conf.d"].map(|name| directory.path().join(name));
    assert_eq!(proxy.configurations, paths);
    // The timeout is in one file, the servers that it holds for in the other.
    assert_eq!(rules(&proxy), ["haproxy-connect-timeout-short"]);
    // The worker reads nothing of its own.
    sleep(Duration::from_millis(200));
    let of_these = proxies().into_iter().filter(|proxy| proxy.configurations == paths);
    assert_eq!(of_these.count(), 1);
}

/// The files of the corpus with these extensions, each with its text and with the texts that its fixes
/// make of it: each finding's alone, and all together.
fn fixed(extensions: &[&str], format: Format) -> Vec<(PathBuf, Vec<String>)> {
    let root = Root::new(Path::new("/")).unwrap();
    let paths = fs::read_dir(CORPUS).unwrap().map(|entry| entry.unwrap().path());
    let is_one = |path: &PathBuf| {
        path.extension().is_some_and(|it| extensions.contains(&it.to_string_lossy().as_ref()))
    };
    let versions = paths.filter(is_one).map(|path| {
        let text = fs::read_to_string(&path).unwrap();
        let mut report = Report::default();
        report.look(format, &root, &path, text.as_bytes(), &Facts::default()).unwrap();
        let findings = &report.findings;
        let each = findings.iter().map(std::slice::from_ref).chain([&findings[..]]);
        let apply = |some: &[Finding]| {
            let mut fixes: Vec<_> = some.iter().flat_map(|finding| finding.fixes.clone()).collect();
            fixes.sort_by(|a, b| (&a.place, &a.text).cmp(&(&b.place, &b.text)));
            fixes.dedup();
            let mut text = text.clone();
            for fix in fixes.iter().rev() {
                text.replace_range(fix.place.range(), &fix.text);
            }
            text
        };
        let versions = std::iter::once(text.clone()).chain(each.map(apply)).collect();
        (path, versions)
    });
    versions.collect()
}

/// Every version of every file that a program takes before any fix, by `check`.
fn accepts_all(
    extensions: &[&str],
    format: Format,
    least: usize,
    check: impl Fn(&Path) -> std::process::Output,
) {
    let directory = tempfile::tempdir().unwrap();
    let mut files = 0;
    for (path, versions) in fixed(extensions, format) {
        let here = directory.path().join(path.file_name().unwrap());
        for (number, text) in versions.iter().enumerate() {
            fs::write(&here, text).unwrap();
            let output = check(&here);
            if number == 0 && !output.status.success() {
                println!(
                    "not taken: {}: {}",
                    path.display(),
                    String::from_utf8_lossy(&output.stderr)
                );
                break;
            }
            files += usize::from(number == 0);
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{}: {said}\n{text}", path.display());
        }
    }
    assert!(files >= least, "only {files} files of the corpus are taken");
}

#[test]
fn root_haproxy_accepts_every_fix_of_the_corpus() {
    if !Path::new(HAPROXY).exists() {
        println!("skipped: haproxy is not installed; cargo xtask setup does that");
        return;
    }
    accepts_all(&["cfg"], Format::Haproxy, 4, |path| {
        Command::new(HAPROXY).args(["-c", "-f"]).arg(path).output().unwrap()
    });
}

#[test]
fn root_envoy_accepts_every_fix_of_the_corpus() {
    let Some(envoy) = envoy() else {
        println!("skipped: Envoy is not here; cargo xtask lab verdicts installs it");
        return;
    };
    accepts_all(&["yaml", "json"], Format::Envoy, 2, |path| {
        let mut command = Command::new(&envoy);
        command
            .args(["--mode", "validate", "--use-dynamic-base-id", "-c"])
            .arg(path)
            .output()
            .unwrap()
    });
}

fn envoy() -> Option<PathBuf> {
    let libraries = fs::read_dir(ENVOYS).ok()?.flatten();
    let mut programs = libraries.map(|it| it.path().join("site-packages/envoy/_bin/envoy"));
    programs.find(|path| path.is_file())
}

#[test]
fn root_a_running_envoy_is_read_where_it_says() {
    let Some(envoy) = envoy() else {
        println!("skipped: Envoy is not here; cargo xtask lab verdicts installs it");
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let endpoint = |port: u16| {
        format!(
            "{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}}}"
        )
    };
    let configuration = format!(
        "static_resources:\n  clusters:\n  - name: app\n    type: STATIC\n    connect_timeout: 0.25s\n    \
         load_assignment:\n      cluster_name: app\n      endpoints:\n      - lb_endpoints: [{}, {}]\n",
        endpoint(1),
        endpoint(2)
    );
    fs::write(directory.path().join("envoy.yaml"), configuration).unwrap();
    let mut command = Command::new(envoy);
    command.current_dir(directory.path());
    command.args(["--config-path", "envoy.yaml", "--use-dynamic-base-id"]);
    let mut running = Running::start(&mut command);
    let proxy = running.found();
    assert_eq!(proxy.configurations, [directory.path().join("envoy.yaml")]);
    assert_eq!(rules(&proxy), ["envoy-connect-timeout-short"]);
}
