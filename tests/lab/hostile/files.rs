//! Files that somebody else controls: logs, nginx's modules, whatever a command is given to read or
//! write.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::Write,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use nix::{sys::stat::Mode, unistd::mkfifo};

use super::{Case, Check, Target, command::Ended, target::Served};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "log-fifo",
        attack: "the owner of a log exchanges it with a FIFO all the time",
        run: log_and_fifo,
    },
    Case {
        name: "log-links",
        attack: "logs are links to procfs and devices, directories, sockets",
        run: links_for_logs,
    },
    Case { name: "log-sparse", attack: "a log of 4 TiB without a line appears", run: sparse_log },
    Case {
        name: "module-fifo",
        attack: "a process named nginx puts a FIFO at its module's path",
        run: |target| swapped_module(target, "fifo"),
    },
    Case {
        name: "module-zero",
        attack: "a process named nginx puts a link to /dev/zero at its module's path",
        run: |target| swapped_module(target, "zero"),
    },
    Case {
        name: "endless-input",
        attack: "commands are given devices, FIFOs and endless input to read",
        run: endless_input,
    },
    Case {
        name: "planted-links",
        attack: "links lie where commands write their files",
        run: planted_links,
    },
];

/// A line of nginx's that is an event of now.
pub(super) fn line() -> Result<String> {
    let date = Command::new("date").args(["-u", "+%Y/%m/%d %H:%M:%S"]).output()?.stdout;
    Ok(format!(
        "{} [error] 1#1: *1 connect() failed (111: Connection refused) while connecting to upstream, \
         client: 10.9.9.9, server: , request: \"GET / HTTP/1.1\", upstream: \
         \"http://10.0.0.1:8000/\"\n",
        String::from_utf8(date)?.trim()
    ))
}

fn log_and_fifo(target: &Target) -> Result<Vec<Check>> {
    let log = target.directory().join("error.log");
    fs::write(&log, line()?.repeat(1000))?;
    let shown = log.display().to_string();
    let served = target.serve(&["--nginx-error-log", &shown])?;
    within(Duration::from_secs(30), || is_ticking(&served))?;
    let mut attacker = target.python(include_str!("log-fifo.py"), &[&shown, "6"])?;
    let core = served.core_percent(Duration::from_secs(4))?;
    let health = served.answers_health_check();
    attacker.wait()?;
    let events = || {
        let source = format!("source=\"{shown}\"");
        let values = served.metric("floodmark_source_events_total", &[&source])?;
        Ok::<f64, anyhow::Error>(values.into_iter().sum())
    };
    // Until what was read anew meanwhile is done with.
    thread::sleep(Duration::from_secs(3));
    let before = events()?;
    OpenOptions::new().append(true).open(&log)?.write_all(line()?.as_bytes())?;
    let follows = within(Duration::from_secs(20), || Ok(events()? > before))?;
    Ok(vec![
        health,
        Check::at_most("processor time", "% of a core", core, 75.0),
        Check::that("the log is followed afterwards", follows, format!("{before} events before")),
        Check::at_most("resident memory", "MiB", served.peak_mib()?, 96.0),
    ])
}

fn links_for_logs(target: &Target) -> Result<Vec<Check>> {
    let names = [
        "/proc/kallsyms",
        "/proc/self/mountinfo",
        "/dev/zero",
        "/dev/tty",
        "/sys/kernel/notes",
        "/",
    ];
    let mut arguments = Vec::new();
    for (number, leads_to) in names.iter().enumerate() {
        let log = target.directory().join(format!("log{number}"));
        symlink(leads_to, &log)?;
        arguments.extend(["--nginx-error-log".to_owned(), log.display().to_string()]);
    }
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let served = target.serve(&arguments)?;
    within(Duration::from_secs(30), || is_ticking(&served))?;
    let core = served.core_percent(Duration::from_secs(5))?;
    let lines: f64 = served.metric("floodmark_source_lines_total", &[])?.into_iter().sum();
    let refused = served.metric("floodmark_source_errors_total", &[])?;
    let log = served.log()?;
    let warnings = log.lines().filter(|line| line.contains("cannot read")).count();
    Ok(vec![
        served.answers_health_check(),
        Check::at_most("processor time", "% of a core", core, 20.0),
        Check::that("nothing of them is read", lines == 0.0, format!("{lines} lines")),
        Check::that(
            "each is counted",
            refused.len() == names.len() && refused.iter().all(|count| *count > 0.0),
            format!("{refused:?}"),
        ),
        Check::that("each is warned of once", warnings == names.len(), format!("{warnings} lines")),
    ])
}

fn sparse_log(target: &Target) -> Result<Vec<Check>> {
    let log = target.directory().join("error.log");
    let shown = log.display().to_string();
    let served = target.serve(&["--nginx-error-log", &shown])?;
    within(Duration::from_secs(30), || is_ticking(&served))?;
    File::create(&log)?.set_len(4 << 40)?;
    thread::sleep(Duration::from_secs(1));
    let core = served.core_percent(Duration::from_secs(5))?;
    OpenOptions::new().append(true).open(&log)?.write_all(format!("\n{}", line()?).as_bytes())?;
    let events = || served.metric("floodmark_source_events_total", &[]);
    let reads_on = within(Duration::from_secs(20), || Ok(events()? == [1.0]))?;
    let skipped = served.metric("floodmark_source_skipped_bytes_total", &[])?;
    Ok(vec![
        served.answers_health_check(),
        Check::at_most("processor time", "% of a core", core, 75.0),
        Check::at_most("resident memory", "MiB", served.peak_mib()?, 96.0),
        Check::that("the line at its end is read", reads_on, format!("{:?}", events()?)),
        Check::that(
            "what is skipped is counted",
            skipped.iter().all(|bytes| *bytes > 0.0),
            format!("{skipped:?}"),
        ),
    ])
}

fn swapped_module(target: &Target, kind: &str) -> Result<Vec<Check>> {
    let directory = target.directory().display().to_string();
    // By its executable, as the agent tells an nginx.
    let program = target.directory().join("nginx");
    fs::copy("/usr/bin/python3", &program)?;
    let mut attack = Command::new(&program);
    attack.args(["-c", include_str!("module-swap.py"), kind, &directory]);
    let _attacker = target.spawn(&mut attack)?;
    let is_ready =
        within(Duration::from_secs(20), || Ok(target.directory().join("ready").exists()))?;
    ensure!(is_ready, "the attacker does not start");
    let begun = Instant::now();
    let served = match target.serve(&["--nginx-uprobes"]) {
        Err(error) => {
            let log = fs::read_to_string(target.directory().join("log")).unwrap_or_default();
            let needs = log.lines().find(|line| line.contains("observing nginx with uprobes"));
            let needs = needs.with_context(|| format!("{error:#}"))?;
            return Ok(vec![Check::that(
                "uprobes are possible here",
                true,
                format!("no: {needs}"),
            )]);
        }
        Ok(served) => served,
    };
    let ticks = within(Duration::from_secs(30), || is_ticking(&served))?;
    let took = begun.elapsed().as_secs_f64();
    let core = served.core_percent(Duration::from_secs(8))?;
    Ok(vec![
        Check::that("the agent starts", ticks, format!("after {took:.1} s")),
        served.answers_health_check(),
        Check::at_most("processor time", "% of a core", core, 20.0),
        Check::at_most("resident memory", "MiB", served.peak_mib()?, 160.0),
    ])
}

pub(super) fn is_ticking(served: &Served) -> Result<bool> {
    Ok(served.metric("floodmark_tick_duration_seconds ", &[]).is_ok_and(|ticks| !ticks.is_empty()))
}

fn endless_input(target: &Target) -> Result<Vec<Check>> {
    let at = |name: &str| target.directory().join(name).display().to_string();
    let (fifo, zeros) = (at("fifo"), "/dev/zero");
    mkfifo(Path::new(&fifo), Mode::S_IRUSR | Mode::S_IWUSR)?;
    symlink(zeros, at("endless.conf"))?;
    File::create(at("huge"))?.set_len(1 << 40)?;
    fs::write(
        at("web.yml"),
        format!("tls_server_config:\n  cert_file: {zeros}\n  key_file: {zeros}\n"),
    )?;
    let (huge, web, copy) = (at("huge"), at("web.yml"), at("copy.fmr"));
    let directory = target.directory().display().to_string();
    let commands: &[(&[&str], &str)] = &[
        (&["lint", zeros], "/dev/null"),
        (&["lint", &fifo], "/dev/null"),
        (&["lint", &huge], "/dev/null"),
        (&["lint", "-"], zeros),
        (&["lint", "--root", &directory, "/endless.conf"], "/dev/null"),
        (&["replay", zeros], "/dev/null"),
        (&["replay", &fifo], "/dev/null"),
        (&["replay", &huge], "/dev/null"),
        (&["diagnose", zeros], "/dev/null"),
        (&["diagnose", "/proc/kallsyms"], "/dev/null"),
        (&["report", zeros], "/dev/null"),
        (&["record", &copy, "--redact-from", &fifo], "/dev/null"),
        (&["config", "check", zeros], "/dev/null"),
        (&["config", "check", &fifo], "/dev/null"),
        (&["config", "check", &huge], "/dev/null"),
        (&["run", "--config", zeros], "/dev/null"),
        (&["run", "--web-config-file", zeros], "/dev/null"),
        (&["run", "--web-config-file", &fifo], "/dev/null"),
        (&["run", "--web-config-file", &web], "/dev/null"),
        (&["run", "--nats", "nats://127.0.0.1:1", "--nats-credentials", zeros], "/dev/null"),
        (&["run", "--nats", "tls://127.0.0.1:1", "--nats-ca", &fifo], "/dev/null"),
    ];
    let refused = commands.iter().map(|(arguments, input)| {
        let what = format!("{} < {input}", arguments.join(" "));
        Ok(Ended::of(&target.agent, arguments, input)?.refused(&what.replace(&directory, ".")))
    });
    refused.collect()
}

/// Each command must leave alone what a link leads to.
fn planted_links(target: &Target) -> Result<Vec<Check>> {
    const PRECIOUS: &str = "not to be written";
    let at = |name: &str| target.directory().join(name);
    fs::write(at("precious"), PRECIOUS)?;
    for name in ["page.html", "incident.fmr", "floodmark-run.1"] {
        symlink(at("precious"), at(name))?;
    }
    symlink(at("created"), at("nowhere.html"))?;
    fs::create_dir(at("state"))?;
    for name in ["positions.json.part", "positions.json.new"] {
        symlink(at("precious"), at("state").join(name))?;
    }
    let shown = |name: &str| at(name).display().to_string();
    let recording = concat!(env!("CARGO_MANIFEST_DIR"), "/corpora/recording/v1.fmr");
    let run = |arguments: &[&str]| Ended::of(&target.agent, arguments, "/dev/null");
    let mut checks = vec![
        run(&["report", recording, "-o", &shown("page.html")])?.refused("report -o LINK"),
        run(&["report", recording, "-o", &shown("nowhere.html")])?
            .refused("report -o LINK to nothing"),
        run(&["record", &shown("incident.fmr"), "--redact-from", recording])?
            .refused("record LINK"),
    ];
    let page = run(&["report", recording, "-o", &shown("new.html")])?;
    checks.push(mode_is(&at("new.html"), 0o600, page.status == 1)?);
    let pages = run(&["man", "--directory", &target.directory().display().to_string()])?;
    checks.push(mode_is(&at("floodmark-run.1"), 0o644, pages.status == 0)?);
    let log = shown("error.log");
    fs::write(&log, "")?;
    {
        let state = shown("state");
        let served = target.serve(&["--nginx-error-log", &log, "--state-dir", &state])?;
        within(Duration::from_secs(20), || is_ticking(&served))?;
        OpenOptions::new().append(true).open(&log)?.write_all(line()?.as_bytes())?;
        thread::sleep(Duration::from_secs(2));
    }
    checks.push(mode_is(&at("state").join("positions.json"), 0o600, true)?);
    let kept = fs::read_to_string(at("precious"))?;
    checks.push(Check::that("what links lead to is untouched", kept == PRECIOUS, kept));
    checks.push(Check::that("nothing is created through a link", !at("created").exists(), ""));
    Ok(checks)
}

fn mode_is(path: &Path, wanted: u32, worked: bool) -> Result<Check> {
    let found = fs::symlink_metadata(path).with_context(|| path.display().to_string())?;
    let mode = found.permissions().mode() & 0o7777;
    let name = path.file_name().unwrap_or_default().display();
    let holds = worked && found.is_file() && mode == Permissions::from_mode(wanted).mode();
    Ok(Check::that(format!("{name} is a file of mode {wanted:o}"), holds, format!("{mode:o}")))
}

/// Whether it becomes true in time.
pub(super) fn within(time: Duration, mut is_so: impl FnMut() -> Result<bool>) -> Result<bool> {
    let begun = Instant::now();
    while begun.elapsed() < time {
        if is_so()? {
            return Ok(true);
        }
        thread::sleep(Duration::from_millis(200));
    }
    Ok(false)
}
