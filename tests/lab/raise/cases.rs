//! What else it is to raise, and what not.

use std::{fs, process::Stdio};

use anyhow::{Context, Result};
use nix::sys::signal::Signal;

use super::stage::{SOMAXCONN, Said, Server, Stage, somaxconn, this_program};
use crate::{
    app,
    check::Check,
    nginx::{self, NGINX},
};

const PORT: u16 = app::PORT;
const WORKERS: usize = 3;

/// nginx with a socket for each worker.
fn nginx(stage: &Stage) -> Result<Server> {
    let configuration = format!(
        "daemon off; user root; pid nginx.pid; worker_processes {WORKERS}; error_log error.log;
events {{ worker_connections 64; }}
http {{ access_log off; client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fcgi;
uwsgi_temp_path uwsgi; scgi_temp_path scgi;
server {{ listen {PORT} reuseport backlog=9; return 204; }} }}
"
    );
    fs::write(stage.directory.join("nginx.conf"), configuration).context("writing nginx.conf")?;
    let master = nginx::spawn(stage.host().command(NGINX)?, &stage.directory)?;
    // The master takes its workers along.
    stage.served(master, PORT, Signal::SIGTERM)
}

/// The stand-in application, with or without a PID namespace of its own.
fn stand_in(stage: &Stage, is_contained: bool, backlog: u32) -> Result<Server> {
    let program = this_program()?;
    let mut command = if is_contained {
        let mut unshare = stage.host().command("unshare")?;
        unshare.args(["--pid", "--fork", "--kill-child", "--mount-proc"]).arg(program);
        unshare
    } else {
        stage.host().command(program)?
    };
    command.args(["app", &PORT.to_string(), &backlog.to_string()]);
    let server = command.stdin(Stdio::null()).spawn().context("starting the application")?;
    // unshare(1) ignores SIGTERM, and takes its child along.
    stage.served(server, PORT, Signal::SIGKILL)
}

fn check(what: &str, said: &Said, status: i32, holds: bool, seen: &str) -> Check {
    let said_last = said.err.lines().last().or(said.out.lines().last()).unwrap_or_default();
    let seen = format!("{seen}; status {}: {}", said.status, said_last.trim());
    Check::that(what, holds && said.status == status, seen)
}

pub(super) fn group(stage: &Stage) -> Result<Vec<Check>> {
    let nginx = nginx(stage)?;
    let mut checks = Vec::new();
    for (words, limit, somaxconn) in [("--backlog 700", 700, 700), ("--undo", 9, SOMAXCONN)] {
        let said = stage.raise(&format!("--pid {} {words}", nginx.pid()))?;
        let state = (stage.limits(PORT)?, stage.somaxconn()?);
        let holds = state == (vec![limit; WORKERS], somaxconn);
        checks.push(check(words, &said, 0, holds, &format!("{state:?}")));
    }
    Ok(checks)
}

pub(super) fn container(stage: &Stage) -> Result<Vec<Check>> {
    let _server = stand_in(stage, true, 5)?;
    let own = somaxconn()?;
    let by_address = format!("{PORT} --netns {} --backlog 600 --json", stage.host().name());
    let said = stage.raise(&by_address)?;
    let state = (stage.limits(PORT)?, stage.somaxconn()?, somaxconn()?);
    let raised =
        check("by address", &said, 0, state == (vec![600], 600, own), &format!("{state:?}"));
    let plan: serde_json::Value = serde_json::from_str(&said.out).context(said.err)?;
    let pid = &plan["sockets"][0]["pids"][0];
    let said = stage.raise(&format!("--pid {pid} --undo"))?;
    let state = (stage.limits(PORT)?, stage.somaxconn()?);
    let holds = state == (vec![5], SOMAXCONN);
    Ok(vec![raised, check("by pid, undone", &said, 0, holds, &format!("{state:?}"))])
}

pub(super) fn restarted(stage: &Stage) -> Result<Vec<Check>> {
    let at = format!("0.0.0.0:{PORT} --netns {}", stage.host().name());
    let server = stand_in(stage, false, 5)?;
    let said = stage.raise(&format!("{at} --backlog 100"))?;
    let raised = check("raised", &said, 0, stage.limits(PORT)? == [100], "");
    drop(server);
    // The configuration was changed as well, to the very same.
    let _server = stand_in(stage, false, 100)?;
    let said = stage.raise(&format!("{at} --undo"))?;
    let limits = stage.limits(PORT)?;
    let holds = limits == [100] && said.err.contains("the process restarted");
    let left =
        check("the new process keeps its own choice", &said, 0, holds, &format!("{limits:?}"));
    Ok(vec![raised, left])
}

/// Words, and what the one line says.
const REFUSED: &[(&str, &str)] = &[
    ("--backlog 4", "takes 5 connections already"),
    ("--backlog 0", "0 is not in 1..="),
    ("--backlog 9 --pid 1", "no such TCP listener"),
    ("--backlog 9 --netns nowhere", "no network namespace with that name"),
];

pub(super) fn refused(stage: &Stage) -> Result<Vec<Check>> {
    let _server = stand_in(stage, false, 5)?;
    let is_same = || {
        Ok::<_, anyhow::Error>((stage.limits(PORT)?, stage.somaxconn()?) == (vec![5], SOMAXCONN))
    };
    let at = |words: &str| format!("{PORT} --netns {} {words}", stage.host().name());
    let mut checks = Vec::new();
    let nobody = ["--reuid", "65534", "--regid", "65534", "--clear-groups"];
    let no_ptrace = ["--bounding-set", "-sys_ptrace"];
    for (what, arguments) in [("user 65534", &nobody[..]), ("without CAP_SYS_PTRACE", &no_ptrace)] {
        let said = stage.raise_by("setpriv", arguments, &at("--backlog 9"))?;
        let is_told = said.err.contains("run as root") && said.err.lines().count() == 1;
        checks.push(check(what, &said, 2, is_told && is_same()?, ""));
    }
    for (words, why) in REFUSED {
        let said = match words.contains("--netns") {
            true => stage.raise(&format!("{PORT} {words}"))?,
            false => stage.raise(&at(words))?,
        };
        let is_told = said.err.contains(why) && said.err.lines().count() == 1;
        checks.push(check(words, &said, 2, is_told && is_same()?, ""));
    }
    Ok(checks)
}
