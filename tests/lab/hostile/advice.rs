//! Sockets held in ways that make obvious advice harmful: what `diagnose` then tells people to do.

use std::{
    fs,
    net::{SocketAddr, SocketAddrV4, TcpStream},
    path::Path,
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use floodmark::verdict::{Diagnosis, Step};

use super::{Case, Check, Target, target::Attacker};
use crate::{agent::Agent, topology::Namespace};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "systemd_socket",
        attack: "systemd holds a socket from which nobody accepts",
        run: systemd_socket,
    },
    Case { name: "prefork", attack: "workers accept, their parent never does", run: prefork },
    Case {
        name: "look_alike",
        attack: "programs whose names begin like a server's do not accept",
        run: look_alike,
    },
];

/// Listens on its first argument's port, has as many children as its second says, and never accepts.
const STUCK: &str = include_str!("stuck.py");
const PORT: u16 = 7010;
/// Connections to a queue that holds nine.
const CLIENTS: usize = 40;

/// A namespace with a program that does not accept, and what `diagnose` makes of it.
struct Stuck {
    netns: Namespace,
    server: Attacker,
}

impl Stuck {
    /// Starts it under a program's name.
    fn start(target: &Target, program: &str, children: u32) -> Result<Self> {
        let label = format!("fmlab-{}-{program}", std::process::id());
        let netns = Namespace::new(label.chars().take(60).collect())?;
        let python = fs::canonicalize("/usr/bin/python3").context("finding python3")?;
        let copy = target.directory().join(program);
        fs::copy(python, &copy).context("copying python3")?;
        let mut command = netns.command(&copy)?;
        command.args(["-c", STUCK, &PORT.to_string(), &children.to_string()]);
        let server = target.spawn(&mut command)?;
        thread::sleep(Duration::from_secs(1));
        Ok(Self { netns, server })
    }

    fn diagnose(&self, agent: &Path) -> Result<Diagnosis> {
        let agent = Agent::start(agent, None, &[self.netns.name()])?;
        let addr = SocketAddr::from(SocketAddrV4::new([127, 0, 0, 1].into(), PORT));
        let connect = || {
            let wait = Duration::from_millis(20);
            let streams = (0..CLIENTS).filter_map(|_| TcpStream::connect_timeout(&addr, wait).ok());
            streams.collect::<Vec<_>>()
        };
        let _connected = self.netns.inside(connect)?;
        // For some looks at the queue, and SYNs that are sent again.
        thread::sleep(Duration::from_secs(5));
        agent.finish()
    }
}

fn commands(diagnosis: &Diagnosis) -> Vec<String> {
    let of_step = |step: &Step| [&step.now[..], &step.commands].concat();
    diagnosis.advice.iter().flat_map(of_step).collect()
}

fn is_found(diagnosis: &Diagnosis) -> Check {
    let found: Vec<&str> = diagnosis.findings.iter().map(|finding| finding.cause.name()).collect();
    Check::that("the full queue is found", !found.is_empty(), found.join(", "))
}

fn systemd_socket(target: &Target) -> Result<Vec<Check>> {
    let stuck = Stuck::start(target, "systemd", 0)?;
    let diagnosis = stuck.diagnose(&target.agent)?;
    let commands = commands(&diagnosis);
    let pid = stuck.server.pid().to_string();
    let harmful = |line: &&String| {
        ["gdb", "py-spy", "restart systemd", "restart init"].iter().any(|word| line.contains(word))
            || line.contains(&format!("/proc/{pid}/"))
    };
    let harm: Vec<&String> = commands.iter().filter(harmful).collect();
    let unit = commands.iter().find(|line| line.contains("list-sockets"));
    Ok(vec![
        is_found(&diagnosis),
        Check::that(
            "systemd is neither traced nor restarted",
            harm.is_empty(),
            format!("{harm:?}"),
        ),
        Check::that("the socket unit is asked for", unit.is_some(), format!("{unit:?}")),
    ])
}

fn prefork(target: &Target) -> Result<Vec<Check>> {
    let stuck = Stuck::start(target, "python3", 3)?;
    let diagnosis = stuck.diagnose(&target.agent)?;
    let text: Vec<String> = diagnosis
        .advice
        .iter()
        .map(|step| format!("{} {}", step.what, step.commands.join(" ")))
        .collect();
    let parent = stuck.server.pid();
    let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"))?;
    let words = |pid: &str| {
        let is_digit = |c: char| !c.is_ascii_digit();
        text.iter().any(|text| text.split(is_digit).any(|word| word == pid))
    };
    let named: Vec<&str> = children.split_whitespace().filter(|pid| words(pid)).collect();
    Ok(vec![
        is_found(&diagnosis),
        Check::that("the parent is not named", !words(&parent.to_string()), text.join(" | ")),
        Check::that("its workers are", named.len() == 3, format!("{named:?} of {children}")),
    ])
}

fn look_alike(target: &Target) -> Result<Vec<Check>> {
    let mut checks = Vec::new();
    for program in ["node-problem-detector", "nginx-prometheus-exporter", "redis_exporter"] {
        let stuck = Stuck::start(target, program, 0)?;
        let diagnosis = stuck.diagnose(&target.agent)?;
        let owners = diagnosis.report.listeners.iter().flat_map(|it| it.listener.owners.iter());
        let servers: Vec<_> = owners.map(|owner| owner.server).collect();
        let is_unknown = !servers.is_empty() && servers.iter().all(Option::is_none);
        let limit = format!("{program} is no server that is known");
        checks.push(Check::that(limit, is_unknown, format!("{servers:?}")));
    }
    Ok(checks)
}
