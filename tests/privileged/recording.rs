//! Recordings of real losses: by a recorder that is killed, and from a running agent.

#![expect(clippy::unwrap_used, reason = "a test's helpers may fail as the test may")]

mod support;

use std::{
    fs::{self, File, OpenOptions},
    io::Write,
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Child, Command, Stdio},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use support::{Listener, Namespace, agent, knock, until, wait};

/// A process ended with the value.
struct Running(Child);

impl Running {
    /// Starts it; what it says is for the file.
    fn start(command: &mut Command, said: &Path) -> Self {
        let said = File::create(said).unwrap();
        Self(command.stdout(Stdio::null()).stderr(said).spawn().unwrap())
    }

    fn stop(mut self) {
        kill(Pid::from_raw(self.0.id() as i32), Signal::SIGTERM).unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A queue overflows in `namespace`, and a proxy says so in `log`.
fn overflow(namespace: &Namespace, log: &Path) -> SocketAddr {
    let addr = namespace.run(|| {
        let listener = Listener::new("127.0.0.1:0", 2);
        let clients: Vec<_> = (0..20).map(|_| knock(listener.addr)).collect();
        wait(2500);
        drop(clients);
        listener.addr
    });
    let mut log = OpenOptions::new().append(true).open(log).unwrap();
    let time = Command::new("date").arg("+%Y/%m/%d %H:%M:%S").output().unwrap().stdout;
    let time = String::from_utf8(time).unwrap();
    for serial in 1..=5 {
        let line = format!(
            "{} [error] 7#7: *{serial} upstream timed out (110: Connection timed out) while \
             connecting to upstream, client: 203.0.113.77, server: app, request: \"GET /private \
             HTTP/1.1\", upstream: \"http://{addr}/private\", host: \"app\"\n",
            time.trim_end()
        );
        log.write_all(line.as_bytes()).unwrap();
    }
    addr
}

/// What `floodmark replay --json` says, and its exit status; its complaint where the file has no whole
/// block yet.
fn try_replay(agent: &Path, file: &Path) -> Result<(Value, Option<i32>), String> {
    let output = Command::new(agent).arg("replay").arg(file).arg("--json").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let json =
        serde_json::from_slice(&output.stdout).map_err(|error| format!("{error}: {said}"))?;
    Ok((json, output.status.code()))
}

fn replay(agent: &Path, file: &Path) -> (Value, Option<i32>) {
    try_replay(agent, file).unwrap()
}

/// What the replay says of the listener at `addr`: segments that the kernel dropped there, and
/// whether all the kernel counted in its namespace was attributed.
fn drops(report: &Value, addr: SocketAddr) -> (u64, bool) {
    let listeners = report["listeners"].as_array().unwrap();
    let is_it = |it: &&Value| it["listener"]["id"]["addr"] == addr.to_string();
    let own = listeners.iter().find(is_it).expect("the listener is in the report");
    let counts = own["tally"].as_object().unwrap().iter();
    let full = counts.filter(|(word, _)| word.ends_with("accept_queue_full"));
    let namespace = &own["listener"]["id"]["netns"];
    let namespaces = report["namespaces"].as_array().unwrap();
    let namespace = namespaces.iter().find(|it| &it["netns"] == namespace).unwrap();
    let kernel = namespace["kernel"]["ListenOverflows"].as_u64().unwrap();
    let attributed = full.map(|(_, count)| count.as_u64().unwrap()).sum();
    (attributed, attributed == kernel)
}

fn assert_same(report: &Value, least: u64) {
    let recording = &report["recording"];
    println!("{recording}");
    assert_eq!(recording["verdicts_differing"], 0);
    assert!(recording["verdicts_same"].as_u64().unwrap() >= least);
    assert_eq!(recording["gaps"].as_array().unwrap().len(), 0);
}

#[test]
fn root_a_recorder_that_is_killed_leaves_what_it_had_written() {
    let (Some(agent), Some(namespace)) = (agent(), Namespace::new()) else { return };
    let directory = tempfile::tempdir().unwrap();
    let (file, log) = (directory.path().join("it.fmr"), directory.path().join("error.log"));
    fs::write(&log, "").unwrap();
    let said = directory.path().join("said");
    let recorder = Running::start(
        Command::new(&agent).arg("record").arg(&file).arg("--nginx-error-log").arg(&log),
        &said,
    );
    // It attaches first.
    until("it records", || fs::read_to_string(&said).unwrap().contains("recording to"));
    wait(1000);
    let addr = overflow(&namespace, &log);
    // The verdicts take 3 s, and the block that holds them is closed after 5.
    until("the verdicts are written", || {
        let told = try_replay(&agent, &file);
        told.is_ok_and(|(report, _)| report["recording"]["verdicts_same"].as_u64() >= Some(5))
    });
    // Child::kill is SIGKILL.
    drop(recorder);
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let (report, status) = replay(&agent, &file);
    assert_eq!(status, Some(1), "trouble was found");
    assert_eq!(report["recording"]["has_end"], false);
    assert_same(&report, 5);
    let (dropped, is_all) = drops(&report, addr);
    assert!(dropped >= 17 && is_all, "{dropped}: {report}");
    assert_eq!(report["proxy"]["failed_attempts"], 5);

    // Cut inside the last block, it is still read; redacted, it tells the same.
    let bytes = fs::read(&file).unwrap();
    let cut = directory.path().join("cut.fmr");
    fs::write(&cut, &bytes[..bytes.len() - 7]).unwrap();
    let (report, _) = replay(&agent, &cut);
    assert!(report["recording"]["cut_bytes"].as_u64().unwrap() > 0);
    let redacted = directory.path().join("redacted.fmr");
    let mut rewrite = Command::new(&agent);
    rewrite.arg("record").arg(&redacted).arg("--redact-from").arg(&file);
    assert!(rewrite.stderr(Stdio::null()).status().unwrap().success());
    let (report, _) = replay(&agent, &redacted);
    assert_eq!(report["recording"]["is_redacted"], true);
    assert_same(&report, 5);
    assert_eq!(drops(&report, addr), (dropped, true));
}

#[test]
fn root_a_running_agent_hands_out_its_last_minutes() {
    let (Some(agent), Some(namespace)) = (agent(), Namespace::new()) else { return };
    let directory = tempfile::tempdir().unwrap();
    let (socket, log) = (directory.path().join("agent.sock"), directory.path().join("error.log"));
    fs::write(&log, "").unwrap();
    let running = Running::start(
        Command::new(&agent)
            .args(["run", "--netns", &namespace.discovered().name, "--listen", "127.0.0.1:0"])
            .arg("--nginx-error-log")
            .arg(&log)
            .arg("--socket")
            .arg(&socket),
        &directory.path().join("said"),
    );
    // It attaches first.
    until("its socket is there", || socket.exists());
    wait(1000);
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    let addr = overflow(&namespace, &log);
    wait(5000);
    let file = directory.path().join("it.fmr");
    let asked = Command::new(&agent)
        .arg("record")
        .arg(&file)
        .args(["--from-agent", "--socket"])
        .arg(&socket)
        .status()
        .unwrap();
    assert!(asked.success());
    let (report, status) = replay(&agent, &file);
    assert_eq!((status, &report["recording"]["has_end"]), (Some(1), &Value::Bool(true)));
    assert_same(&report, 5);
    let (dropped, is_all) = drops(&report, addr);
    assert!(dropped >= 17 && is_all, "{dropped}: {report}");

    let page = Command::new(&agent).arg("report").arg(&file).output().unwrap();
    let page = String::from_utf8(page.stdout).unwrap();
    assert!(page.contains(&addr.to_string()) && page.ends_with("</html>"));

    running.stop();
    assert!(!socket.exists(), "nobody answers there any more");
}
