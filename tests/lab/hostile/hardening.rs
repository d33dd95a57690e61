//! What a fault in the agent would give away: the privileges that it holds while it reads what others
//! wrote, and the system calls that it may make. All that it does after its start must still work.

use std::{
    collections::BTreeSet,
    fs::{self, OpenOptions},
    io::Write,
    net::TcpListener,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use nix::sys::signal::Signal;

use super::{
    Case, Check, Target,
    files::{is_ticking, line, within},
};
use crate::topology::Namespace;

pub(super) const CASES: &[Case] = &[
    Case {
        name: "system-calls",
        attack: "a fault in the agent makes system calls that it has no use for",
        run: restricted_agent,
    },
    Case {
        name: "capabilities",
        attack: "a fault in a command's parser uses what root may do",
        run: unprivileged_commands,
    },
];

/// A line of proc_pid_status(5).
fn status(path: &str, key: &str) -> Result<String> {
    let status = fs::read_to_string(path).with_context(|| path.to_owned())?;
    let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    Ok(line.context("no such line")?.trim().to_owned())
}

/// The values of a line of proc_pid_status(5) for all threads of a process.
fn of_threads(pid: u32, key: &str) -> Result<BTreeSet<String>> {
    let threads = fs::read_dir(format!("/proc/{pid}/task"))?.flatten();
    threads.map(|thread| status(&format!("{}/status", thread.path().display()), key)).collect()
}

fn restricted_agent(target: &Target) -> Result<Vec<Check>> {
    let at = |name: &str| target.directory().join(name);
    let (first, second, file) = (at("first.log"), at("second.log"), at("floodmark.toml"));
    for log in [&first, &second] {
        fs::write(log, "")?;
    }
    fs::write(&file, format!("nginx-error-log = [{first:?}]\n"))?;
    let served = target.serve(&["--config", &file.display().to_string()])?;
    within(Duration::from_secs(30), || is_ticking(&served))?;
    let modes = of_threads(served.agent.pid(), "Seccomp")?;

    let namespace = Namespace::new(format!("fm-hostile-{}", std::process::id()))?;
    let listener = namespace.inside(|| TcpListener::bind("127.0.0.1:7001"))??;
    let label = format!("netns=\"{}\"", namespace.name());
    let limits = || served.metric("floodmark_listener_accept_queue_limit", &[&label]);
    let entered = within(Duration::from_secs(30), || Ok(!limits()?.is_empty()))?;
    // Overflows it, so that drops are counted and rarer causes watched for.
    let clients = namespace.inside(|| {
        let connect = || {
            std::net::TcpStream::connect_timeout(
                &([127, 0, 0, 1], 7001).into(),
                Duration::from_millis(20),
            )
        };
        (0..200).filter_map(|_| connect().ok()).collect::<Vec<_>>()
    })?;
    let dropped = || served.metric("floodmark_listener_drops_total", &[&label]);
    let counts = within(Duration::from_secs(30), || Ok(dropped()?.iter().sum::<f64>() > 0.0))?;
    let seen = format!("{:?}", dropped()?);
    drop((clients, listener));

    fs::write(&file, format!("nginx-error-log = [{first:?}, {second:?}]\n"))?;
    served.agent.signal(Signal::SIGHUP)?;
    let mut followed = Vec::new();
    for log in [&first, &second] {
        let source = format!("source=\"{}\"", log.display());
        let events = || served.metric("floodmark_source_events_total", &[&source]);
        within(Duration::from_secs(20), || Ok(!events()?.is_empty()))?;
        thread::sleep(Duration::from_millis(500));
        OpenOptions::new().append(true).open(log)?.write_all(line()?.as_bytes())?;
        followed.push(within(Duration::from_secs(20), || Ok(events()? == [1.0]))?);
    }
    let log = served.log()?;
    let refusals = log.lines().filter(|line| line.contains("not permitted")).count();
    Ok(vec![
        Check::that(
            "all its threads have a filter",
            modes == ["2".to_owned()].into(),
            format!("{modes:?}"),
        ),
        served.answers_health_check(),
        Check::that("a namespace made later is entered", entered, ""),
        Check::that("drops in it are counted", counts, seen),
        Check::that(
            "logs are followed, also of a reload",
            followed == [true, true],
            format!("{followed:?}"),
        ),
        Check::that("nothing that it needs is refused", refusals == 0, format!("{refusals} lines")),
    ])
}

/// `lint -` waits for its input when it has put away what it may do; the others open their files first and
/// do the same.
fn unprivileged_commands(target: &Target) -> Result<Vec<Check>> {
    let mut child = Command::new(&target.agent)
        .args(["lint", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let sets = || ["CapEff", "CapPrm", "CapInh", "CapAmb"].map(|set| of_threads(child.id(), set));
    let begun = Instant::now();
    let none = BTreeSet::from(["0000000000000000".to_owned()]);
    let mut are_empty = false;
    while !are_empty && begun.elapsed() < Duration::from_secs(20) {
        thread::sleep(Duration::from_millis(50));
        are_empty = sets().into_iter().all(|set| set.is_ok_and(|set| set == none));
    }
    let seen = format!("{:?}", of_threads(child.id(), "CapEff")?);
    child.stdin.take();
    child.wait()?;
    Ok(vec![Check::that("lint holds no capabilities as it reads", are_empty, seen)])
}
